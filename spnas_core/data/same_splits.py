"""Splits of a data set that are one: the same pictures with the same boxes, as data.yaml of COCO128 has them for train and val."""

from collections import defaultdict
from dataclasses import replace

from spnas_core.data.findings import found
from spnas_core.data.raw_split import Layout, RawSplit
from spnas_core.data.split_names import UNSPLIT, usual_name


def without_same_splits(layout: Layout) -> Layout:
    """Read train and val that are one as images that are not split, and leave out a test that is one with them; told.

    A net that is chosen or scored on what it has learnt looks better than it is.
    """
    groups: dict[frozenset[str], list[RawSplit]] = defaultdict(list)
    for raw in layout.sources:
        if raw.files:
            groups[frozenset(raw.files)].append(raw)
    sources, told = list(layout.sources), []
    for group in groups.values():
        by_name = {usual_name(raw.split): raw for raw in group}
        train, val, test = (by_name.get(split) for split in ("train", "val", "test"))
        if test and (other := next((one for one in (val, train) if one and _are_same(one, test)), None)):
            sources.remove(test)
            told.append(f"{test.split}: the same as {other.split}, left out")
        if train and val and _are_same(train, val):
            findings = tuple(replace(one, where=UNSPLIT) if one.where == train.split else one for one in train.findings)
            sources[sources.index(train)] = replace(train, split=UNSPLIT, findings=findings)
            sources.remove(val)
            told.append(f"{val.split}: the same as {train.split}, not split: spnas split DATA")
    return replace(layout, sources=tuple(sources), findings=(*layout.findings, *found("same-split", "data", told))) if told else layout


def _are_same(one: RawSplit, two: RawSplit) -> bool:
    return _content(one) == _content(two)


def _content(raw: RawSplit) -> dict[str, list[str]]:
    """Boxes of each image of a document that a reader has made."""
    names = {image["id"]: image["file_name"] for image in raw.document["images"]}
    kinds = {kind["id"]: kind["name"] for kind in raw.document["categories"]}
    boxes: dict[str, list[str]] = {name: [] for name in names.values()}
    for mark in raw.document["annotations"]:
        kind = kinds.get(mark["category_id"], mark["category_id"])
        boxes[names[mark["image_id"]]].append(repr((kind, mark["bbox"], mark["iscrowd"])))
    return {name: sorted(some) for name, some in boxes.items()}
