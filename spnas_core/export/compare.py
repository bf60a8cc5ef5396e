"""Models and exported folders scored side by side on a split: AP, size and time of each."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spnas_core.data import files as places
from spnas_core.data.any_set import AnySplit
from spnas_core.data.loader import eval_batches, to_results
from spnas_core.data.masks.mask_samples import MaskSplit
from spnas_core.errors import UserError
from spnas_core.export.shipped import detect as shipped
from spnas_core.jobs import evaluate
from spnas_core.jobs.segmentation import segment_by
from spnas_core.jobs.works import work_of
from spnas_core.names import MODEL_FILE, WEIGHTS_FILE
from spnas_core.settings.reading import Reading
from spnas_core.settings.task import SEGMENTATION
from spnas_core.weights.model_folder import Model, read_model

Array = npt.NDArray[Any]
Infer = Callable[
    [Array, Array], tuple[Array, ...]
]  # (1, 3, H, W), (1, 2) to boxes (1, D, 4), scores (1, D) and labels (1, D; 0 = none), or to scores
_NETWORKS = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
    "om": ("trunk.onnx", "head0.onnx", "head1.onnx", "head2.onnx"),
    "mindir": ("model.mindir",),
    "torchvision": ("net.py", WEIGHTS_FILE),
    "mindspore": (WEIGHTS_FILE,),
}  # files of the network by format; the first tells it
_TIMED, _PASSES = 64, 3  # images whose inference is timed in each pass over the models


@dataclass(frozen=True)
class Opened:
    """Model ready to run: its `model.json`, format, bytes of the network's files, and inference up to the detections."""

    url: str
    card: Model
    form: str
    size: int
    infer: Infer


@dataclass(frozen=True)
class Compared:
    """Scores of one model on a split, and the time of inference of an image, ms: the median over images of the best of three."""

    model: str
    form: str
    size: int
    milliseconds: float
    scores: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """Content as JSON."""
        return {"model": self.model, "format": self.form, "bytes": self.size, "milliseconds": self.milliseconds, "scores": self.scores}


def network_format(url: str) -> str:
    """Format of the folder at a path or URL: mindspore for a model folder, else that of `spnas export`; UserError for any other."""
    there = places.list_folder(*places.open_url(url))
    for form, (first, *_) in _NETWORKS.items():
        if first in there and MODEL_FILE in there:
            return form
    raise UserError(
        f"model {url}: expected a model folder of a run, or a folder of spnas export, got one with {min(there, default='nothing')}"
    )


def score_side_by_side(models: Sequence[str], data_url: str, name: str, reading: Reading | None = None) -> list[Compared]:
    """Score models on a split, with pycocotools, image by image; then time them in turns, so that all see the same machine."""
    with tempfile.TemporaryDirectory(prefix="spnas-models-") as folder:
        opened = [_open(model, Path(folder, str(number))) for number, model in enumerate(models)]
        splits = [evaluate.open_for_model(one.card, data_url, name, reading) for one in opened]
        _check_tasks(opened)
        scores = [evaluate.score_listed(one.card, *split, _results(one, split[0])) for one, split in zip(opened, splits, strict=True)]
        passes = [[_times(one, split) for one, (split, _) in zip(opened, splits, strict=True)] for _ in range(_PASSES)]
        best = [map(min, zip(*times, strict=True)) for times in zip(*passes, strict=True)]  # of each image
    return [
        Compared(
            one.url,
            one.form + ("-int8" if (one.card.model_extra or {}).get("int8") else ""),
            one.size,
            1e3 * statistics.median(taken),
            found,
        )
        for one, taken, found in zip(opened, best, scores, strict=True)
    ]


def _check_tasks(models: Sequence[Opened]) -> None:
    """UserError for models of different tasks."""
    tasks = {one.card.detector.task.name: one.url for one in models}
    if len(tasks) > 1:
        raise UserError(f"models: expected those of one task, got {', '.join(f'{url} ({name})' for name, url in tasks.items())}")


def _results(model: Opened, split: AnySplit) -> Any:
    """Run a model on all images: COCO results, or those of `jobs/segmentation.py`."""
    if isinstance(split, MaskSplit):
        return segment_by(lambda images, image_hw: model.infer(images, image_hw)[0], split, model.card.detector, 1)
    found = []
    for batch in eval_batches(split, model.card.detector.image_size, 1):
        boxes, scores, labels = model.infer(batch.images, batch.image_hw)
        found += to_results(batch.ids, boxes, scores, labels, batch.scale, split.categories)
    return found


def _times(model: Opened, split: AnySplit) -> list[float]:
    """Seconds of the inference of each of the first images, after one that is not timed."""
    batches = work_of(model.card.detector).eval_batches(split, model.card.detector, 1, None)
    inputs = [(batch.images, batch.image_hw) for batch in islice(batches, _TIMED)]
    model.infer(*inputs[0])
    taken = []
    for one in inputs:
        begun = time.perf_counter()
        model.infer(*one)
        taken.append(time.perf_counter() - begun)
    return taken


def _open(url: str, folder: Path) -> Opened:
    form = network_format(url)
    system, root = places.open_url(url)
    there = places.list_folder(system, root)
    where = places.url_of(system, root)
    if form == "mindspore":
        net, card = evaluate.open_model(url)
        size = places.local_file(f"{where}/{WEIGHTS_FILE}").stat().st_size
        infer = work_of(card.detector).infer
        if card.detector.task is SEGMENTATION:
            return Opened(url, card, form, size, lambda images, image_hw: (infer(net, card.detector, images, image_hw),))
        return Opened(url, card, form, size, lambda images, image_hw: infer(net, card.detector, images, image_hw))
    folder.mkdir()
    for name in there:  # the network alone: what runs it is this program's own code, not the folder's
        if name in (*_NETWORKS[form], MODEL_FILE) or name.endswith(".om"):
            (folder / name).write_bytes(places.local_file(f"{where}/{name}").read_bytes())
    card = read_model(f"{where}/{MODEL_FILE}")
    size = sum((folder / name).stat().st_size for name in _NETWORKS[form] if name in there)
    try:
        run = shipped.open_network(folder)
    except ModuleNotFoundError as error:
        raise UserError(f"model {url}: expected the package {error.name}, which runs it, found none") from error
    return Opened(url, card, form, size, _with_soft_nms(run, card))


def _with_soft_nms(run: shipped.Run, card: Model) -> Infer:
    if card.detector.task is SEGMENTATION:
        return lambda images, image_hw: tuple(np.asarray(one) for one in run(images, image_hw))
    settings = card.detector.model_dump()

    def infer(images: Array, image_hw: Array) -> tuple[Array, ...]:
        boxes, scores, labels = (np.asarray(one[0]) for one in run(images, image_hw))
        if settings["soft_nms"]:
            boxes, scores, labels = shipped.soft_nms(boxes, scores, labels, settings)
        return boxes[None], scores[None], labels[None]

    return infer
