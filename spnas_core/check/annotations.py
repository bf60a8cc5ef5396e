"""Findings about the annotations of one split, and of all splits together; no file is read here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spnas_core.check.boxes import Entries, judge_boxes, name_of, repeats
from spnas_core.data import annotations, entries
from spnas_core.data.findings import Finding, found
from spnas_core.data.images import Doubles
from spnas_core.data.raw_split import RawSplit
from spnas_core.data.samples import match_categories
from spnas_core.data.split_names import UNSPLIT

RARE = 0.01  # of the boxes of the commonest category


@dataclass(frozen=True, eq=False)
class Judged:
    """One split after its check: the sound part of its annotations, and the findings."""

    split: str
    images: Entries  # well-formed, each id once
    categories: dict[int, str]
    boxes: Doubles  # (m, 4) the parts inside of the image of boxes to learn: neither crowds nor repeated ones
    sizes: Doubles  # (m, 2) width and height of their images
    document: dict[str, Any]  # the sound part, as a COCO document
    counts: Counter[str]  # annotations, faulty ones and crowds too, by the name of their category
    crowds: int
    empty: int  # images without any
    findings: tuple[Finding, ...] = field(default=())


def judge_annotations(raw: RawSplit, max_boxes: int) -> Judged:
    """Check the annotations of one split; a training takes at most `max_boxes` boxes of an image."""
    split, findings = raw.split, list(raw.findings)
    if raw.document is None:  # it could not be read
        nothing = np.zeros((0, 4))
        empty_document = {key: list[Any]() for key in entries.FIELDS}
        return Judged(split, [], {}, nothing, nothing[:, :2], empty_document, Counter(), 0, 0, tuple(findings))
    images, kinds, marks = _sound_lists(split, raw.document, findings)
    findings += found("repeated-image", split, _again([image["file_name"] for image in images]))
    by_id = {image["id"]: image for image in images}
    categories = {kind["id"]: str(kind["name"]) for kind in kinds}
    known = _known_marks(split, marks, by_id, categories, findings)
    named = _named_images(raw.document)
    empty = [image["file_name"] for image in images if image["id"] not in named and image["file_name"] not in raw.half_read]
    if isinstance(raw.document, dict) and raw.document.get("images") == [] and not raw.files:
        findings += found("no-images", split, ["expected at least one image"])
    elif images and len(empty) == len(images):
        findings += found("no-boxes", split, [f"{len(images)} images"])
    else:
        findings += found("image-without-boxes", split, empty)
    per_image = Counter(mark["image_id"] for mark in known)
    many = [f"{by_id[image_id]['file_name']} has {count:,}" for image_id, count in per_image.items() if count > max_boxes]
    findings += found("too-many-boxes", split, many)
    boxes = judge_boxes(split, known, by_id)
    findings += boxes.findings
    taken = [mark for mark, good in zip(known, boxes.taken, strict=True) if good]
    crowds = [mark for mark in taken if mark.get("iscrowd", 0)]
    if taken and len(crowds) == len(taken):
        findings += found("all-crowds", split, [f"{len(taken)} boxes"])
    elif not any(finding.kind == "difficult" for finding in raw.findings):
        kind = "many-crowds" if len(crowds) > annotations.MANY_CROWDS * len(taken) else "crowds"
        findings += found(kind, split, [f"{name_of(mark)}, of {len(taken):,} boxes" for mark in crowds])
    clean = {"images": images, "categories": kinds, "annotations": taken}
    counts = Counter(categories[mark["category_id"]] for mark in known)
    return Judged(
        split,
        images,
        categories,
        boxes.clipped[boxes.learnt],
        boxes.sizes[boxes.learnt],
        clean,
        counts,
        len(crowds),
        len(empty),
        tuple(findings),
    )


def judge_together(splits: Sequence[Judged]) -> list[Finding]:
    """All findings about all splits together: their names, their categories and the balance of these."""
    present = [judged.split for judged in splits]
    missing = [name for name in ("train", "val") if name not in present]
    way_out = "; spnas split DATA makes them" if {"train", UNSPLIT} & set(present) or len(present) == 1 else ""
    findings = found("missing-split", "data", [f"{name}; there are {', '.join(present)}{way_out}" for name in missing])
    first, *others = [judged for judged in splits if judged.categories] or splits[:1]
    for other in others:
        findings += _compare(first, other)
    total: Counter[str] = sum((judged.counts for judged in splits), Counter())
    names = list(dict.fromkeys(name for judged in splits for name in judged.categories.values()))
    train = next((judged for judged in splits if judged.split == "train"), None)
    if total:
        findings += found("unused-category", "data", [name for name in names if not total[name]])
    if train and train.counts:
        findings += found("unlearnt-category", "train", [name for name in names if total[name] and not train.counts[name]])
        most, commonest = max((count, name) for name, count in train.counts.items())
        rare = [f"{name}: {count} of {most:,} of {commonest}" for name, count in train.counts.items() if count < RARE * most]
        findings += found("rare-category", "train", rare)
    return findings


def _compare(first: Judged, other: Judged) -> list[Finding]:
    """Compare the categories of two splits, which are matched by name."""
    if other.categories == first.categories:
        return []
    theirs, ours = set(other.categories.values()), set(first.categories.values())
    matches = match_categories(sorted(theirs), sorted(ours))
    if None not in matches and len(set(matches)) == len(ours):
        return found(
            "other-category-ids", other.split, [f"unlike {first.split}: {min(other.categories.items() - first.categories.items())}"]
        )
    kind = "foreign-categories" if all(match is None for match in matches) else "different-categories"
    return found(kind, other.split, [f"unlike {first.split}: {', '.join(sorted(theirs ^ ours)[:3])}"])


def _sound_lists(split: str, document: Any, findings: list[Finding]) -> tuple[Entries, Entries, Entries]:
    """Well-formed images, categories and annotations; of two images or categories of one id the first."""
    sound: dict[str, Entries] = {}
    if not isinstance(document, dict):
        findings += found("malformed", split, [f"expected an object with {', '.join(entries.FIELDS)}, got a {type(document).__name__}"])
        return [], [], []
    for key in entries.FIELDS:
        listed = document.get(key)
        if not isinstance(listed, list):
            findings += found("malformed", split, [f"expected a list under {key!r}"])
            listed = []
        faults = [entries.fault(entry, key) for entry in listed]
        findings += found("malformed", split, [f"{key}[{number}]{text}" for number, text in enumerate(faults) if text])
        sound[key] = [entry for entry, text in zip(listed, faults, strict=True) if not text]
    images, kinds, marks = sound["images"], sound["categories"], sound["annotations"]
    findings += found("image-id", split, _again([image["id"] for image in images]))
    for key in ("id", "name"):
        findings += found("category-twice", split, _again([kind[key] for kind in kinds]))
        kinds = list({kind["id"]: kind for kind in reversed(kinds)}.values())[::-1]
    return list({image["id"]: image for image in reversed(images)}.values())[::-1], kinds, marks


def _known_marks(split: str, marks: Entries, by_id: Mapping[int, Any], categories: Mapping[int, str], findings: list[Finding]) -> Entries:
    """Annotations of listed images and defined categories."""
    homeless = [f"{name_of(mark)}, image id {mark['image_id']}" for mark in marks if mark["image_id"] not in by_id]
    findings += found("dangling-image", split, homeless)
    at_home = [mark for mark in marks if mark["image_id"] in by_id]
    strange = [f"{name_of(mark)}, category id {mark['category_id']}" for mark in at_home if mark["category_id"] not in categories]
    findings += found("undefined-category", split, strange)
    return [mark for mark in at_home if mark["category_id"] in categories]


def _named_images(document: Any) -> set[int]:
    """Ids of the images that some annotation names, malformed ones too."""
    marks = document.get("annotations") if isinstance(document, dict) else None
    named = [mark.get("image_id") for mark in marks if isinstance(mark, dict)] if isinstance(marks, list) else []
    return {image_id for image_id in named if isinstance(image_id, int)}


def _again(values: Sequence[Any]) -> list[str]:
    """Values that occur twice or more, once for each time after the first."""
    return [str(values[number]) for number in np.flatnonzero(repeats(values))]
