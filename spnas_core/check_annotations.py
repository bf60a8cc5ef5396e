"""Judgements over the annotations of one split, and of all splits together; no file is read here.

Shapes: n = annotations whose image and category are known. Boxes are xywh, px of the original image, as COCO has them.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from spnas_core.data import annotations
from spnas_core.data.source import Source
from spnas_core.findings import Finding, found

XYXY_BOXES = 5  # fewer say nothing about their form
XYXY_SHARE = 0.95  # of the boxes that must be right as xyxy,
XYXY_OUTSIDE = 0.1  # where at least so many of them are outside of their image as xywh
SIMILAR = 0.9  # IoU of two boxes of one category that are probably one object
RARE = 0.01  # of the boxes of the commonest category

Floats = npt.NDArray[np.float64]
Entries = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Judged:
    """One split after all judgements: what is sound in it, and what was found."""

    split: str
    images: Entries  # well-formed, each id once
    categories: dict[int, str]
    boxes: Floats  # (m, 4) of those boxes that are inside, as far as they are, and neither crowds nor twice there
    sizes: Floats  # (m, 2) width and height of their images
    document: dict[str, Any]  # what is sound, as a COCO document
    counts: Counter[str]  # annotations, faulty ones too, by the name of their category
    empty: int  # images without any
    findings: tuple[Finding, ...] = field(default=())


def judge(source: Source, max_boxes: int) -> Judged:
    """Judge the annotations of one split; `max_boxes` is how many of an image a training takes."""
    split, findings = source.split, list(source.findings)
    document = source.document if isinstance(source.document, dict) else {}
    if not findings or any(one.kind != "unreadable" for one in findings):
        lists = [key for key in annotations.FIELDS if not isinstance(document.get(key), list)]
        findings += found("malformed", split, [f"expected a list under {key!r}" for key in lists])
    sound: dict[str, Entries] = {}
    for key in annotations.FIELDS:
        listed = document.get(key)
        wrong = [(number, annotations.fault(entry, key)) for number, entry in enumerate(listed)] if isinstance(listed, list) else []
        findings += found("malformed", split, [f"{key}[{number}]{text}" for number, text in wrong if text])
        sound[key] = [document[key][number] for number, text in wrong if not text]
    images = _once(sound["images"], "id", "image-id", split, findings)
    findings += found("repeated-image", split, _again([image["file_name"] for image in images]))
    kinds = _once(sound["categories"], "id", "category-twice", split, findings)
    findings += found("category-twice", split, _again([kind["name"] for kind in kinds]))
    findings += found("annotation-id", split, _again([json.dumps(mark["id"]) for mark in sound["annotations"] if "id" in mark]))
    by_id = {image["id"]: image for image in images}
    categories = {kind["id"]: str(kind["name"]) for kind in kinds}
    marks = sound["annotations"]
    homeless = [f"{_name(mark)}, image id {mark['image_id']}" for mark in marks if mark["image_id"] not in by_id]
    findings += found("dangling-image", split, homeless)
    at_home = [mark for mark in marks if mark["image_id"] in by_id]
    strange = [f"{_name(mark)}, category id {mark['category_id']}" for mark in at_home if mark["category_id"] not in categories]
    findings += found("undefined-category", split, strange)
    per_image = Counter(mark["image_id"] for mark in at_home)
    touched = _homes(document.get("annotations"))  # a malformed box is a box, too
    empty = [image["file_name"] for image in images if image["id"] not in touched and image["file_name"] not in source.half_read]
    if images and len(empty) == len(images):
        findings += found("no-boxes", split, [f"{len(images)} images"])
    else:
        findings += found("image-without-boxes", split, empty)
    many = [f"{by_id[image_id]['file_name']} has {count:,}" for image_id, count in per_image.items() if count > max_boxes]
    findings += found("too-many-boxes", split, many)
    known = [mark for mark in at_home if mark["category_id"] in categories]
    keep, learnt, boxes, sizes = _judge_boxes(split, known, by_id, findings)
    clean = {"images": images, "categories": kinds, "annotations": [mark for mark, good in zip(known, keep, strict=True) if good]}
    counts = Counter(categories[mark["category_id"]] for mark in known)
    return Judged(split, images, categories, boxes[learnt], sizes[learnt], clean, counts, len(empty), tuple(findings))


def judge_together(splits: Sequence[Judged]) -> list[Finding]:
    """Judge what only all splits together show: their categories and the balance of these."""
    findings: list[Finding] = []
    first, *others = [one for one in splits if one.categories] or splits[:1]
    for other in others:
        if other.categories != first.categories:
            differ = sorted(str(one) for one in set(other.categories.items()) ^ set(first.categories.items()))
            findings += found("different-categories", other.split, [f"unlike {first.split}: {', '.join(differ[:3])}"])
    total: Counter[str] = sum((one.counts for one in splits), Counter())
    names = list(dict.fromkeys(name for one in splits for name in one.categories.values()))
    train = next((one for one in splits if one.split == "train"), None)
    if total:
        findings += found("unused-category", "data", [name for name in names if not total[name]])
    if train and train.counts:
        findings += found("unlearnt-category", "train", [name for name in names if total[name] and not train.counts[name]])
        most, commonest = max((count, name) for name, count in train.counts.items())
        rare = [f"{name}: {count} of {most:,} of {commonest}" for name, count in train.counts.items() if count < RARE * most]
        findings += found("rare-category", "train", rare)
    return findings


def _judge_boxes(
    split: str, marks: Entries, by_id: Mapping[int, dict[str, Any]], findings: list[Finding]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], Floats, Floats]:
    """Which boxes (n,) are inside their images, which of these are learnt, all of them clipped (n, 4), and sizes of their images (n, 2)."""
    given = np.array([mark["bbox"] for mark in marks], np.float64).reshape(-1, 4)
    homes = [by_id[mark["image_id"]] for mark in marks]
    sizes = np.array([[home["width"], home["height"]] for home in homes], np.float64).reshape(-1, 2)

    def name(mask: npt.NDArray[np.bool_]) -> list[str]:
        return [f"{_name(marks[i])} of {homes[i]['file_name']}, bbox {marks[i]['bbox']}" for i in np.flatnonzero(mask)]

    inside, faults = annotations.clip(given, sizes)
    normalised = (given[:, 2:] > 0).all(1) & (given >= 0).all(1) & (given[:, :2] + given[:, 2:] <= 1.001).all(1)
    normalised &= (sizes > 2).all(1)
    out = ~normalised & ((faults == "outside") | (faults == "clipped"))
    findings += found("normalised", split, name(normalised))
    findings += found("zero-area", split, name(~normalised & (faults == "zero area")))
    if xyxy := _is_xyxy(given, sizes, out):
        findings += found("xyxy", split, name(np.ones(len(marks), bool)))
    else:
        findings += found("outside", split, name(out & (faults == "outside")))
        findings += found("clipped", split, name(out & (faults == "clipped")))
    keep = ~normalised & ((faults == "") | (faults == "clipped"))
    places = [(mark["image_id"], *mark["bbox"]) for mark in marks]
    twice = _repeats([(*place, mark["category_id"]) for place, mark in zip(places, marks, strict=True)])
    findings += found("duplicate-box", split, name(twice & keep))
    findings += found("similar-box", split, name(_similar(inside, marks) & ~twice & keep))
    findings += found("two-categories", split, name(_repeats(places) & ~twice & keep))
    crowd = np.array([bool(mark.get("iscrowd", 0)) for mark in marks], bool)
    clipped = inside.astype(np.float64)
    clipped[:, 2:] -= clipped[:, :2]
    return keep, keep & ~crowd & ~twice & (not xyxy), clipped, sizes


def _similar(boxes: npt.NDArray[np.float32], marks: Entries) -> npt.NDArray[np.bool_]:
    """Which boxes (n, 4), xyxy, nearly cover one before them of the same image and category."""
    groups: dict[Any, list[int]] = {}
    for number, mark in enumerate(marks):
        groups.setdefault((mark["image_id"], mark["category_id"]), []).append(number)
    similar = np.zeros(len(marks), np.bool_)
    for members in (np.array(group) for group in groups.values() if len(group) > 1):
        some = boxes[members]
        overlap = np.minimum(some[:, None, 2:], some[:, 2:]) - np.maximum(some[:, None, :2], some[:, :2])
        inter, areas = np.maximum(overlap, 0).prod(axis=2), (some[:, 2:] - some[:, :2]).prod(axis=1)
        near = inter >= SIMILAR * np.maximum(areas[:, None] + areas - inter, 1e-6)
        similar[members] = np.tril(near, -1).any(axis=1)
    return similar


def _is_xyxy(given: Floats, sizes: Floats, out: npt.NDArray[np.bool_]) -> bool:
    """Whether boxes (n, 4) that are `out` of their images as xywh would lie inside as xyxy, as good as all of them."""
    if len(given) < XYXY_BOXES or out.mean() < XYXY_OUTSIDE:
        return False
    fits = (given[:, 2:] > given[:, :2]).all(1) & (given[:, 2:] <= sizes + annotations.TOLERANCE).all(1)
    return bool(fits.mean() >= XYXY_SHARE)


def _homes(marks: Any) -> set[int]:
    """Ids of images that some annotation names, be it malformed."""
    homes = [mark.get("image_id") for mark in marks if isinstance(mark, dict)] if isinstance(marks, list) else []
    return {home for home in homes if isinstance(home, int)}


def _once(entries: Entries, key: str, kind: str, split: str, findings: list[Finding]) -> Entries:
    """Keep the first entry of each value of `key`; the others are found."""
    findings += found(kind, split, _again([entry[key] for entry in entries]))
    return list({entry[key]: entry for entry in reversed(entries)}.values())[::-1]


def _again(values: Sequence[Any]) -> list[str]:
    """Each value that is there twice or more, once for each time after the first."""
    return [str(values[number]) for number in np.flatnonzero(_repeats(values))]


def _repeats(keys: Sequence[Any]) -> npt.NDArray[np.bool_]:
    """Which keys were there before."""
    seen: set[Any] = set()
    repeats = np.zeros(len(keys), np.bool_)
    for number, key in enumerate(keys):
        repeats[number] = key in seen
        seen.add(key)
    return repeats


def _name(mark: Mapping[str, Any]) -> str:
    return f"annotation {mark.get('id', 'without id')}"
