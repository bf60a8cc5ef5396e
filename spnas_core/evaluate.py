"""Detections of a trained net for every image of a split, and their score."""

import json
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Tensor
from safetensors.numpy import load_file

from spnas_core import arch as architecture
from spnas_core import metrics, start
from spnas_core.audit import check_fit, shapes_of
from spnas_core.config import Detector
from spnas_core.data import coco, files, loader
from spnas_core.data.pipeline import ImageCache
from spnas_core.errors import UserError
from spnas_core.job import EvaluateJob
from spnas_core.model_folder import MODEL
from spnas_core.models.detector import FasterRCNN
from spnas_core.models.step import get_weights, set_weights
from spnas_core.store import Store
from spnas_core.training import Report

Categories = tuple[tuple[int, str], ...]
PIXELS = 1 << 19  # of one batch


def batch_size(image_size: tuple[int, int]) -> int:
    """Images of one evaluation batch: as many as have about half a million pixels, at most 8."""
    return max(1, min(8, PIXELS // (image_size[0] * image_size[1])))


def detect(
    net: FasterRCNN, split: coco.Split, settings: Detector, cache: ImageCache | None = None, categories: Categories | None = None
) -> list[dict[str, Any]]:
    """COCO results of all images of a split; `categories` are id and name of the net's labels where they are not those of the split."""
    net.set_train(False)
    results = []
    for batch in loader.eval_batches(split, settings.image_size, batch_size(settings.image_size), cache):
        boxes, scores, labels = (output.asnumpy() for output in net(Tensor(batch.images), Tensor(batch.image_hw)))
        results += loader.to_results(batch.ids, boxes, scores, labels, batch.scale, categories or split.categories)
    return results


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


def open_model(model: str) -> tuple[FasterRCNN, dict[str, Any]]:
    """Build the net of a model folder (path or URL) with its weights; also returns its `model.json`. UserError where it is not one."""
    system, root = files.open_url(model)
    where = files.full_url(system, root)
    if missing := {MODEL, start.FILE} - files.list_folder(system, root).keys():
        raise UserError(f"model {model}: expected a folder with {MODEL} and {start.FILE}, got none with {min(missing)}")
    ms.set_context(mode=ms.GRAPH_MODE)
    document = json.loads(files.local_file(f"{where}/{MODEL}").read_bytes())
    settings = Detector.model_validate(document["detector"])
    net = FasterRCNN(architecture.parse(document["arch"]), settings, len(document["classes"]))
    weights = load_file(files.local_file(f"{where}/{start.FILE}"))
    wanted, given = shapes_of(get_weights(net)), shapes_of(weights)
    check_fit(f"model {model}", dict(wanted.items() - given.items()), dict(given.items() - wanted.items()))
    set_weights(net, weights)
    return net.set_train(False), document


def score_model(model: str, data_url: str, name: str) -> dict[str, Any]:
    """Metrics of a model folder on a split, by pycocotools; detections of categories that the split has not are left out.

    UserError where the split has a category that the model does not know by id and name. A name that is only the id fits any.
    """
    net, document = open_model(model)
    split = coco.open_split(data_url, name)
    known = tuple((one["id"], one["name"]) for one in document["classes"])
    names = dict(known)
    strays = tuple((number, text) for number, text in split.categories if names.get(number) not in (text, str(number)))
    if strays:
        raise UserError(f"{data_url} {name}: expected the model's categories {known}, got {strays}")
    results = detect(net, split, Detector.model_validate(document["detector"]), categories=known)
    wanted = {number for number, _ in split.categories}
    results = [result for result in results if result["category_id"] in wanted]
    return metrics.evaluate(split.annotations, results, "pycocotools").document()
