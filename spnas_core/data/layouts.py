"""The layout of a data set, found by what is there: COCO, Pascal VOC or YOLO; the last two are read as COCO documents.

    COCO        annotations/instances_SPLIT.json, images as `coco.py` finds them
    Pascal VOC  Annotations/NAME.xml, JPEGImages/, ImageSets/Main/SPLIT.txt (without lists all is train)
    YOLO        images/SPLIT/ and labels/SPLIT/, or SPLIT/images/ and SPLIT/labels/; names of both in a YAML file, or classes.txt

Nothing is judged here but what keeps a file from being read.
"""

import json
import posixpath
from typing import Any

from spnas_core.data import coco, files, voc, yolo
from spnas_core.data.findings import Finding, found
from spnas_core.data.image_facts import ImageFacts
from spnas_core.data.raw_split import SUFFIXES, Layout, RawSplit
from spnas_core.errors import UserError

BEFORE, AFTER = "instances_", ".json"


def open_layout(url: str, facts: ImageFacts) -> Layout:
    """Read all splits of the data set at `url`; UserError where it is in no known layout."""
    system, root = files.open_url(url)
    top = files.list_folder(system, root)
    place = files.url_of(system, root).rstrip("/")
    splits = _coco_splits(system, root) if "annotations" in top else []
    if splits:
        sources = tuple(_coco(system, root, split) for split in splits)
        return Layout("COCO", place, sources, _unlisted(system, sources))
    if "Annotations" in top and (layout := voc.open_voc(system, root, facts)):
        return layout
    if layout := yolo.open_yolo(system, root, facts):
        return layout
    there = ", ".join(sorted(top)[:8]) or "nothing"
    raise UserError(f"{place}: expected annotations/instances_*.json, Annotations/*.xml, or images/ with labels/; there is {there}")


def _coco_splits(system: Any, root: str) -> list[str]:
    names = files.list_folder(system, files.join_path(root, "annotations"))
    splits = {name.removeprefix(BEFORE).removesuffix(AFTER) for name in names if name.startswith(BEFORE) and name.endswith(AFTER)}
    usual = [name for name in ("train", "val", "test") if name in splits]
    return usual + sorted(splits - set(usual))


def _coco(system: Any, root: str, split: str) -> RawSplit:
    name = f"annotations/{BEFORE}{split}{AFTER}"
    document = None
    try:
        document = json.loads(files.read_file(system, files.join_path(root, name)))
        wrong = "" if document is not None else "null"
    except (ValueError, RecursionError) as error:
        wrong = str(error)
    findings = found("unreadable", split, [f"{name}: expected JSON, got: {wrong}"] if wrong else [])
    listed = document.get("images") if isinstance(document, dict) else None
    names = [one["file_name"] for one in listed if _is_named(one)] if isinstance(listed, list) else []
    there = coco.locate_images(system, root, split, [name for name in names if _is_inside(name)])
    return RawSplit(split, document, {name: there[name][0] if name in there else None for name in names}, tuple(findings))


def _unlisted(system: Any, sources: tuple[RawSplit, ...]) -> tuple[Finding, ...]:
    """Find the images that lie beside those of the splits."""
    used = {url for raw in sources for url in raw.files.values() if url}
    beside = []
    for folder in sorted({posixpath.dirname(url) for url in used}):
        listing = files.list_folder(system, files.open_url(folder)[1])
        urls = sorted(files.url_of(system, entry["name"]) for name, entry in listing.items() if name.lower().endswith(SUFFIXES))
        beside += [posixpath.basename(url) for url in urls if url not in used]
    return tuple(found("unlisted-image", "data", beside))


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("file_name"), str) and bool(entry["file_name"])


def _is_inside(name: str) -> bool:
    try:
        files.join_path("data", name)
    except UserError:
        return False
    return True
