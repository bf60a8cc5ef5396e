"""Object detection, the first task: how trainings and evaluations read data, build nets, and compute and score outputs.

Shape shorthand: B images, (H, W) network input, D detections. The names that search and report need are in settings/task.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from mindspore import Tensor

from spnas_core import metrics
from spnas_core.arch import Arch
from spnas_core.data import images, loader
from spnas_core.data.annotations import Categories
from spnas_core.data.any_set import AnySet
from spnas_core.data.folds import fold_of
from spnas_core.data.images import Floats, Ints
from spnas_core.data.pipeline import ImageCache, run_ahead
from spnas_core.data.samples import Split
from spnas_core.data.splits import DataSet
from spnas_core.job import Data
from spnas_core.jobs.training import StepInputs
from spnas_core.models.build import build
from spnas_core.models.detector import DetectorNet, PyramidNet
from spnas_core.models.ranks import gather_ranks, rank
from spnas_core.models.soft_nms import soft_nms
from spnas_core.names import DETECTIONS_FILE
from spnas_core.settings.detector import Detector
from spnas_core.settings.task import DETECTION, Task
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store


@dataclass(frozen=True)
class TaskWork:
    """Work of one task, as functions: `open_data` opens a data set, `build` creates the net, `batches` yields the inputs of training steps.

    `eval_batches` yields a split in batches of some images, `infer` runs the net on one, `outputs` on a whole split; `score` compares these
    outputs with the split, `document` returns the content of model.json, `fold` deals train and val anew; `outputs_file` is the name of the
    outputs' file in an artifact.
    """

    task: Task
    outputs_file: str
    open_data: Callable[[Data, Store | None], AnySet]
    build: Callable[[Arch, Detector, int, bool], PyramidNet]
    batches: Callable[[Any, Any, Detector, Recipe, int, int, int, ImageCache], Iterator[StepInputs]]
    eval_batches: Callable[[Any, Detector, int, ImageCache | None], Iterator[Any]]
    infer: Callable[[Any, Detector, Floats, Floats], Any]
    outputs: Callable[[Any, Any, Detector, ImageCache | None], Any]
    score: Callable[[Any, Any, metrics.Engine], metrics.Scores]
    document: Callable[[str, Detector, Categories, int], dict[str, Any]]
    fold: Callable[[Any, Any, int, int], tuple[Any, Any]]


def open_data(data: Data, store: Store | None) -> DataSet:
    """Open the data set of a job."""
    return DataSet(data.url, data.reading, data.strict, store=store)


def detect(net: DetectorNet, split: Split, settings: Detector, cache: ImageCache | None = None) -> list[dict[str, Any]]:
    """COCO results for all images of a split; label k is category k - 1 of the split.

    Ranks share the batches; every rank gets all results, in the same order as a single process.
    """
    net.set_train(False)
    results = []
    for batch in loader.eval_batches(split, settings.image_size, loader.batch_size(settings.image_size), cache, share=rank().share):
        detections = infer(net, settings, batch.images, batch.image_hw)
        results.append(loader.to_results(batch.ids, *detections, batch.scale, split.categories))
    rounds = zip_longest(*gather_ranks(results), fillvalue=())
    return [result for batches in rounds for batch in batches for result in batch]


def infer(net: DetectorNet, settings: Detector, images: Floats, image_hw: Floats) -> tuple[Floats, Floats, Ints]:
    """Detect in images (B, 3, H, W) of valid size (B, 2); returns boxes (B, D, 4), scores (B, D; 0 = none) and labels (B, D)."""
    boxes, scores, labels = net.infer(Tensor(images), Tensor(image_hw))
    if settings.soft_nms is None:
        return boxes, scores, labels
    batch, most = len(boxes), settings.detections
    detections = np.zeros((batch, most, 4), np.float32), np.zeros((batch, most), np.float32), np.zeros((batch, most), np.int32)
    for image in range(batch):
        rows, lowered = soft_nms(boxes[image], scores[image], labels[image], settings)
        for padded, values in zip(detections, (boxes[image][rows], lowered, labels[image][rows]), strict=True):
            padded[image, : len(rows)] = values
    return detections


def model_document(arch: str, settings: Detector, categories: Categories, bits: int = 16) -> dict[str, Any]:
    """Content of model.json, all that a program needs to use the weights: architecture, settings, labels and preprocessing.

    `bits` are those that 16-bit pictures use, where they were stretched.
    """
    return {
        **({"bits": bits} if bits < 16 else {}),
        "arch": arch,
        "detector": settings.model_dump(mode="json"),
        "classes": [{"label": label, "id": number, "name": name} for label, (number, name) in enumerate(categories, start=1)],
        "preprocessing": {
            "image_size": list(settings.image_size),
            "resize": "bilinear, aspect ratio kept, top left, the rest zero after normalisation",
            "range": "RGB / 255, minus mean, divided by std",
            "mean": images.MEAN.tolist(),
            "std": images.STD.tolist(),
        },
    }


def step_inputs(
    net: DetectorNet, split: Split, settings: Detector, recipe: Recipe, seed: int, epoch: int, first: int, cache: ImageCache
) -> Iterator[StepInputs]:
    """Yield the inputs of the steps of an epoch, from step `first` on, made ahead of the steps; on a rank, its share of each batch."""
    share, steps = rank().share, loader.steps_per_epoch(len(split.samples), recipe.batch)
    stream = loader.train_batches(split, settings.image_size, recipe, settings.max_boxes, seed, epoch, first, cache, share=share)
    return run_ahead(net.inputs(batch, seed, number) for number, batch in enumerate(stream, start=epoch * steps + first))


def evaluation_images(split: Split, settings: Detector, count: int, cache: ImageCache | None) -> Iterator[loader.Batch]:
    """Batches of `count` images of a split."""
    return loader.eval_batches(split, settings.image_size, count, cache)


def score_results(split: Split, results: list[dict[str, Any]], engine: metrics.Engine) -> metrics.Scores:
    """Score COCO results on a split."""
    return metrics.score_detections(split.annotations, results, engine)


WORK = TaskWork(
    task=DETECTION,
    outputs_file=DETECTIONS_FILE,
    open_data=open_data,
    build=build,
    batches=step_inputs,
    eval_batches=evaluation_images,
    infer=infer,
    outputs=detect,
    score=score_results,
    document=model_document,
    fold=fold_of,
)
