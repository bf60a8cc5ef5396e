"""Semantic segmentation, the second task: how trainings and evaluations read data, build nets, and compute and score outputs.

Shape shorthand: B images, K classes, (H, W) network input, (h, w) the finest map, own: px of the image itself.
The outputs of a net on a split are counts, from which all scores follow, and for a few images what the net gave them, for people to see.
"""

import base64
import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from mindspore import Tensor
from PIL import Image

from spnas_core.data.folds import fold_of_masks
from spnas_core.data.images import Floats, Pixels
from spnas_core.data.loader import ALL, batch_size, steps_per_epoch
from spnas_core.data.masks.mask_loader import MaskBatch, mask_eval_batches, mask_train_batches, restore_prediction
from spnas_core.data.masks.mask_samples import MaskSample, MaskSplit
from spnas_core.data.masks.mask_set import MaskSet
from spnas_core.data.pipeline import ImageCache, run_ahead
from spnas_core.errors import JobError
from spnas_core.job import Data
from spnas_core.jobs.detection import TaskWork, model_document
from spnas_core.jobs.training import StepInputs
from spnas_core.mask_metrics import MaskCounts, add_counts, count_masks, no_counts, score_masks
from spnas_core.metrics import Engine, Scores
from spnas_core.models.build import build
from spnas_core.models.detector import PyramidNet
from spnas_core.models.ranks import gather_ranks, rank
from spnas_core.names import SEGMENTATION_FILE
from spnas_core.settings.detector import Detector
from spnas_core.settings.task import SEGMENTATION
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store

PixelInference = Callable[[Floats, Floats], Floats]  # (B, 3, H, W), (B, 2) to scores (B, K, h, w)
PICTURED = 4  # images of each kind (best, worst, others) whose prediction is kept
SHOWN_SIDE = 480  # px, longer side of a kept prediction


def open_masks(data: Data, store: Store | None) -> MaskSet:
    """Open the data set of a job."""
    return MaskSet(data.url, data.reading, data.strict)


def evaluation_batches(
    split: MaskSplit, settings: Detector, count: int, cache: ImageCache | None, share: slice = ALL
) -> Iterator[MaskBatch]:
    """Batches of `count` images of a split."""
    return mask_eval_batches(split, settings.image_size, count, cache, share=share)


def score_pixels(net: PyramidNet, settings: Detector, pixels: Floats, image_hw: Floats) -> Floats:
    """Scores (B, K, h, w) of images (B, 3, H, W) of valid size (B, 2), before softmax; JobError ``diverged`` where one is not finite."""
    scores: Floats
    (scores,) = net.infer(Tensor(pixels), Tensor(image_hw))
    if not np.isfinite(scores).all():
        raise JobError("diverged", "a score of a pixel is not finite")
    return scores


def _predictions(infer: PixelInference, batch: MaskBatch, settings: Detector) -> Iterator[tuple[int, Pixels]]:
    """Row and classes (own height, own width) of each image of a batch that is none of padding."""
    scores = infer(batch.images, batch.image_hw)
    for row in np.flatnonzero(batch.ids >= 0):
        own = int(batch.own_hw[row, 0]), int(batch.own_hw[row, 1])
        yield int(row), restore_prediction(scores[row], batch.image_hw[row], settings.image_size, own)


def segment(net: PyramidNet, split: MaskSplit, settings: Detector, cache: ImageCache | None = None) -> dict[str, Any]:
    """Run a net on all images of a split; returns a JSON document: `counts` (`mask_metrics.MaskCounts`), an entry for each of the `images`.

    An entry has the image's `id` and `name`, and of each class the pixels that are `right`, those of the `truth` and those `found`; a few
    have their `prediction`, a PNG (base64). Ranks share the batches; every rank gets all of it, the same as a single process.
    """
    net.set_train(False)
    return segment_by(partial(score_pixels, net, settings), split, settings, batch_size(settings.image_size), cache)


def segment_by(infer: PixelInference, split: MaskSplit, settings: Detector, count: int, cache: ImageCache | None = None) -> dict[str, Any]:
    """Give outputs as those of `segment`, by whatever gives the scores of `count` images at once."""
    classes = len(split.categories)
    whole, entries = no_counts(classes), list[dict[str, Any]]()
    for batch in evaluation_batches(split, settings, count, cache, rank().share):
        for row, prediction in _predictions(infer, batch, settings):
            sample = split.samples[int(batch.ids[row])]
            counts = count_masks(sample.mask(), prediction, classes)
            whole = add_counts(whole, counts)
            entries.append(_entry(sample, counts, prediction))
    parts = gather_ranks([_document(whole), entries])
    joined = sorted((one for _, own in parts for one in own), key=lambda one: int(one["id"]))
    total = no_counts(classes)
    for counts, _ in parts:
        total = add_counts(total, counts_of(counts))
    return {"counts": _document(total), "images": _with_few_predictions(joined)}


def _document(counts: MaskCounts) -> dict[str, Any]:
    return {"confusion": counts.confusion.tolist(), "boundary": counts.boundary.tolist()}


def counts_of(document: dict[str, Any]) -> MaskCounts:
    """Read the counts of a document of outputs."""
    return MaskCounts(*(np.array(document[name], np.int64) for name in ("confusion", "boundary")))


def _entry(sample: MaskSample, counts: MaskCounts, prediction: Pixels) -> dict[str, Any]:
    shown = Image.fromarray(prediction)
    ratio = min(1.0, SHOWN_SIDE / max(shown.size))
    shown = shown.resize((max(1, round(ratio * shown.width)), max(1, round(ratio * shown.height))), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    shown.save(stream, "PNG")
    table = counts.confusion
    pixels = {"right": np.diagonal(table), "truth": table.sum(1), "found": table.sum(0)}
    facts = {"id": sample.image_id, "name": sample.name, **{name: array.tolist() for name, array in pixels.items()}}
    return {**facts, "prediction": base64.b64encode(stream.getvalue()).decode()}


def own_miou(entry: dict[str, Any]) -> float:
    """Mean IoU of one image, over the classes that its mask or the prediction has; -1 where all of it is ignored."""
    right, truth, found = (np.array(entry[name], np.float64) for name in ("right", "truth", "found"))
    union = truth + found - right
    return float((right[union > 0] / union[union > 0]).mean()) if (union > 0).any() else -1.0


def _with_few_predictions(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the predictions of the best, of the worst, and of evenly chosen other images."""
    order = sorted((n for n, one in enumerate(entries) if own_miou(one) >= 0), key=lambda n: -own_miou(entries[n]))
    each = min(PICTURED, max(1, len(order) // 3))
    middle = sorted(order[each:-each])
    kept = {*order[:each], *order[-each:], *middle[:: max(1, len(middle) // each)][:each]}
    return [one if n in kept else {name: value for name, value in one.items() if name != "prediction"} for n, one in enumerate(entries)]


def score_outputs(split: MaskSplit, outputs: dict[str, Any], engine: Engine) -> Scores:
    """Scores of outputs; there is but one engine."""
    found = score_masks(counts_of(outputs["counts"]), split.class_names)
    return Scores(dict(found.stats), {name: dict(one) for name, one in found.per_class.items()})


def mask_step_inputs(
    net: PyramidNet, split: MaskSplit, settings: Detector, recipe: Recipe, seed: int, epoch: int, first: int, cache: ImageCache
) -> Iterator[StepInputs]:
    """Yield the inputs of the steps of an epoch, from step `first` on, made ahead of the steps; on a rank, its share of each batch."""
    steps = steps_per_epoch(len(split.samples), recipe.batch)
    stream = mask_train_batches(split, settings.image_size, recipe, seed, epoch, first, cache, share=rank().share)
    return run_ahead(net.inputs(batch, seed, number) for number, batch in enumerate(stream, start=epoch * steps + first))


SEGMENTATION_WORK = TaskWork(
    task=SEGMENTATION,
    outputs_file=SEGMENTATION_FILE,
    open_data=open_masks,
    build=build,
    batches=mask_step_inputs,
    eval_batches=evaluation_batches,
    infer=score_pixels,
    outputs=segment,
    score=score_outputs,
    document=model_document,
    fold=fold_of_masks,
)
