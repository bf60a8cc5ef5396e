"""Checks of a COCO document, and the images, boxes and labels in it that a detector learns.

An error is one line that says where: UserError. A faulty box is counted, not an error.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spnas_core.data.images import Doubles, Floats, Ints
from spnas_core.errors import UserError

TOLERANCE = 1.0  # px that a box may reach out of its image without a fault: tools round, and some count pixels from 1


@dataclass(frozen=True, eq=False)
class Clean:
    """The checked document: images by id, and boxes (xyxy, clipped) and labels of each, in the same order."""

    images: list[dict[str, Any]]
    categories: tuple[tuple[int, str], ...]
    boxes: list[Floats]
    labels: list[Ints]
    document: dict[str, Any]
    faults: Counter[str]
    first_fault: str


def clean_document(document: Any, where: str) -> Clean:
    """Check a parsed annotation file of the place `where`; UserError in one line."""
    if not isinstance(document, dict):
        raise UserError(f"{where}: expected an object with images, annotations and categories, got a {type(document).__name__}")
    images = _entries(document, "images", where)
    if not images:
        raise UserError(f"{where}: expected at least one image, got none")
    kinds = _entries(document, "categories", where)
    if not kinds:
        raise UserError(f"{where}: expected at least one category, got none")
    marks = _entries(document, "annotations", where)
    _unique(images, "id", f"{where}: images")
    _unique(kinds, "id", f"{where}: categories")
    _unique(kinds, "name", f"{where}: categories")
    numbered = [a for a in marks if "id" in a]
    if strange := [a["id"] for a in numbered if isinstance(a["id"], list | dict)]:
        raise UserError(f"{where}: annotations: expected a number as 'id', got {strange[0]!r}")
    _unique(numbered, "id", f"{where}: annotations")
    images = sorted(({k: i[k] for k in ("id", "file_name", "width", "height")} for i in images), key=lambda i: i["id"])
    kinds = sorted(({"id": k["id"], "name": k["name"]} for k in kinds), key=lambda k: k["id"])
    return _clean(images, kinds, marks, where)


def _clean(images: list[dict[str, Any]], kinds: list[dict[str, Any]], marks: list[dict[str, Any]], where: str) -> Clean:
    image_index = {image["id"]: position for position, image in enumerate(images)}
    label_of = {kind["id"]: position + 1 for position, kind in enumerate(kinds)}
    for position, mark in enumerate(marks):
        if mark["image_id"] not in image_index:
            raise UserError(f"{where}: annotation {mark.get('id', position)} names image id {mark['image_id']}, which no image has")
        if mark["category_id"] not in label_of:
            have = ", ".join(map(str, label_of))
            raise UserError(f"{where}: annotation {mark.get('id', position)} has category id {mark['category_id']}, defined are {have}")
    index = np.array([image_index[mark["image_id"]] for mark in marks], np.int64)
    xywh = np.array([mark["bbox"] for mark in marks], np.float64).reshape(-1, 4)
    limits = np.array([[image["width"], image["height"]] for image in images], np.float64)[index]
    boxes, faults = clip_box(xywh, limits)
    crowd = np.array([bool(mark.get("iscrowd", 0)) for mark in marks], bool)
    keep = (faults == "") | (faults == "clipped")
    labels = np.array([label_of[mark["category_id"]] for mark in marks], np.int32)
    kept, learn = np.flatnonzero(keep), np.flatnonzero(keep & ~crowd)
    learn = learn[np.argsort(index[learn], kind="stable")]
    cuts = np.searchsorted(index[learn], np.arange(1, len(images)))
    faulty = np.flatnonzero(faults != "")
    first = faulty[0] if len(faulty) else -1
    return Clean(
        images=images,
        categories=tuple((kind["id"], kind["name"]) for kind in kinds),
        boxes=np.split(boxes[learn], cuts),
        labels=np.split(labels[learn], cuts),
        document={"images": images, "categories": kinds, "annotations": [_scored(marks[i], n) for n, i in enumerate(kept, start=1)]},
        faults=Counter(faults[faulty].tolist()),
        first_fault=f"annotation {marks[first].get('id', first)}, bbox {marks[first]['bbox']}, {faults[first]}" if first >= 0 else "",
    )


def clip_box(xywh: Doubles, limits: Doubles) -> tuple[Floats, npt.NDArray[np.str_]]:
    """Boxes xyxy (n, 4) inside their images, and the fault of each: ``""``, ``zero area``, ``outside`` or ``clipped``.

    `xywh` (n, 4) are the boxes as annotated, `limits` (n, 2) width and height of the images, px.
    """
    raw = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    bounds = np.concatenate([limits, limits], axis=1)
    boxes = np.clip(raw, 0.0, bounds).astype(np.float32)
    empty = (xywh[:, 2:] <= 0).any(axis=1)
    outside = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    clipped = (np.abs(raw - np.clip(raw, 0.0, bounds)) > TOLERANCE).any(axis=1)
    return boxes, np.select([empty, outside, clipped], ["zero area", "outside", "clipped"], "")


def _scored(mark: dict[str, Any], number: int) -> dict[str, Any]:
    """One annotation for scoring, numbered from 1: pycocotools takes id 0 for "not matched"."""
    x, y, w, h = map(float, mark["bbox"])
    area = mark.get("area")
    return {
        "id": number,
        "image_id": mark["image_id"],
        "category_id": mark["category_id"],
        "bbox": [x, y, w, h],
        "area": float(area) if isinstance(area, int | float) and area > 0 else w * h,
        "iscrowd": int(bool(mark.get("iscrowd", 0))),
    }


def _entries(document: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise UserError(f"{where}: expected a list under {key!r}, got {'nothing' if entries is None else type(entries).__name__}")
    for position, entry in enumerate(entries):
        if wrong := fault(entry, key):
            raise UserError(f"{where}: {key}[{position}]{wrong}")
    return entries


def fault(entry: Any, key: str) -> str:
    """Fault of an entry of the list `key`: a field that is missing or of the wrong kind; an empty text for a sound entry."""
    if not isinstance(entry, dict):
        return f": expected an object, got {entry!r}"
    for name, expected in FIELDS[key].items():
        if name not in entry:
            return f" has no {name!r}"
        if wrong := expected(entry[name]):
            return f": expected {wrong} as {name!r}, got {entry[name]!r}"
    return ""


def _unique(entries: list[dict[str, Any]], key: str, where: str) -> None:
    double = [value for value, count in Counter(entry[key] for entry in entries).items() if count > 1]
    if double:
        raise UserError(f"{where}: expected every {key!r} once, got {double[0]!r} twice or more ({len(double)} such)")


def _is_id(value: Any) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else "a whole number >= 0"


def _is_size(value: Any) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) and value > 0 else "a whole number of px > 0"


def _is_name(value: Any) -> str:
    return "" if isinstance(value, str) and value else "a text"


def _is_box(value: Any) -> str:
    good = isinstance(value, list) and len(value) == 4 and all(isinstance(v, int | float) and abs(v) <= sys.float_info.max for v in value)
    return "" if good else "four finite numbers [x, y, width, height]"


FIELDS: Mapping[str, Mapping[str, Callable[[Any], str]]] = {
    "images": {"id": _is_id, "file_name": _is_name, "width": _is_size, "height": _is_size},
    "categories": {"id": _is_id, "name": _is_name},
    "annotations": {"image_id": _is_id, "category_id": _is_id, "bbox": _is_box},
}
