"""Quality of the final net on val, by hotcoco: types of errors, confusions of classes, and the result on each image."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from spnas_core.data.samples import Split
from spnas_core.metrics import hotcoco_evaluation
from spnas_core.report.inputs import ReportInputs

THRESHOLD = 0.5  # least score of a box in the confusions and the pictures
MATRIX = 14  # most classes of a readable matrix
CONFUSIONS = 8
ERRORS = {  # TIDE (Bolya et al., ECCV 2020), section 2.2
    "Cls": ("class", "the right place, another class"),
    "Loc": ("place", "the right class, but overlapping too little (IoU 0.1 to 0.5)"),
    "Both": ("class and place", "another class, and overlapping too little"),
    "Dupe": ("double", "one more box on an object that was found already"),
    "Bkg": ("background", "a box where no object is"),
    "Miss": ("missed", "an object that no box overlaps enough"),
}
AREAS = (  # COCO's, in square px of the original image
    ("small", "under 32² px", 0.0, 32.0**2),
    ("medium", "32² to 96² px", 32.0**2, 96.0**2),
    ("large", "over 96² px", 96.0**2, float("inf")),
)


class Error(NamedTuple):
    """One type of error: its count, and the gain of AP50 without it, a fraction."""

    name: str
    words: str
    times: int
    gain: float


class Confusion(NamedTuple):
    """Objects of one class that were detected as another."""

    truth: str
    found: str
    times: int


class Fate(NamedTuple):
    """Detections of one image: counts of correct boxes, wrong boxes and missed objects, and F1 of these."""

    right: int
    wrong: int
    missed: int
    f1: float


@dataclass(frozen=True)
class Quality:
    """`matrix`: rows of (count, share of the row); last column: missed objects, last row: background detections; empty if too large.

    `right` holds the indices of the correct detections in `shown` (those at or above the threshold), `found` the ids of the annotations
    that they match.
    """

    ap50: float
    errors: tuple[Error, ...]
    names: tuple[str, ...]
    matrix: tuple[tuple[tuple[int, float], ...], ...]
    confusions: tuple[Confusion, ...]
    fates: Mapping[int, Fate]
    shown: tuple[dict[str, Any], ...]
    right: frozenset[int]
    found: frozenset[int]
    threshold: float = THRESHOLD

    @property
    def worst(self) -> float:
        """Largest gain of all types of errors."""
        return max(error.gain for error in self.errors)


def judge_detections(val: Split, detections: list[dict[str, Any]]) -> Quality:
    """Compare detections (COCO results) with the ground truth of val at an IoU of 0.5."""
    evaluation = hotcoco_evaluation(val.annotations, detections)
    evaluation.evaluate()
    tide = evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
    errors = tuple(Error(*words, tide["counts"].get(kind, 0), tide["delta_ap"].get(kind, 0.0)) for kind, words in ERRORS.items())
    counts = evaluation.confusion_matrix(iou_thr=0.5, min_score=THRESHOLD)
    names, table = tuple(map(str, counts["cat_names"])), counts["matrix"].astype(int).tolist()
    pairs = [Confusion(names[a], names[b], table[a][b]) for a in range(len(names)) for b in range(len(names)) if a != b and table[a][b]]
    matrix = tuple(tuple((n, n / (sum(row) or 1)) for n in row) for row in table) if len(names) <= MATRIX else ()
    shown = [one for one in detections if one["score"] >= THRESHOLD]
    right, found, fates = _fates(val, shown)
    most = tuple(sorted(pairs, key=lambda one: -one.times)[:CONFUSIONS])
    return Quality(float(tide["ap_base"]), errors, names, matrix, most, fates, tuple(shown), right, found)


def _fates(val: Split, shown: list[dict[str, Any]]) -> tuple[frozenset[int], frozenset[int], dict[int, Fate]]:
    evaluation = hotcoco_evaluation(val.annotations, shown)
    evaluation.evaluate()
    seen = evaluation.image_diagnostics(iou_thr=0.5)
    right = frozenset(number - 1 for number, status in seen["dt_status"].items() if status == "tp")
    found = frozenset(number for number, status in seen["gt_status"].items() if status == "matched")
    return right, found, {image: Fate(one["tp"], one["fp"], one["fn"], one["f1"]) for image, one in seen["img_summary"].items()}


def class_rows(inputs: ReportInputs) -> list[dict[str, Any]]:
    """AP and AP50 per class, of the final net and of the start net beside it, and the count of the class's boxes in val."""
    marks = _marks(inputs)
    names = dict(inputs.val.categories) if inputs.val else {}
    boxes = Counter(names[mark["category_id"]] for mark in marks)
    final, start = (_scores(inputs, name).get("per_class", {}) for name in ("final", inputs.stage.start_net))
    order = list(names.values()) or list(final)
    return [{"name": n, "boxes": boxes[n], **_beside(final.get(n, {}), start.get(n, {}), ("AP", "AP50"))} for n in order if final]


def size_rows(inputs: ReportInputs) -> list[dict[str, Any]]:
    """AP by object size, of both nets, and the count of boxes of that size in val."""
    marks, final, start = _marks(inputs), _scores(inputs, "final"), _scores(inputs, inputs.stage.start_net)
    found = []
    for name, words, low, high in AREAS:
        own, other = ({"AP": scores.get(f"AP_{name}")} for scores in (final, start))
        boxes = sum(low <= mark["area"] < high for mark in marks)
        found.append({"name": f"{name}, {words}", "boxes": boxes, **_beside(own, other, ("AP",))})
    return found


def _marks(inputs: ReportInputs) -> list[dict[str, Any]]:
    return [mark for mark in inputs.val.annotations["annotations"] if not mark.get("iscrowd")] if isinstance(inputs.val, Split) else []


def _scores(inputs: ReportInputs, net: str) -> dict[str, Any]:
    result = inputs.stage.results.get(net)
    return result.scores.get("val", {}) if result else {}


def _beside(own: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: own.get(name) for name in names} | {f"start_{name}": other.get(name) for name in names}
    a, b = own.get("AP"), other.get("AP")
    return values | {"change": a - b if a is not None and b is not None and a >= 0 and b >= 0 else None}
