"""AP of a net, and difference of AP of two on the same images, with bootstrap intervals: which differences mean something.

The images are drawn anew with replacement, the same for both nets, and COCO's AP is computed for each draw; detections are matched once,
since a match concerns one image alone. Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; pycocotools
`cocoeval.py` `accumulate`, whose AP this is when every image counts once.
"""

import contextlib
import io
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spnas_core.data.images import Doubles
from spnas_core.metrics import pycocotools_evaluation

DRAWS_OF_IMAGES = 400


class Interval(NamedTuple):
    """AP, or a difference of AP, a fraction, its 95 % interval over the images, and the share of draws in which it is above 0."""

    mean: float
    low: float
    high: float
    ahead: float

    @property
    def means_something(self) -> bool:
        """Whether the interval leaves 0 out."""
        return not self.low <= 0 <= self.high


@dataclass(frozen=True)
class _Class:
    """Matched detections of one class, best first: their images, and whether each is right or ignored, (T, N); objects per image (I,)."""

    image: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    objects: npt.NDArray[np.int64]


@dataclass(frozen=True)
class MatchedDetections:
    """Detections of one net on a split, matched with its objects."""

    classes: tuple[_Class, ...]
    images: int
    recalls: Doubles

    def ap(self, counts: npt.NDArray[np.int64]) -> Doubles:
        """AP (R,) of R draws, given how often each image was drawn, (R, I); nan for a draw without any object."""
        found = np.full((len(self.classes), len(counts)), np.nan)
        for number, one in enumerate(self.classes):
            objects = counts @ one.objects
            weights = counts[:, one.image]
            least = _least_right(np.maximum(objects, 1)[:, None], self.recalls)
            levels = []
            for right, ignored in zip(one.right, one.ignored, strict=True):
                true = np.cumsum(weights * (right & ~ignored), axis=1)
                false = np.cumsum(weights * (~right & ~ignored), axis=1)
                levels.append(_area(true, false, least))
            found[number] = np.where(objects > 0, np.mean(levels, axis=0), np.nan)
        with np.errstate(invalid="ignore"):
            return np.array([row[~np.isnan(row)].mean() if (~np.isnan(row)).any() else np.nan for row in found.T])


def match_detections(annotations: dict[str, Any], results: list[dict[str, Any]]) -> MatchedDetections:
    """Match the detections of a net (COCO results) with the objects of a split, at all IoU thresholds of COCO's AP."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = pycocotools_evaluation(annotations, results)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
    params, images = evaluation.params, len(evaluation.params.imgIds)
    most, thresholds = params.maxDets[-1], len(params.iouThrs)
    classes = []
    for number in range(len(params.catIds)):
        own = evaluation.evalImgs[number * images : (number + 1) * images]
        objects = np.array([0 if one is None else np.count_nonzero(np.asarray(one["gtIgnore"]) == 0) for one in own], np.int64)
        there = [(place, one) for place, one in enumerate(own) if one is not None and len(one["dtScores"])]
        scores = np.concatenate([one["dtScores"][:most] for _, one in there]) if there else np.zeros(0)
        image = np.concatenate([np.full(len(one["dtScores"][:most]), place) for place, one in there]) if there else np.zeros(0, np.int64)
        order = np.argsort(-scores, kind="mergesort")
        right, ignored = (
            np.concatenate([np.asarray(one[name])[:, :most] for _, one in there], axis=1)[:, order].astype(bool)
            if there
            else np.zeros((thresholds, 0), bool)
            for name in ("dtMatches", "dtIgnore")
        )
        classes.append(_Class(image[order], right, ignored, objects))
    return MatchedDetections(tuple(classes), images, np.asarray(params.recThrs))


@dataclass(frozen=True)
class ScoreDraws:
    """AP or mIoU of one net on a split: of all its images once, and of each draw of them, (R,), nan where a draw has no object."""

    once: float
    drawn: Doubles


def score_draws(ours: MatchedDetections, draws: int = DRAWS_OF_IMAGES, seed: int = 0) -> ScoreDraws:
    """Compute the AP of a net on draws of the images; with one seed the draws are the same for all nets of a split."""
    once = np.ones((1, ours.images), np.int64)
    return ScoreDraws(float(ours.ap(once)[0]), ours.ap(draw_images(ours.images, draws, seed)))


def draw_images(images: int, draws: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw as many images anew as there are, with replacement: how often each came, (R, I) of R draws."""
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(draws)])


def interval(ours: ScoreDraws, theirs: ScoreDraws | None = None) -> Interval:
    """Interval of the score of a net, or of its difference to another one's on the same draws."""
    values = ours.drawn - theirs.drawn if theirs else ours.drawn
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, (0.025, 0.975)) if len(values) else (np.nan, np.nan)
    mean = ours.once - theirs.once if theirs else ours.once
    return Interval(mean, float(low), float(high), float(np.mean(values > 0)) if len(values) else float("nan"))


def _area(true: npt.NDArray[np.int64], false: npt.NDArray[np.int64], least: npt.NDArray[np.int64]) -> Doubles:
    """Mean of the precision at COCO's recall thresholds, (R,), from counts (R, N) of right and wrong detections up to each.

    `least` are the counts (R, T) of right detections that reach the thresholds.
    """
    if not true.shape[1]:
        return np.zeros(len(true))
    precision = true / np.maximum(true + false, np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    rows, most = np.arange(len(true))[:, None], max(int(true[:, -1].max()), int(least.max())) + 1
    places = np.searchsorted((true + most * rows).ravel(), (least + most * rows).ravel()).reshape(least.shape) - true.shape[1] * rows
    reached = places < true.shape[1]
    values = np.take_along_axis(precision, np.where(reached, places, 0), axis=1)
    return np.asarray(np.where(reached, values, 0).mean(axis=1))


def _least_right(objects: npt.NDArray[np.int64], recalls: Doubles) -> npt.NDArray[np.int64]:
    """Least counts of right detections whose share of the objects, as floating-point numbers divide, is at least each recall."""
    near = np.floor(recalls * objects).astype(np.int64) - 1
    return np.asarray(near + sum((near + more) / objects < recalls for more in range(3)))
