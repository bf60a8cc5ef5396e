"""The layout of a data set, recognised by its files; all but COCO are read as COCO documents.

    COCO        annotation files as `coco.py` finds them, images as `locate.py` does
    Pascal VOC  NAME.xml and NAME.jpg, in two folders or side by side; `voc.py`
    YOLO        NAME.txt and NAME.jpg, in two folders or side by side, with names and splits in a YAML file or lists; `yolo.py`
    LabelMe     NAME.json and NAME.jpg, side by side or in two folders; `labelme.py`
    table       one CSV file with a line per box; `table.py`

Where files of several are beside the pictures, COCO is read, else the one that has files for the most pictures, in this order where they
are equally many, and the others are told; a table is read only where there is nothing else.
Only what keeps a file from being read is a finding here; check/ judges the rest.
"""

import posixpath
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spnas_core.data import coco_raw, files, labelme, table, voc, yolo
from spnas_core.data.coco import find_coco_root
from spnas_core.data.findings import found
from spnas_core.data.listings import Listings
from spnas_core.data.matching import stem_of
from spnas_core.data.other_tools import tool_of
from spnas_core.data.raw_split import ImageSizes, Layout, RawSplit
from spnas_core.data.same_splits import without_same_splits
from spnas_core.data.split_file import SplitFile, find_split_file
from spnas_core.data.split_names import name_splits
from spnas_core.data.tree import FileTree, list_tree, printable
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading


def open_layout(url: str, sizes: ImageSizes, reading: Reading | None = None) -> Layout:
    """Read all splits of the data set at `url`, by their names here, for a check; UserError where it is in no known layout."""
    reading = reading or Reading()
    system, root = files.open_url(url)
    listings = Listings(system)
    inner, annotation_files = find_coco_root(listings, root, reading.annotations)
    if annotation_files:
        sources = tuple(coco_raw.read_raw(listings, inner, file, reading, sizes) for file in annotation_files.values())
        layout = Layout("COCO", files.url_of(system, root).rstrip("/"), sources, tuple(coco_raw.unlisted_images(listings, sources)))
        layout = _named(layout, reading)
    else:
        layout = open_other_layout(url, sizes, reading)
    given = find_split_file(listings, root, reading.split_file)
    layout = layout if given is None else _divided(layout, given)
    if reading.crowds == "learn":
        for source in layout.sources:
            _without_crowds(source.document)
    return layout


def open_other_layout(url: str, sizes: ImageSizes, reading: Reading) -> Layout:
    """Read all splits of a data set in another layout than COCO's, by their names here, without its split file; UserError."""
    system, root = files.open_url(url)
    place = files.url_of(system, root).rstrip("/")
    top = files.list_folder(system, root)
    if not top and files.kind(system, root) == "file":
        raise UserError(f"{place}: expected the folder of a data set, got a file; give {_folder_of(place)}")
    tree = list_tree(system, root)
    beside = {suffix: _beside_pictures(tree, suffix) for suffix in _READERS}
    unread: list[Layout] = []  # those of which no box can be read: files of another meaning, or all broken
    for suffix in sorted(_READERS, key=lambda suffix: -len(beside[suffix])):
        if layout := _READERS[suffix](tree, sizes):
            others = [printable(name) for other in _READERS if other != suffix for name in beside[other]]
            layout = replace(layout, findings=(*layout.findings, *found("other-layout", "data", others)))
            if any(raw.document["annotations"] for raw in layout.sources) or not any(raw.half_read for raw in layout.sources):
                return _named(_told_apart(layout, reading), reading)
            unread.append(layout)
    if unread:
        return _named(_told_apart(unread[0], reading), reading)
    if tool := tool_of(tree):
        raise UserError(f"{place}: expected a layout that is read here, got an export of {tool}; export it as COCO")
    if layout := table.open_table(tree, sizes, bool(reading.splits)):
        return _named(_told_apart(layout, reading), reading)
    names = ", ".join(map(printable, sorted(top)[:8])) or "nothing"
    known = "annotations/instances_*.json, or NAME.xml, NAME.txt or NAME.json for pictures NAME.jpg, or a table *.csv of boxes"
    raise UserError(f"{place}: expected {known}; there is {names}{', and no picture' if tree.entries and not tree.pictures else ''}")


def _folder_of(place: str) -> str:
    """Folder of the data set that an annotation file belongs to."""
    folder, name = posixpath.split(posixpath.dirname(place))
    return folder if name.lower() == "annotations" else posixpath.join(folder, name)


_READERS: dict[str, Callable[[FileTree, ImageSizes], Layout | None]] = {
    ".xml": voc.open_voc,
    ".txt": yolo.open_yolo,
    ".json": labelme.open_labelme,
}


def _beside_pictures(tree: FileTree, suffix: str) -> list[str]:
    """Files with a suffix that have the name of a picture."""
    stems = {stem_of(name).lower() for name in tree.pictures}
    return [name for name in tree.ending(suffix) if stem_of(name).lower() in stems]


def _told_apart(layout: Layout, reading: Reading) -> Layout:
    """Layout without splits that are one, unless the user has said which is which."""
    return layout if reading.splits else without_same_splits(layout)


def _named(layout: Layout, reading: Reading) -> Layout:
    names = name_splits([raw.split for raw in layout.sources], reading.splits, layout.url)
    by_own = {raw.split: raw for raw in layout.sources}
    return replace(layout, sources=tuple(_renamed(by_own[own], split) for own, split in names.items()))


def _renamed(raw: RawSplit, split: str) -> RawSplit:
    findings = tuple(replace(one, where=split) if one.where == raw.split else one for one in raw.findings)
    return replace(raw, split=split, found_as=raw.split, findings=findings)


def _divided(layout: Layout, given: SplitFile) -> Layout:
    """Divide the splits as a split file says; those that it does not name stay."""
    by_name = {raw.split: raw for raw in layout.sources}
    if gone := sorted(given.sources - by_name.keys()):
        raise UserError(f"{given.url}: expected splits of {layout.url}, {', '.join(by_name)}, got {gone[0]!r}")
    parts = []
    for split, part in given.splits.items():
        raw = by_name[part.of]
        names = list(raw.files)
        given.rows(split, names)
        parts.append(_part(raw, split, set(part.images), first=split == next(n for n, one in given.splits.items() if one.of == part.of)))
    rest = [raw for raw in layout.sources if raw.split not in given.sources]
    findings = found("split-file", "data", [given.url])
    return replace(layout, sources=(*parts, *rest), findings=(*layout.findings, *findings))


def _part(raw: RawSplit, split: str, images: set[str], first: bool) -> RawSplit:
    """Images of a split alone; the findings of its reading go to the `first` part."""
    document = raw.document
    if isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations")):
        entries = [one for one in document["images"] if isinstance(one, dict) and one.get("file_name") in images]
        ids = {one.get("id") for one in entries if not isinstance(one.get("id"), list | dict)}
        marks = [one for one in document["annotations"] if isinstance(one, dict) and _id_of(one) in ids]
        document = {**document, "images": entries, "annotations": marks}
    located = {name: file for name, file in raw.files.items() if name in images}
    return replace(
        raw, split=split, document=document, files=located, findings=raw.findings if first else (), half_read=raw.half_read & images
    )


def _id_of(mark: dict[str, Any]) -> Any:
    number = mark.get("image_id")
    return None if isinstance(number, list | dict) else number


def _without_crowds(document: Any) -> None:
    marks = document.get("annotations") if isinstance(document, dict) else None
    for mark in marks if isinstance(marks, list) else ():
        if isinstance(mark, dict) and mark.get("iscrowd") == 1:
            mark["iscrowd"] = 0


def layout_listing(system: Any, root: str) -> str:
    """Sha256 (hex) of what the store says of every file (path, size, time, tag) that a data set in `root` is read from."""
    system.invalidate_cache()  # a driver may remember its listings
    return list_tree(system, root).digest
