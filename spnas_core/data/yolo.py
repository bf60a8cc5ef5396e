"""YOLO, read as COCO documents.

    DATA/images/SPLIT/*.jpg with DATA/labels/SPLIT/*.txt, or DATA/SPLIT/images/ with DATA/SPLIT/labels/, or images/ with labels/ (all train)

Folders below these are read too. Where a YAML file of DATA names folders under `train`, `val` or `test`, these are the splits.
A line of a label file is ``class x_centre y_centre width height``, parts of the image in [0, 1], or ``class x y x y x y ...``, a
polygon, of which the box is taken. Where a YAML file has `kpt_shape`, keypoints follow the box, and are left out. Names of the classes
are under `names` in a YAML file of DATA, or the lines of classes.txt (in DATA or with the labels) or obj.names. An image without a label
file has no boxes. https://docs.ultralytics.com/datasets/detect/
"""

import math
import posixpath
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from spnas_core.data import files, yolo_folders
from spnas_core.data.findings import found
from spnas_core.data.images import SUFFIXES
from spnas_core.data.raw_split import ImageFile, ImageSizes, Layout, RawSplit, marked

LARGEST = 1.5  # a larger value is no part of an image, but px
_Line = tuple[int, float, float, float, float]  # class, and xywh in parts of the image


def open_yolo(system: Any, root: str, sizes: ImageSizes) -> Layout | None:
    """Read a data set in this layout; None where there are no folders of images and labels."""
    described = yolo_folders.read_described(system, root)
    splits = yolo_folders.split_folders(system, root, described)
    if not splits:
        return None
    names = yolo_folders.class_names(system, root, described, splits)
    keypoints = yolo_folders.keypoint_values(described)
    sources = [_source(system, root, split, folders, sizes, keypoints) for split, folders in splits.items()]
    used = {mark["category_id"] for raw in sources for mark in raw.document["annotations"]}
    unnamed = [(number, f"class_{number}") for number in sorted(used)] if not any(names.values()) else []
    for raw in sources:
        categories = unnamed or list(enumerate(names[raw.split]))
        raw.document["categories"] = [{"id": number, "name": name} for number, name in categories]
    findings = found("unnamed-category", "data", [name for _, name in unnamed])
    images = {raw.split: {posixpath.basename(name) for name in raw.files} for raw in sources}
    lists = yolo_folders.lists_of_images(system, root, described)
    findings += found("list-of-images", "data", [name for split, (name, listed) in lists.items() if listed != images.get(split)])
    used_images = {name for raw in sources for name in raw.files}
    beside = sorted(name for name in _files(system, root, "images") if name.lower().endswith(SUFFIXES) and name not in used_images)
    findings += found("unlisted-image", "data", beside)
    return Layout("YOLO", files.url_of(system, root).rstrip("/"), tuple(sources), tuple(findings))


def top_folders(system: Any, root: str) -> list[str]:
    """Folders right in `root` that a data set in this layout is read from; empty in another layout."""
    folders = yolo_folders.split_folders(system, root, yolo_folders.read_described(system, root)).values()
    places = [place for folder in folders for path in folder for place in (path, yolo_folders.label_place(path), "images", "labels")]
    return sorted({place.split("/")[0] for place in places})


def read_lines(text: str, name: str, keypoints: int = 0) -> tuple[list[_Line], list[str]]:
    """Boxes of one label file, as written, and its malformed lines; in pose labels, `keypoints` values follow each box."""
    boxes: list[_Line] = []
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
        if keypoints and len(values) == 4 + keypoints:
            values = values[:4]  # the points may be in px, or -1
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


def _files(system: Any, root: str, folder: str) -> dict[str, ImageFile]:
    """Every file in a folder and in those below it that are not hidden, by its path below the root."""
    top = f"{root.strip('/')}/"
    below = files.files_below(system, files.join_path(root, folder))
    inner = {path.strip("/").removeprefix(top): ImageFile(files.url_of(system, path), size) for path, size in below.items()}
    return {name: file for name, file in sorted(inner.items()) if "/." not in name}


def _source(system: Any, root: str, split: str, folders: tuple[str, ...], sizes: ImageSizes, keypoints: int) -> RawSplit:
    beside = {name: file for folder in folders for name, file in _files(system, root, folder).items()}
    labels = {name for folder in folders for name in _files(system, root, yolo_folders.label_place(folder))}
    pictures = {name: file for name, file in beside.items() if name.lower().endswith(SUFFIXES)}
    wanted = {name: f"{posixpath.splitext(yolo_folders.label_place(name))[0]}.txt" for name in pictures}

    def read(name: str) -> tuple[list[_Line], list[str]]:
        if wanted[name] not in labels and wanted[name] not in beside:
            return [], []
        return read_lines(
            files.read_file(system, files.join_path(root, wanted[name])).decode("utf-8-sig", errors="replace"), wanted[name], keypoints
        )

    with ThreadPoolExecutor(16, thread_name_prefix="spnas-read") as pool:
        pages = dict(zip(pictures, pool.map(read, pictures), strict=True))
    measured = sizes(file.url for file in pictures.values())
    entries: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for image_id, (name, (boxes, _)) in enumerate(pages.items(), start=1):
        if size := measured[pictures[name].url]:
            width, height = size
            entries.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for label, x, y, w, h in boxes:
                marks.append(marked(len(marks) + 1, image_id, label, (x * width, y * height, w * width, h * height)))
    findings = found("malformed", split, [text for _, malformed in pages.values() for text in malformed])
    texts = {name for name in labels if name.endswith(".txt") and posixpath.basename(name) != "classes.txt"}
    findings += found("missing-image-of-label", split, sorted(texts - set(wanted.values())))
    half_read = frozenset(name for name, (_, malformed) in pages.items() if malformed)
    document = {"images": entries, "annotations": marks, "categories": []}
    return RawSplit(split, document, dict(pictures), tuple(findings), half_read)
