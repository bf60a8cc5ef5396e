"""The layout of a data set, recognised by its files: COCO, Pascal VOC or YOLO; the last two are read as COCO documents.

    COCO        annotations/instances_SPLIT.json, images as `coco.py` finds them
    Pascal VOC  Annotations/NAME.xml, JPEGImages/, ImageSets/Main/SPLIT.txt (without lists all is train)
    YOLO        images/SPLIT/ and labels/SPLIT/, or SPLIT/images/ and SPLIT/labels/; names of both in a YAML file, or classes.txt

Only what keeps a file from being read is a finding here; check/ judges the rest.
"""

import hashlib
from dataclasses import replace
from typing import Any

from spnas_core.data import coco, files, voc, yolo
from spnas_core.data.raw_split import ImageSizes, Layout
from spnas_core.data.split_names import name_splits
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading


def open_layout(url: str, sizes: ImageSizes, reading: Reading | None = None) -> Layout:
    """Read all splits of the data set at `url`, by their names here; UserError where it is in no known layout."""
    layout = _open(url, sizes)
    names = name_splits([raw.split for raw in layout.sources], (reading or Reading()).splits, layout.url)
    by_own = {raw.split: raw for raw in layout.sources}
    return replace(layout, sources=tuple(replace(by_own[own], split=split, found_as=own) for own, split in names.items()))


def _open(url: str, sizes: ImageSizes) -> Layout:
    system, root = files.open_url(url)
    top = files.list_folder(system, root)
    place = files.url_of(system, root).rstrip("/")
    splits = coco.coco_split_names(system, root) if coco.FOLDER in top else []
    if splits:
        sources = tuple(coco.read_raw(system, root, split) for split in splits)
        return Layout("COCO", place, sources, tuple(coco.unlisted_images(system, sources)))
    if "Annotations" in top and (layout := voc.open_voc(system, root, sizes)):
        return layout
    if layout := yolo.open_yolo(system, root, sizes):
        return layout
    names = ", ".join(sorted(top)[:8]) or "nothing"
    raise UserError(f"{place}: expected annotations/instances_*.json, Annotations/*.xml, or images/ with labels/; there is {names}")


def layout_listing(system: Any, root: str) -> str:
    """Sha256 (hex) of what the store says of every file (path, size, time, tag) that Pascal VOC or YOLO in `root` is read from."""
    system.invalidate_cache()  # a driver may remember its listings
    top = files.list_folder(system, root)
    folders = [folder for folder in dict.fromkeys((*voc.FOLDERS, *yolo.top_folders(system, root))) if folder in top]
    entries = {name: entry for name, entry in top.items() if entry["type"] != "directory"}
    for folder in folders:
        entries |= files.entries_below(system, files.join_path(root, folder))
    return hashlib.sha256(repr([sorted(map(repr, entries[path].items())) for path in sorted(entries)]).encode()).hexdigest()
