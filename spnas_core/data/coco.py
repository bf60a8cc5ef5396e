"""Files of a data set in COCO layout.

DATA/annotations/instances_SPLIT.json      images in DATA/images/, DATA/SPLIT/, DATA/images/SPLIT/, DATA/ or beside the annotations
"""

import json
import posixpath
from collections.abc import Sequence
from typing import Any

from spnas_core.data import files
from spnas_core.data.findings import Finding, found
from spnas_core.data.images import SUFFIXES
from spnas_core.data.raw_split import ImageFile, RawSplit
from spnas_core.errors import UserError

FOLDER, BEFORE, AFTER = "annotations", "instances_", ".json"


def annotation_file(split: str) -> str:
    """Path of a split's annotation file below the data set."""
    return f"{FOLDER}/{BEFORE}{split}{AFTER}"


def coco_split_names(system: Any, root: str) -> list[str]:
    """Names of the splits that have an annotation file: train, val and test first."""
    names = files.list_folder(system, files.join_path(root, FOLDER))
    splits = {name.removeprefix(BEFORE).removesuffix(AFTER) for name in names if name.startswith(BEFORE) and name.endswith(AFTER)}
    usual = [name for name in ("train", "val", "test") if name in splits]
    return usual + sorted(splits - set(usual))


def read_raw(system: Any, root: str, split: str) -> RawSplit:
    """Read a split that may be faulty in every way; what keeps its file from being read is a finding."""
    name = annotation_file(split)
    document = None
    try:
        document = json.loads(files.read_file(system, files.join_path(root, name)))
        wrong = "" if document is not None else "null"
    except (ValueError, RecursionError) as error:
        wrong = str(error)
    findings = found("unreadable", split, [f"{name}: expected JSON, got: {wrong}"] if wrong else [])
    listed = document.get("images") if isinstance(document, dict) else None
    names = [entry["file_name"] for entry in listed if _is_named(entry)] if isinstance(listed, list) else []
    located = locate_images(system, root, split, [name for name in names if _is_inside(name)])
    return RawSplit(split, document, {name: located.get(name) for name in names}, tuple(findings))


def locate_images(system: Any, root: str, split: str, names: Sequence[str]) -> dict[str, ImageFile]:
    """Files of those image names that exist, by one listing of each folder."""
    tops = [files.join_path(root, *parts) for parts in (("images",), (split,), ("images", split), (".",), (FOLDER,))]
    listings: dict[str, dict[str, Any]] = {}
    located: dict[str, ImageFile] = {}
    for name in names:
        for top in tops:
            folder, base = posixpath.split(files.join_path(top, name))
            if folder not in listings:
                listings[folder] = files.list_folder(system, folder)
            entry = listings[folder].get(base)
            if entry is not None and entry["type"] == "file":
                located[name] = ImageFile(files.url_of(system, entry["name"]), int(entry.get("size") or 0))
                break
    return located


def unlisted_images(system: Any, sources: Sequence[RawSplit]) -> list[Finding]:
    """One finding about the images that lie beside those of the splits and belong to none."""
    used = {file.url for raw in sources for file in raw.files.values() if file}
    beside = []
    for folder in sorted({posixpath.dirname(url) for url in used}):
        listing = files.list_folder(system, files.open_url(folder)[1])
        urls = sorted(files.url_of(system, entry["name"]) for name, entry in listing.items() if name.lower().endswith(SUFFIXES))
        beside += [posixpath.basename(url) for url in urls if url not in used]
    return found("unlisted-image", "data", beside)


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("file_name"), str) and bool(entry["file_name"])


def _is_inside(name: str) -> bool:
    try:
        files.join_path("data", name)
    except UserError:
        return False
    return True
