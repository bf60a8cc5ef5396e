"""YOLO, read as COCO documents.

    DATA/images/SPLIT/*.jpg with DATA/labels/SPLIT/*.txt, or DATA/SPLIT/images/ with DATA/SPLIT/labels/, or images/ with labels/ (all train)

A line of a label file is ``class x_centre y_centre width height``, parts of the image in [0, 1], or ``class x y x y x y ...``, a
polygon, of which the box is taken. Names of the classes are under `names` in a YAML file of DATA, or the lines of classes.txt or obj.names.
An image without a label file has no boxes. https://docs.ultralytics.com/datasets/detect/
"""

import math
import posixpath
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml

from spnas_core.data import files
from spnas_core.data.findings import found
from spnas_core.data.images import Look
from spnas_core.data.looks import Looks
from spnas_core.data.source import SUFFIXES, Layout, Source, marked

USUAL = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}  # folders that others call so
LARGEST = 1.5  # what is larger is no part of an image, but px
Line = tuple[int, float, float, float, float]  # class, and xywh in parts of the image


def open_yolo(system: Any, root: str, looks: Looks) -> Layout | None:
    """Read a data set in this layout; None where there are no folders of images and labels."""
    folders = _folders(system, root)
    if not folders:
        return None
    names = _names(system, root)
    sources = [_source(system, root, split, *pair, looks) for split, pair in folders.items()]
    used = {mark["category_id"] for source in sources for mark in source.document["annotations"]}
    given = list(enumerate(names)) if names else [(number, f"class_{number}") for number in sorted(used)]
    for source in sources:
        source.document["categories"] = [{"id": number, "name": name} for number, name in given]
    findings = found("unnamed-category", "data", [] if names else [name for _, name in given])
    if ("images", "labels") not in folders.values():  # what lies beside the folders of the splits
        beside = sorted(files.list_folder(system, files.join(root, "images")))
        findings += found("unlisted-image", "data", [f"images/{name}" for name in beside if name.lower().endswith(SUFFIXES)])
    return Layout("YOLO", files.full_url(system, root).rstrip("/"), tuple(sources), tuple(findings))


def read_lines(text: str, name: str) -> tuple[list[Line], list[str]]:
    """Boxes of one label file, as they are, and what is malformed in it."""
    boxes: list[Line] = []
    malformed = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        try:
            values = [float(word) for word in words[1:]]
            label = int(words[0]) if words else 0
        except ValueError:
            values, label = [math.nan], 0
        if not words:
            continue
        if label < 0 or not all(abs(value) <= LARGEST for value in values):
            malformed.append(f"{name}, line {number}: expected a class and parts of the image from 0 to 1, got {line.strip()[:60]!r}")
        elif len(values) == 4:
            x, y, width, height = values
            boxes.append((label, x - width / 2, y - height / 2, width, height))
        elif len(values) >= 6 and len(values) % 2 == 0:
            across, down = values[::2], values[1::2]
            boxes.append((label, min(across), min(down), max(across) - min(across), max(down) - min(down)))
        else:
            malformed.append(f"{name}, line {number}: expected 5 numbers, or a class and a polygon, got {len(words)}")
    return boxes, malformed


def _folders(system: Any, root: str) -> dict[str, tuple[str, str]]:
    """Folders of images and of labels of each split, below the root."""
    top = {name for name, entry in files.list_folder(system, root).items() if entry["type"] == "directory"}
    pairs = {}
    if {"images", "labels"} <= top:
        inner = {name for name, entry in files.list_folder(system, files.join(root, "images")).items() if entry["type"] == "directory"}
        pairs = {split: (f"images/{split}", f"labels/{split}") for split in inner} or {"train": ("images", "labels")}
    else:
        for split in top:
            if {"images", "labels"} <= files.list_folder(system, files.join(root, split)).keys():
                pairs[split] = (f"{split}/images", f"{split}/labels")
    taken = set(pairs)
    named = {split if USUAL.get(split, split) in taken else USUAL.get(split, split): pair for split, pair in sorted(pairs.items())}
    usual = [split for split in ("train", "val", "test") if split in named]
    return {split: named[split] for split in (*usual, *(name for name in named if name not in usual))}


def _names(system: Any, root: str) -> list[str]:
    """Names of the classes 0, 1, ...; empty where no file says them."""
    for name in sorted(files.list_folder(system, root)):
        if name.endswith((".yaml", ".yml")):
            try:
                document = yaml.safe_load(files.read(system, files.join(root, name)))
            except (yaml.YAMLError, ValueError):
                continue
            names = document.get("names") if isinstance(document, dict) else None
            if isinstance(names, dict) and set(names) == set(range(len(names))):
                names = [names[number] for number in range(len(names))]
            if isinstance(names, list) and names:
                return [str(one) for one in names]
        elif name in ("classes.txt", "obj.names"):
            return files.read(system, files.join(root, name)).decode(errors="replace").strip().splitlines()
    return []


def _source(system: Any, root: str, split: str, pictures: str, labels: str, looks: Looks) -> Source:
    listing = files.list_folder(system, files.join(root, pictures))
    names = sorted(name for name, entry in listing.items() if entry["type"] == "file" and name.lower().endswith(SUFFIXES))
    urls = {name: files.full_url(system, listing[name]["name"]) for name in names}
    texts = {name for name in files.list_folder(system, files.join(root, labels)) if name.endswith(".txt")}
    wanted = {name: f"{posixpath.splitext(name)[0]}.txt" for name in names}

    def read(name: str) -> tuple[list[Line], list[str]]:
        if wanted[name] not in texts:
            return [], []
        return read_lines(files.read(system, files.join(root, labels, wanted[name])).decode(errors="replace"), f"{labels}/{wanted[name]}")

    with ThreadPoolExecutor(16, thread_name_prefix="spnas-read") as pool:
        pages = dict(zip(names, pool.map(read, names), strict=True))
    seen = looks.at(urls.values())
    entries: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for image_id, (name, (boxes, _)) in enumerate(pages.items(), start=1):
        picture = seen[urls[name]]
        if isinstance(picture, Look):
            width, height = picture.size
            entries.append({"id": image_id, "file_name": f"{pictures}/{name}", "width": width, "height": height})
            for label, x, y, w, h in boxes:
                marks.append(marked(len(marks) + 1, image_id, label, (x * width, y * height, w * width, h * height)))
    findings = found("malformed", split, [text for _, malformed in pages.values() for text in malformed])
    orphans = sorted(texts - set(wanted.values()) - {"classes.txt"})
    findings += found("missing-image-of-label", split, [f"{labels}/{name}" for name in orphans])
    places: dict[str, str | None] = {f"{pictures}/{name}": url for name, url in urls.items()}
    half_read = frozenset(f"{pictures}/{name}" for name, (_, malformed) in pages.items() if malformed)
    return Source(split, {"images": entries, "annotations": marks, "categories": []}, places, tuple(findings), half_read)
