"""Findings about the boxes of one split.

Shapes: n = annotations whose image and category are known. Boxes are xywh, px of the original image, as COCO has them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spnas_core.data import annotations
from spnas_core.data.findings import Finding, found
from spnas_core.data.images import Doubles, Floats

XYXY_BOXES = 5  # fewer say nothing about their form
XYXY_SHARE = 0.95  # of the boxes that must be right as xyxy,
XYXY_OUTSIDE = 0.1  # where at least so many of them are outside of their image as xywh
_SIMILAR = 0.9  # IoU of two boxes of one category that are probably one object

Mask = npt.NDArray[np.bool_]
Entries = list[dict[str, Any]]


class Boxes(NamedTuple):
    """Judged boxes: whether a training takes each box at all (n,), and whether it learns it as an object of its own (n,)."""

    findings: list[Finding]
    taken: Mask
    learnt: Mask
    clipped: Doubles  # (n, 4) the part inside of the image
    sizes: Doubles  # (n, 2) width and height of the image


def judge_boxes(split: str, marks: Entries, by_id: Mapping[int, dict[str, Any]]) -> Boxes:
    """All findings about the boxes of the annotations `marks`, and their uses; `by_id` are the images."""
    xywh = np.array([mark["bbox"] for mark in marks], np.float64).reshape(-1, 4)
    homes = [by_id[mark["image_id"]] for mark in marks]
    sizes = np.array([[home["width"], home["height"]] for home in homes], np.float64).reshape(-1, 2)

    def name(mask: Mask) -> list[str]:
        return [f"{name_of(marks[i])} of {homes[i]['file_name']}, bbox {marks[i]['bbox']}" for i in np.flatnonzero(mask)]

    inside, faults = annotations.clip_box(xywh, sizes)
    normalised = (xywh[:, 2:] > 0).all(1) & (xywh >= 0).all(1) & (xywh[:, :2] + xywh[:, 2:] <= annotations.PARTS_END).all(1)
    normalised &= (sizes > 2).all(1)
    out = ~normalised & ((faults == annotations.OUTSIDE) | (faults == annotations.CLIPPED))
    findings = found("normalised", split, name(normalised))
    findings += found("zero-area", split, name(~normalised & (faults == annotations.ZERO_AREA)))
    taken = ~normalised & ((faults == 0) | (faults == annotations.CLIPPED))
    places = [(mark["image_id"], *mark["bbox"]) for mark in marks]
    twice = repeats([(*place, mark["category_id"]) for place, mark in zip(places, marks, strict=True)])
    findings += found("duplicate-box", split, name(twice & taken))
    findings += found("two-categories", split, name(repeats(places) & ~twice & taken))
    crowd = np.array([bool(mark.get("iscrowd", 0)) for mark in marks], bool)
    learnt = taken & ~crowd & ~twice
    if _is_xyxy(xywh, sizes, out):
        findings += found("xyxy", split, name(np.ones(len(marks), bool)))
        learnt[:] = False
    else:
        findings += found("outside", split, name(out & (faults == annotations.OUTSIDE)))
        findings += found("clipped", split, name(out & (faults == annotations.CLIPPED)))
        findings += found("similar-box", split, name(_similar(inside, marks) & learnt))
    clipped = inside.astype(np.float64)
    clipped[:, 2:] -= clipped[:, :2]
    return Boxes(findings, taken, learnt, clipped, sizes)


def _is_xyxy(boxes: Doubles, sizes: Doubles, out: Mask) -> bool:
    """Whether boxes (n, 4) that are `out` of their images as xywh would lie inside as xyxy, as good as all of them."""
    if len(boxes) < XYXY_BOXES or out.mean() < XYXY_OUTSIDE:
        return False
    fits = (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= sizes + annotations.TOLERANCE).all(1)
    return bool(fits.mean() >= XYXY_SHARE)


def _similar(boxes: Floats, marks: Entries) -> Mask:
    """Mask of the boxes (n, 4), xyxy, that nearly cover an earlier one of the same image and category."""
    groups: dict[Any, list[int]] = {}
    for number, mark in enumerate(marks):
        groups.setdefault((mark["image_id"], mark["category_id"]), []).append(number)
    similar = np.zeros(len(marks), np.bool_)
    for members in (np.array(group) for group in groups.values() if len(group) > 1):
        some = boxes[members]
        overlap = np.minimum(some[:, None, 2:], some[:, 2:]) - np.maximum(some[:, None, :2], some[:, :2])
        inter, areas = np.maximum(overlap, 0).prod(axis=2), (some[:, 2:] - some[:, :2]).prod(axis=1)
        near = inter >= _SIMILAR * np.maximum(areas[:, None] + areas - inter, 1e-6)
        similar[members] = np.tril(near, -1).any(axis=1)
    return similar


def repeats(keys: Sequence[Any]) -> Mask:
    """Mask of the keys that equal an earlier one."""
    seen: set[Any] = set()
    repeats = np.zeros(len(keys), np.bool_)
    for number, key in enumerate(keys):
        repeats[number] = key in seen
        seen.add(key)
    return repeats


def name_of(mark: Mapping[str, Any]) -> str:
    """Name of an annotation in findings."""
    return f"annotation {mark.get('id', 'without id')}"
