"""Detections of a trained net for every image of a split, and their score."""

import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from spnas_core import arch as architecture
from spnas_core import metrics
from spnas_core.data import images, loader
from spnas_core.data.images import Floats, Ints
from spnas_core.data.pipeline import ImageCache
from spnas_core.data.splits import Categories, Split, check_fingerprint, open_split
from spnas_core.errors import UserError
from spnas_core.job import EvaluateJob
from spnas_core.jobs import initial_weights
from spnas_core.jobs.progress import JobContext
from spnas_core.models.build import build
from spnas_core.models.detector import DetectorNet
from spnas_core.models.ranks import gather_ranks, rank
from spnas_core.models.soft_nms import soft_nms
from spnas_core.models.step import get_weights, set_weights
from spnas_core.names import DETECTIONS_FILE
from spnas_core.settings.detector import Detector
from spnas_core.store.artifacts import Store
from spnas_core.weights import adopt, model_folder
from spnas_core.weights.model_folder import Model

PIXELS = 1 << 19  # of one batch


def batch_size(image_size: tuple[int, int]) -> int:
    """Images of one evaluation batch: as many as have about half a million pixels, at most 8."""
    return max(1, min(8, PIXELS // (image_size[0] * image_size[1])))


def detect(
    net: DetectorNet, split: Split, settings: Detector, cache: ImageCache | None = None, categories: Categories | None = None
) -> list[dict[str, Any]]:
    """COCO results of all images of a split; label k is category k - 1 of `categories`, by default those of the split.

    Ranks share the batches, and all get the results of all, in the order in which one alone has them.
    """
    net.set_train(False)
    results = []
    for batch in loader.eval_batches(split, settings.image_size, batch_size(settings.image_size), cache, share=rank().share):
        found = infer(net, settings, batch.images, batch.image_hw)
        results.append(loader.to_results(batch.ids, *found, batch.scale, categories or split.categories))
    rounds = zip_longest(*gather_ranks(results), fillvalue=())
    return [one for batches in rounds for batch in batches for one in batch]


def infer(net: DetectorNet, settings: Detector, images: Floats, image_hw: Floats) -> tuple[Floats, Floats, Ints]:
    """Find in images (B, 3, H, W) of valid size (B, 2): boxes (B, D, 4), scores (B, D; 0 = none) and labels (B, D)."""
    boxes, scores, labels = (output.asnumpy() for output in net(Tensor(images), Tensor(image_hw)))
    if settings.soft_nms is None:
        return boxes, scores, labels
    batch, most = len(boxes), settings.detections
    found = np.zeros((batch, most, 4), np.float32), np.zeros((batch, most), np.float32), np.zeros((batch, most), np.int32)
    for image in range(batch):
        rows, lowered = soft_nms(boxes[image], scores[image], labels[image], settings)
        for padded, values in zip(found, (boxes[image][rows], lowered, labels[image][rows]), strict=True):
            padded[image, : len(rows)] = values
    return found


def model_document(arch: str, settings: Detector, categories: Categories) -> dict[str, Any]:
    """Everything that a program needs to use the weights: architecture, settings, labels and preprocessing."""
    return {
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


def run(job: EvaluateJob, store: Store, out: Path, context: JobContext) -> dict[str, Any]:
    """Score weights on a split with pycocotools; leaves the detections in `out` and returns the metrics. A stopped one starts anew."""
    ms.set_context(mode=ms.GRAPH_MODE)
    named = [job.data.train, job.data.val] if job.split in (job.data.train, job.data.val) else [job.split]  # in the data's fingerprint
    splits = {name: open_split(job.data.url, name, job.data.strict) for name in named}
    split = splits[job.split]
    if rank().first:
        check_fingerprint(list(splits.values()), job.data)
    net = build(architecture.parse(job.arch), job.detector, len(split.categories))
    set_weights(net, initial_weights.merge_weights(job.weights, store)[1])
    context.report({"event": "compile"})
    detections = detect(net, split, job.detector)
    if not rank().first:
        return {}
    (out / DETECTIONS_FILE).write_text(json.dumps(detections))
    return metrics.score_detections(split.annotations, detections, "pycocotools").document()


def open_model(model: str) -> tuple[DetectorNet, Model]:
    """Build the net of a model folder (path or URL) with its weights; also returns its `model.json`. UserError where it is not one."""
    card, weights = model_folder.open_model_folder(model)
    ms.set_context(mode=ms.GRAPH_MODE)
    net = build(architecture.parse(card.arch), card.detector, len(card.classes))
    try:
        set_weights(net, adopt.load_same(get_weights(net), weights)[0])
    except UserError as error:
        raise UserError(f"model {model}: {error}") from error
    return net.set_train(False), card


def score_model(model: str, data_url: str, name: str) -> dict[str, Any]:
    """Metrics of a model folder on a split, by pycocotools; UserError where the split has a category that the model has not."""
    net, card = open_model(model)
    split = open_split(data_url, name)
    known = {one.id: one.name for one in card.classes}
    if strangers := [one for one in split.categories if known.get(one[0]) not in (one[1], str(one[0]))]:
        raise UserError(f"{data_url} {name}: expected categories of the model, {known}, got {strangers[0]}")
    results = detect(net, split, card.detector, categories=tuple(known.items()))
    there = {number for number, _ in split.categories}
    results = [one for one in results if one["category_id"] in there]
    return metrics.score_detections(split.annotations, results, "pycocotools").document()
