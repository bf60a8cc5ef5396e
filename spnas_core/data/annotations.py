"""Checks of a COCO document, and the images, boxes and labels in it that a detector learns.

An error is one line that says where: UserError. A faulty box is counted, not an error. Shapes: n images, m boxes to learn, k annotations to
score with.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spnas_core.data.columns import Columns, Longs, Marks, columns_of
from spnas_core.data.entries import fault
from spnas_core.data.images import Doubles, Floats, Ints
from spnas_core.errors import EmptySplitError, UserError

PARTS_END = 1.001  # end of a box in parts of its image, rounded
TOLERANCE = 1.0  # px that a box may reach out of its image without a fault: tools round, and some count pixels from 1
_SMALL_IDS = 1 << 24  # ids below are looked up in a table
MANY_CROWDS = 0.1  # of the boxes; more are probably objects that a tool has written so
FAULTS = ("", "zero area", "outside", "clipped")
ZERO_AREA, OUTSIDE, CLIPPED = 1, 2, 3  # indexes of FAULTS
IMAGE_DTYPE = np.dtype([("id", "i8"), ("width", "i8"), ("height", "i8"), ("end", "i8")])  # end: of its boxes among those of all images
Categories = tuple[tuple[int, str], ...]  # (id, name), by ascending id


@dataclass(frozen=True, eq=False)
class Clean:
    """Images by ascending id with their boxes to learn, and the annotations to score with."""

    images: npt.NDArray[np.void]  # (n,) of IMAGE_DTYPE
    names: list[str]  # n file names
    categories: Categories
    boxes: Floats  # (m, 4) xyxy, px, clipped
    labels: Ints  # (m,) from 1 in the order of the categories
    marks: Marks  # (k,) of MARK_DTYPE; ids from 1, since pycocotools takes 0 for "not matched"; every area is known
    faults: dict[str, int]  # boxes by fault
    first_fault: str
    told: tuple[str, ...] = ()  # what was mended
    measured: bool = False  # has sizes of pictures, which may change while the annotation file stays


def clean_document(document: Any, where: str, learn_crowds: bool = False) -> Clean:
    """Check a parsed annotation file of the place `where`; UserError in one line."""
    if not isinstance(document, dict):
        raise UserError(f"{where}: expected an object with images, annotations and categories, got a {type(document).__name__}")
    for key in ("images", "categories", "annotations"):
        _check_entries(document, key, where)
    return clean_columns(columns_of(document), where, learn_crowds)


def clean_columns(columns: Columns, where: str, learn_crowds: bool = False) -> Clean:
    """Check the columns of an annotation file of the place `where`, and take what is learnt of it; UserError in one line.

    The annotations of `columns` are changed: a copy of a million takes time and memory.
    """
    if not len(columns.image_ids):
        raise EmptySplitError(f"{where}: expected at least one image, got none")
    if not len(columns.category_ids):
        raise UserError(f"{where}: expected at least one category, got none")
    _check_unique(columns.image_ids.tolist(), "id", f"{where}: images")
    _check_unique(columns.category_ids.tolist(), "id", f"{where}: categories")
    _check_unique(columns.category_names, "name", f"{where}: categories")
    marks, order = columns.marks, np.argsort(columns.image_ids)
    index, label = _places(marks["image_id"], columns.image_ids), _places(marks["category_id"], columns.category_ids)
    _check_references(columns, index, label, where)
    _check_unit(marks, columns.image_sizes, where)
    boxes, faults = clip_box(marks["bbox"], columns.image_sizes[order].astype(np.float64)[index])
    learnt = (faults == 0) | (faults == CLIPPED)
    kept = np.flatnonzero(learnt)
    if not learn_crowds:
        learnt &= marks["iscrowd"] == 0
    learn = np.flatnonzero(learnt)
    learn = learn[np.argsort(index[learn], kind="stable")]
    faulty = np.flatnonzero(faults)
    images = np.zeros(len(order), IMAGE_DTYPE)
    images["id"] = columns.image_ids[order]
    images["width"], images["height"] = columns.image_sizes[order].T
    images["end"] = np.searchsorted(index[learn], np.arange(len(order)), side="right")
    pairs = sorted(zip(columns.category_ids.tolist(), columns.category_names, strict=True))
    return Clean(
        images=images,
        names=[columns.names[i] for i in order],
        categories=tuple(pairs),
        boxes=boxes[learn],
        labels=(label[learn] + 1).astype(np.int32),
        marks=_scored(marks[kept] if len(kept) < len(marks) else marks, learn_crowds),
        faults={FAULTS[code]: count for code, count in sorted(Counter(faults[faulty].tolist()).items())},
        first_fault=_described(marks, faulty[0], FAULTS[faults[faulty[0]]]) if len(faulty) else "",
    )


def clip_box(xywh: Doubles, limits: Doubles) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Boxes xyxy (n, 4) inside their images, and the fault of each (n,), an index of `FAULTS`.

    `xywh` (n, 4) are the boxes as annotated, `limits` (n, 2) width and height of the images, px.
    """
    columns = np.ascontiguousarray(np.asarray(xywh, np.float64).reshape(-1, 4).T)  # of 800,000 boxes: three times as fast as rows
    boxes = np.empty((columns.shape[1], 4), np.float32)
    faults = np.zeros(columns.shape[1], np.int8)
    for side in (0, 1):
        first, extent, limit = columns[side], columns[side + 2], np.ascontiguousarray(limits[:, side], np.float64)
        for place, value in ((side, first), (side + 2, first + extent)):
            inside = np.minimum(np.maximum(value, 0.0), limit)
            boxes[:, place] = inside
            faults[np.abs(value - inside) > TOLERANCE] = CLIPPED
    faults[(boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])] = OUTSIDE
    faults[(columns[2] <= 0) | (columns[3] <= 0)] = ZERO_AREA
    return boxes, faults


def _places(ids: Longs, known: Longs) -> Longs:
    """Place of each of `ids` among the sorted `known`, -1 where it is none of them."""
    known = np.sort(known)
    if len(known) and known[-1] < _SMALL_IDS:
        table = np.full(known[-1] + 2, -1, np.int64)
        table[known] = np.arange(len(known))
        return np.asarray(table[np.minimum(ids, known[-1] + 1)])
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[places] == ids, places, -1)


def _check_references(columns: Columns, index: Longs, label: Longs, where: str) -> None:
    marks = columns.marks
    wrong = np.flatnonzero((index < 0) | (label < 0))
    if not len(wrong):
        return
    first = wrong[0]
    number = marks["id"][first] if marks["id"][first] >= 0 else first
    if index[first] < 0:
        raise UserError(f"{where}: annotation {number} names image id {marks['image_id'][first]}, which no image has")
    have = ", ".join(map(str, sorted(columns.category_ids.tolist())))
    raise UserError(f"{where}: annotation {number} has category id {marks['category_id'][first]}, defined are {have}")


def _check_unit(marks: Marks, sizes: Longs, where: str) -> None:
    """UserError where most of the boxes are in parts of their images."""
    box = marks["bbox"]
    parts = (box[:, 2:] > 0).all(1) & (box >= 0).all(1) & (box[:, :2] + box[:, 2:] <= PARTS_END).all(1)
    if len(box) and 2 * np.count_nonzero(parts) > len(box) and sizes.min() > PARTS_END:
        first = ", ".join(f"{value:.9g}" for value in box[parts.argmax()])
        raise UserError(f"{where}: expected boxes in px, got {np.count_nonzero(parts)} of {len(box)} in parts of the image, as [{first}]")


def _described(marks: Marks, place: int, fault: str) -> str:
    number = marks["id"][place] if marks["id"][place] >= 0 else place
    box = ", ".join(f"{value:.9g}" for value in marks["bbox"][place])
    return f"annotation {number}, bbox [{box}], {fault}"


def _scored(marks: Marks, learn_crowds: bool) -> Marks:
    """Make annotations ready for scoring, in place: numbered from 1; an area that is not given is that of the box."""
    marks["id"] = np.arange(1, len(marks) + 1)
    unknown = ~(np.isfinite(marks["area"]) & (marks["area"] > 0))
    marks["area"][unknown] = marks["bbox"][unknown, 2] * marks["bbox"][unknown, 3]
    if learn_crowds:
        marks["iscrowd"] = 0
    return marks


def _check_entries(document: dict[str, Any], key: str, where: str) -> None:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise UserError(f"{where}: expected a list under {key!r}, got {'nothing' if entries is None else type(entries).__name__}")
    for position, entry in enumerate(entries):
        if wrong := fault(entry, key):
            raise UserError(f"{where}: {key}[{position}]{wrong}")


def _check_unique(values: Sequence[Any], key: str, where: str) -> None:
    if len(set(values)) < len(values):
        double = [value for value, count in Counter(values).items() if count > 1]
        raise UserError(f"{where}: expected every {key!r} once, got {double[0]!r} twice or more ({len(double)} such)")
