"""Scores of semantic segmentation: counts of pixels, exact and summed over images and ranks, and the fractions that they make.

All values are fractions in [0, 1], or -1 where the data defines none; such values are left out of means. Shapes: (h, w) px of an image
itself, K categories. Pixels whose truth is 255 count nowhere.

- IoU of a category: |truth and prediction| / |truth or prediction|, of all pixels of the data set together (Everingham et al., "The Pascal
  Visual Object Classes Challenge: A Retrospective", IJCV 2015, section 3.1.4); mIoU is its mean over categories.
- accuracy of a category: the part of its true pixels that are right; mean and pixel accuracy as in Long et al., CVPR 2015, section 5.
- boundary F of a category: harmonic mean of precision and recall of boundary pixels that have one of the other mask within 0.75 % of the
  image's diagonal, at least 1 px (Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013, section 3).
  As with IoU, pixels of all images are counted together, where they take the mean over images. A boundary pixel has a pixel of another
  category above, below, left or right of it; none of the two is ignored.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

_Counts = npt.NDArray[np.int64]
_Values = npt.NDArray[np.uint8]
MASK_STATS = ("mIoU", "pixel_accuracy", "mean_accuracy", "boundary_F")
_TOLERANCE = 0.0075  # of the diagonal: how far a boundary may be off
_IGNORED = 255


@dataclass(frozen=True, eq=False)
class MaskCounts:
    """Pixels of some images."""

    confusion: _Counts  # (K, K) by truth (row) and prediction (column)
    boundary: _Counts  # (K, 4) boundary pixels of the truth, those of them that are met; of the prediction, those of them that are met


@dataclass(frozen=True)
class MaskScores:
    """Scores of a data set, and those of each category by name."""

    stats: dict[str, float]
    per_class: dict[str, dict[str, float]]

    def document(self) -> dict[str, Any]:
        """Return the metrics as they stand in a manifest."""
        return {**self.stats, "per_class": self.per_class}


def no_counts(classes: int) -> MaskCounts:
    """Zeros: the sum over no image."""
    return MaskCounts(np.zeros((classes, classes), np.int64), np.zeros((classes, 4), np.int64))


def add_counts(one: MaskCounts, two: MaskCounts) -> MaskCounts:
    """Sum of both, as of all their images together."""
    return MaskCounts(one.confusion + two.confusion, one.boundary + two.boundary)


def count_masks(truth: _Values, prediction: _Values, classes: int, boundary: bool = True) -> MaskCounts:
    """Compare the masks (h, w) of one image; without `boundary` its boundaries are not counted.

    ValueError for masks of two shapes, a prediction of a value from `classes` on, and such a truth that is not 255.
    """
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise ValueError(f"expected two masks (h, w) of one shape, got {truth.shape} and {prediction.shape}")
    counted = truth != _IGNORED
    for name, values in (("truth", truth[counted]), ("prediction", prediction[counted])):
        if values.size and (int(values.min()) < 0 or int(values.max()) >= classes):
            raise ValueError(f"expected values of 0 to {classes - 1} in the {name}, got {int(values.min())} to {int(values.max())}")
    pairs = truth[counted].astype(np.int64) * classes + prediction[counted]
    confusion = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    edges = _boundary_counts(truth, prediction, counted, classes) if boundary else np.zeros((classes, 4), np.int64)
    return MaskCounts(confusion, edges)


def score_masks(counts: MaskCounts, class_names: tuple[str, ...]) -> MaskScores:
    """Scores of counts; a category that neither truth nor prediction has is undefined."""
    confusion = counts.confusion
    right, truth, said = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    iou, accuracy = _ratio(right, truth + said - right), _ratio(right, truth)
    edges = counts.boundary
    recall, precision = _ratio(edges[:, 1], edges[:, 0]), _ratio(edges[:, 3], edges[:, 2])
    # one mask has no boundary of the category: no pixel of the other's is met
    total = np.maximum(recall, 0) + np.maximum(precision, 0)
    product = 2 * np.maximum(recall, 0) * np.maximum(precision, 0)
    boundary = np.where((recall < 0) & (precision < 0), -1.0, np.divide(product, total, out=np.zeros(len(total)), where=total > 0))
    pixels = _ratio(right.sum(keepdims=True), truth.sum(keepdims=True))
    stats = dict(zip(MASK_STATS, (_mean_defined(iou), float(pixels[0]), _mean_defined(accuracy), _mean_defined(boundary)), strict=True))
    columns = {"IoU": iou.tolist(), "accuracy": accuracy.tolist(), "boundary_F": boundary.tolist()}
    per_class = {name: {key: values[row] for key, values in columns.items()} for row, name in enumerate(class_names)}
    return MaskScores(stats, per_class)


def boundary_tolerance(hw: tuple[int, int]) -> float:
    """How many px a boundary may be off in an image of `hw` px."""
    return max(1.0, _TOLERANCE * float(np.hypot(*hw)))


def find_boundary(mask: _Values, counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels (h, w) beside a pixel of another value, up, down, left or right, both of them `counted`."""
    found = np.zeros(mask.shape, bool)
    for here, there in (
        ((slice(1, None), slice(None)), (slice(-1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(-1))),
    ):
        differ = (mask[here] != mask[there]) & counted[here] & counted[there]
        found[here] |= differ
        found[there] |= differ
    return found


def _boundary_counts(truth: _Values, prediction: _Values, counted: npt.NDArray[np.bool_], classes: int) -> _Counts:
    most = int(boundary_tolerance((truth.shape[0], truth.shape[1])) ** 2)  # of a squared distance, which is a whole number
    true, said = _by_value(truth, counted), _by_value(prediction, counted)
    counts = np.zeros((classes, 4), np.int64)
    for number in range(classes):
        one, two = true.get(number), said.get(number)
        counts[number, 0], counts[number, 2] = (0 if points is None else len(points) for points in (one, two))
        if one is not None and two is not None:
            counts[number, 1], counts[number, 3] = _near(one, two, most), _near(two, one, most)
    return counts


def _by_value(mask: _Values, counted: npt.NDArray[np.bool_]) -> dict[int, _Counts]:
    """Row and column of the boundary pixels (n, 2) of each value that has some."""
    points = np.argwhere(find_boundary(mask, counted))
    values = mask[points[:, 0], points[:, 1]]
    return {int(value): points[values == value] for value in np.unique(values)}


def _near(points: _Counts, others: _Counts, most: int) -> int:
    """How many points have one of the `others` within a squared distance of `most`."""
    _, nearest = cKDTree(others).query(points)
    return int(np.count_nonzero(((points - others[nearest]) ** 2).sum(axis=1) <= most))


def _ratio(part: _Counts, whole: _Counts) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(whole), -1.0), where=whole > 0)


def _mean_defined(values: npt.NDArray[np.float64]) -> float:
    defined = values[values >= 0]
    return float(defined.mean()) if defined.size else -1.0
