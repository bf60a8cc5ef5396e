"""Detections of a trained net for every image of a split, and their score."""

import json
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Tensor

from spnas_core import arch as architecture
from spnas_core import metrics, start
from spnas_core.config import Detector
from spnas_core.data import coco, images, loader
from spnas_core.data.pipeline import ImageCache
from spnas_core.job import EvaluateJob
from spnas_core.models.detector import FasterRCNN
from spnas_core.models.step import set_weights
from spnas_core.store import Store
from spnas_core.training import Report

PIXELS = 1 << 19  # of one batch


def batch_size(image_size: tuple[int, int]) -> int:
    """Images of one evaluation batch: as many as have about half a million pixels, at most 8."""
    return max(1, min(8, PIXELS // (image_size[0] * image_size[1])))


def detect(net: FasterRCNN, split: coco.Split, settings: Detector, cache: ImageCache | None = None) -> list[dict[str, Any]]:
    """COCO results of all images of a split."""
    net.set_train(False)
    results = []
    for batch in loader.eval_batches(split, settings.image_size, batch_size(settings.image_size), cache):
        found = (output.asnumpy() for output in net(Tensor(batch.images), Tensor(batch.image_hw)))
        results += loader.to_results(batch.ids, *found, batch.scale, split.categories)
    return results


def model_document(arch: str, settings: Detector, split: coco.Split) -> dict[str, Any]:
    """Everything that a program needs to use the weights: architecture, settings, labels and preprocessing."""
    return {
        "arch": arch,
        "detector": settings.model_dump(mode="json"),
        "classes": [{"label": label, "id": number, "name": name} for label, (number, name) in enumerate(split.categories, start=1)],
        "preprocessing": {
            "image_size": list(settings.image_size),
            "resize": "bilinear, aspect ratio kept, top left, the rest zero after normalisation",
            "range": "RGB / 255, minus mean, divided by std",
            "mean": images.MEAN.tolist(),
            "std": images.STD.tolist(),
        },
    }


def run(job: EvaluateJob, store: Store, out: Path, report: Report, resume: Path) -> dict[str, Any]:
    """Score weights on a split with pycocotools; leaves the detections in `out` and returns the metrics."""
    del resume  # an evaluation is short enough to start anew
    ms.set_context(mode=ms.GRAPH_MODE)
    split = coco.open_split(job.data.url, job.split, job.data.strict)
    net = FasterRCNN(architecture.parse(job.arch), job.detector, len(split.categories))
    set_weights(net, start.gather(job.weights, store)[1])
    report({"event": "compile"})
    detections = detect(net, split, job.detector)
    (out / "detections.json").write_text(json.dumps(detections))
    return metrics.evaluate(split.annotations, detections, "pycocotools").document()
