"""AP and AR of COCO results, by pycocotools (what is reported) or hotcoco (the same numbers about 70 times faster, inside the search).

All values are fractions in [0, 1], or -1 where the data defines none (no box of that size or class).
"""

import contextlib
import io
import math
from dataclasses import dataclass
from typing import Any, Literal

import hotcoco
import numpy as np
import numpy.typing as npt
from pycocotools import coco, cocoeval

from spnas_core.errors import JobError
from spnas_core.settings.task import DETECTION, task_of_metrics

Engine = Literal["hotcoco", "pycocotools"]
STATS = DETECTION.stats


@dataclass(frozen=True)
class Scores:
    """The twelve numbers of COCO, and AP and AP50 of each class by name."""

    stats: dict[str, float]
    per_class: dict[str, dict[str, float]]

    def document(self) -> dict[str, Any]:
        """Return the metrics as they stand in a manifest."""
        return {**self.stats, "per_class": self.per_class}


def score_detections(annotations: dict[str, Any], results: list[dict[str, Any]], engine: Engine = "pycocotools") -> Scores:
    """Score results (xywh, original px) against a COCO document; every image counts, also those without a detection.

    JobError ``diverged`` for a score or box that is not finite; ValueError for an image or category that the document has not.
    """
    _check(annotations, results)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = hotcoco_evaluation(annotations, results) if engine == "hotcoco" else pycocotools_evaluation(annotations, results)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = np.asarray(evaluation.eval["precision"], np.float64)  # (IoU, recall, class, area, detections)
    names = [category["name"] for category in sorted(annotations["categories"], key=lambda category: category["id"])]
    per_class = {name: {"AP": _mean(precision[:, :, k, 0, -1]), "AP50": _mean(precision[0, :, k, 0, -1])} for k, name in enumerate(names)}
    return Scores(dict(zip(STATS, map(float, evaluation.stats), strict=True)), per_class)


def scores_line(scores: Scores) -> str:
    """Write the log line of Vega, of another task its own scores, in per cent; -1.0 where a value is undefined."""
    names = {"mAP": "AP", "AP50": "AP50", "AP_small": "AP_small", "AP_medium": "AP_medium", "AP_large": "AP_large"}
    if (task := task_of_metrics(scores.stats)) is not DETECTION:
        names = dict(zip(task.stats, task.stats, strict=True))
    values = {shown: scores.stats[name] for shown, name in names.items()}
    text = ", ".join(f"{shown}: {100 * value if value >= 0 else -1.0:.1f}" for shown, value in values.items())
    return f"current valid perfs [{text}]"


def pycocotools_evaluation(annotations: dict[str, Any], results: list[dict[str, Any]]) -> Any:
    """Set up the comparison of pycocotools, which is silent only where its output is redirected."""
    truth = _indexed(annotations)
    # loadRes raises IndexError on no results at all
    found = truth.loadRes([dict(result) for result in results]) if results else _indexed({**annotations, "annotations": []})
    return cocoeval.COCOeval(truth, found, "bbox")


def _indexed(annotations: dict[str, Any]) -> Any:
    """Build a pycocotools data set of a copy: it writes into the annotations."""
    data = coco.COCO()
    data.dataset = {**annotations, "annotations": [dict(mark) for mark in annotations["annotations"]]}
    data.createIndex()
    return data


def hotcoco_evaluation(annotations: dict[str, Any], results: list[dict[str, Any]]) -> Any:
    """Set up hotcoco's comparison of results with a COCO document; the n-th result has the id n, from 1 on."""
    truth = hotcoco.COCO(annotations)
    found = truth.loadRes(results) if results else hotcoco.COCO({**annotations, "annotations": []})
    return hotcoco.COCOeval(truth, found, "bbox")


def _check(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    image_ids = {image["id"] for image in annotations["images"]}
    category_ids = {category["id"] for category in annotations["categories"]}
    for result in results:
        if not math.isfinite(result["score"]) or not all(map(math.isfinite, result["bbox"])):
            raise JobError("diverged", f"a detection of image {result['image_id']} has score {result['score']}, bbox {result['bbox']}")
        if result["image_id"] not in image_ids or result["category_id"] not in category_ids:
            raise ValueError(f"expected results of the split's images and categories, got {result}")


def _mean(precision: npt.NDArray[np.float64]) -> float:
    """Mean over what is defined, -1 where nothing is."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else -1.0
