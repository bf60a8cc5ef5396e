"""Folder of ONNX networks to measure on another device, with new weights, and the script that measures them."""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from spnas_core.arch import Arch
from spnas_core.errors import UserError
from spnas_core.export.convert import write_files
from spnas_core.export.folder import BENCHMARK, SHIPPED, check_empty
from spnas_core.jobs import detection
from spnas_core.names import MODEL_FILE
from spnas_core.settings.detector import Detector
from spnas_core.weights.model_folder import Model
from spnas_core.weights.net_shapes import net_shapes
from spnas_core.weights.tensor_names import Arrays


def new_weights(arch: Arch, detector: Detector, classes: int) -> Arrays:
    """Random weights with which a net takes as long as a trained one: its values neither vanish nor overflow, and it finds few objects."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in net_shapes(arch, detector, classes).items():
        kind = name.rsplit(".", 1)[-1]
        if kind in ("gamma", "moving_variance"):
            value = np.full(shape, 0.5 if kind == "gamma" else 1.0)
        elif len(shape) == 1:
            value = np.zeros(shape)
            if name.endswith("score.bias") and name.startswith("head"):
                value[0] = 5.0  # the background
        else:
            small = name.startswith(("rpn.score", "rpn.delta")) or ".score" in name or ".delta" in name
            value = rng.normal(0, 0.01 if small else (2 / np.prod(shape[1:])) ** 0.5, shape)
        found[name] = value.astype(np.float32)
    return found


def write_networks(nets: Sequence[tuple[Arch, Detector]], classes: int, out: str) -> Iterator[tuple[str, int]]:
    """Write a folder for each net and `benchmark.py` below `out`, a new or empty folder at any URL; yields each one's name and bytes.

    UserError for a folder that is not empty, or without the package onnx.
    """
    check_empty(out)
    try:
        from spnas_core.export.onnx_model import onnx_model
    except ModuleNotFoundError as error:
        raise UserError(f"expected the package {error.name}, found none: pip install --editable '.[onnx]'") from error
    labels = tuple((label, str(label)) for label in range(1, classes + 1))
    for number, (arch, detector) in enumerate(nets, start=1):
        document = detection.model_document(str(arch), detector, labels)
        content = onnx_model(Model.model_validate(document), new_weights(arch, detector, classes))
        name = f"net{number:02d}"
        write_files({f"{name}/model.onnx": content, f"{name}/{MODEL_FILE}": json.dumps(document, indent=1).encode()}, out)
        yield name, len(content)
    write_files({BENCHMARK: (SHIPPED / BENCHMARK).read_bytes()}, out)
