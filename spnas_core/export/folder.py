"""Exported folder: the network, `model.json`, the code that detects with it, and a model card."""

import json
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor
from safetensors.numpy import save

from spnas_core import arch as architecture
from spnas_core.data import files as places
from spnas_core.errors import UserError
from spnas_core.export.atc import ATC_FILE, atc_commands, atc_script
from spnas_core.export.calibration import Calibration
from spnas_core.export.card import readme
from spnas_core.export.convert import check_parts, write_files
from spnas_core.export.shipped.detect import import_openvino
from spnas_core.jobs import detection, evaluate
from spnas_core.models.detector import PyramidNet
from spnas_core.models.step import get_weights
from spnas_core.names import MODEL_FILE, WEIGHTS_FILE
from spnas_core.search.costs import candidate_cost
from spnas_core.settings.task import DETECTION, SEGMENTATION
from spnas_core.weights.model_folder import Model, read_scores
from spnas_core.weights.torchvision_names import to_module

Format = Literal["mindir", "onnx", "openvino", "om", "torchvision"]
SHIPPED = Path(__file__).parent / "shipped"
DETECT, SEGMENT, NET, PARTS, README, BENCHMARK = "detect.py", "segment.py", "net.py", "parts.py", "README.md", "benchmark.py"
Made = tuple[dict[str, bytes], dict[str, Any]]  # files by name, and what model.json says of them


@dataclass(frozen=True)
class Wish:
    """What an export is to be, beyond its format: a network in INT8, for `onnx`; a SoC, for `om`."""

    calibration: Calibration | None = None
    soc: str = ""


def export_model(model: str, form: Format, wish: Wish = Wish()) -> dict[str, bytes]:
    """Files by name of the model folder at `model`, a path or URL, in another format; UserError if the format does not support the net."""
    net, found = evaluate.open_model(model)
    of_masks = found.detector.task is SEGMENTATION
    if of_masks and form == "torchvision":
        raise UserError(f"--format {form}: expected a detector, got a model of segmentation; the other formats take it")
    makers = {"onnx": _onnx, "openvino": _openvino, "om": _om, "mindir": _mindir, "torchvision": _torchvision}
    files, facts = makers[form](net, found, model, wish)
    categories = tuple((one.id, one.name) for one in found.classes)
    document = found.model_dump(mode="json") | detection.model_document(found.arch, found.detector, categories, found.bits) | facts
    document["scores"] = document.get("scores") or read_scores(model)
    document["source_sha256"] = document.pop("weights_sha256")
    cost = candidate_cost(architecture.parse(found.arch), found.detector, len(found.classes))
    files |= {MODEL_FILE: json.dumps(document, indent=1).encode(), README: readme(form, document, cost).encode()}
    shipped = (DETECT, *((SEGMENT,) if of_masks else ()), *((BENCHMARK,) if form == "onnx" else ()))
    return files | {name: (SHIPPED / name).read_bytes() for name in shipped}


def publish_export(files: dict[str, bytes], url: str) -> None:
    """Write the files to a new or empty folder at any fsspec URL; UserError for one that has files, such as a model."""
    check_empty(url)
    write_files(files, url)


def check_empty(url: str) -> None:
    """Raise UserError if `url` is a file, or a folder that is not empty."""
    system, path = places.open_url(url)
    if places.kind(system, path) == "file":
        raise UserError(f"{url}: expected a new or empty folder for the export, got a file")
    if there := min(places.files_below(system, path), default=None):
        raise UserError(f"{url}: expected a new or empty folder for the export, got one with {posixpath.relpath(there, path)}")


@contextmanager
def _needs_packages(form: Format) -> Iterator[None]:
    """Raise UserError for a package that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = "openvino" if form == "openvino" else "onnx"
        raise UserError(f"--format {form}: expected the package {error.name}, found none: pip install --editable '.[{extra}]'") from error


def _onnx(net: PyramidNet, found: Model, _: str, wish: Wish) -> Made:
    with _needs_packages("onnx"):
        from spnas_core.export.onnx_model import onnx_model

        content = onnx_model(found, get_weights(net))
        if wish.calibration is None:
            return {"model.onnx": content}, {}
        from spnas_core.export.int8 import quantise
    return {"model.onnx": quantise(content, wish.calibration.inputs(found))}, {"int8": wish.calibration.facts()}


def _openvino(net: PyramidNet, found: Model, _: str, __: Wish) -> Made:
    """OpenVINO's IR of the ONNX model, its weights in float32 (OpenVINO's default is float16)."""
    with _needs_packages("openvino"):
        openvino = import_openvino()
        from spnas_core.export.onnx_model import onnx_model
    content = onnx_model(found, get_weights(net))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        openvino.save_model(openvino.Core().read_model(content), path, compress_to_fp16=False)
        return {one.name: one.read_bytes() for one in (path, path.with_suffix(".bin"))}, {}


def _om(net: PyramidNet, found: Model, _: str, wish: Wish) -> Made:
    """Graphs for ATC, its commands, and what runs between the graphs."""
    with _needs_packages("om"):
        from spnas_core.export.cut import cut_levels, cut_parts
    parts = cut_parts(found, get_weights(net))
    files = {f"{name}.onnx": cut.content for name, cut in parts.items()}
    files |= {ATC_FILE: atc_script(atc_commands(parts, wish.soc)), PARTS: (SHIPPED / PARTS).read_bytes()}
    levels = {"levels": cut_levels(found)} if found.detector.task is DETECTION else {}
    return files, {**levels, "soc": wish.soc}


def _mindir(net: PyramidNet, found: Model, _: str, __: Wish) -> Made:
    """MindIR file for one image at a time, since MindSpore compiles for fixed shapes."""
    height, width = found.detector.image_size
    inputs = np.zeros((1, 3, height, width), np.float32), np.array([[height, width]], np.float32)
    with tempfile.TemporaryDirectory() as folder:
        ms.export(net, *map(Tensor, inputs), file_name=f"{folder}/model", file_format="MINDIR")
        return {"model.mindir": Path(folder, "model.mindir").read_bytes()}, {}


def _torchvision(net: PyramidNet, found: Model, model: str, _: Wish) -> Made:
    arch, weights = architecture.parse(found.arch), get_weights(net)
    check_parts(arch, found.detector, model)
    names = to_module(arch, weights)
    return {WEIGHTS_FILE: save({names[name]: array for name, array in weights.items()}), NET: (SHIPPED / NET).read_bytes()}, {}
