"""YOLO, read as COCO documents: label files and pictures, wherever they lie below the place of the data set.

    DATA/images/SPLIT/*.jpg with DATA/labels/SPLIT/*.txt, or DATA/SPLIT/images/ with DATA/SPLIT/labels/, or images/ with labels/
    DATA/SPLIT/*.jpg with DATA/SPLIT/*.txt (labelImg: side by side), or Darknet's obj.data, obj.names and train.txt

Which pictures are a split `yolo_folders.py` finds, and what a line of a label file is `yolo_lines.py`. Names of the classes are under
`names` in a YAML file, or the lines of classes.txt or obj.names nearest to the labels (`yolo_classes.py`).
An image without a label file has no boxes.
https://docs.ultralytics.com/datasets/detect/
"""

import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from spnas_core.data.findings import Finding, found
from spnas_core.data.matching import stem_of
from spnas_core.data.raw_split import ImageSizes, Layout, RawSplit, marked
from spnas_core.data.tree import READ_THREADS, FileTree, printable, text_of
from spnas_core.data.yolo_classes import class_names
from spnas_core.data.yolo_described import keypoint_values, read_described
from spnas_core.data.yolo_folders import Listed, label_files, named_splits, other_splits
from spnas_core.data.yolo_lines import LabelText, are_poses, label_boxes, read_label, renumbered


def open_yolo(tree: FileTree, sizes: ImageSizes) -> Layout | None:
    """Read a data set in this layout; None where there are no pictures with label files, nor with a folder of those."""
    described, broken = read_described(tree)
    splits, absent, lists, described = named_splits(tree, described)
    label_of, alone, pairs = label_files(tree, lists)
    if not tree.pictures or not (label_of or alone or pairs.unclear or (splits and any("names" in one.document for one in described))):
        return None
    splits |= other_splits(tree, splits, label_of or dict.fromkeys(tree.pictures, ""))
    keypoints = keypoint_values(described)
    labels = _read_labels(tree, splits, label_of, keypoints)
    classes = class_names(tree, described, splits, label_of)
    if classes.numbers is not None:
        labels = {picture: renumbered(label, classes.numbers[posixpath.dirname(label.name)]) for picture, label in labels.items()}
    poses = are_poses(labels.values()) if keypoints is None else keypoints > 0
    sources = [_source(tree, split, listed, label_of, labels, poses, sizes) for split, listed in splits.items()]
    unclear = frozenset(picture for some in pairs.unclear.values() for picture in some)
    sources = [replace(raw, half_read=raw.half_read | (unclear & raw.files.keys())) for raw in sources]
    names = classes.names
    used = {mark["category_id"] for raw in sources for mark in raw.document["annotations"]}
    unnamed = {number: f"class_{number}" for number in sorted(used)} if not any(names.values()) else {}
    for raw in sources:
        raw.document["categories"] = [{"id": number, "name": name} for number, name in (unnamed or names[raw.split]).items()]
    findings = [*classes.findings, *found("unnamed-category", "data", list(unnamed.values())), *found("list-of-images", "data", absent)]
    findings += found("unreadable", "data", list(map(printable, broken))) if unnamed else []
    findings += found("other-spelling", "data", list(map(printable, pairs.respelled)))
    findings += found("malformed", "data", [_unclear(label, some) for label, some in pairs.unclear.items()])
    split_of = {posixpath.dirname(label_of[one]): split for split, listed in splits.items() for one in listed.pictures if one in label_of}
    for place in dict.fromkeys(split_of.get(posixpath.dirname(name), "data") for name in alone):
        some = [_alone(tree, name) for name in alone if split_of.get(posixpath.dirname(name), "data") == place]
        findings += found("missing-image-of-label", place, some)
    if poses and keypoints is None:
        findings += found(
            "keypoints", "data", [printable(label.name) for label in labels.values() for row in label.rows if len(row.values) > 4]
        )
    return Layout("YOLO", tree.url, tuple(sources), (*findings, *_unlisted(tree, sources, label_of)))


def _read_labels(tree: FileTree, splits: Mapping[str, Listed], label_of: Mapping[str, str], keypoints: int | None) -> dict[str, LabelText]:
    """Rows of the label files of all splits, by picture."""
    pictures = list(dict.fromkeys(picture for listed in splits.values() for picture in listed.pictures if picture in label_of))
    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="spnas-read") as pool:
        read = pool.map(lambda one: read_label(text_of(tree.read(label_of[one])), label_of[one], keypoints), pictures)
        return dict(zip(pictures, read, strict=True))


def _source(
    tree: FileTree,
    split: str,
    listed: Listed,
    label_of: Mapping[str, str],
    labels: Mapping[str, LabelText],
    poses: bool | None,
    sizes: ImageSizes,
) -> RawSplit:
    files = {picture: tree.image(picture) for picture in listed.pictures}
    measured = sizes(file.url for file in files.values())
    entries: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    malformed: list[str] = []
    half_read = set()
    for image_id, name in enumerate(listed.pictures, start=1):
        boxes, faults = label_boxes(labels[name], poses) if name in labels else ([], [])
        malformed += faults
        half_read |= {name} if faults else set()
        if size := measured[files[name].url]:
            width, height = size
            entries.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for label, x, y, w, h in boxes:
                marks.append(marked(len(marks) + 1, image_id, label, (x * width, y * height, w * width, h * height)))
    findings = found("malformed", split, malformed) + found("other-spelling", split, list(map(printable, listed.respelled)))
    pictures: dict[str, list[str]] = {}
    for name in listed.pictures:
        if name in labels and labels[name].rows:
            pictures.setdefault(labels[name].name, []).append(name)
    shared = [f"{label} of {', '.join(some[:3])}" for label, some in pictures.items() if len(some) > 1]
    findings += found("shared-label", split, list(map(printable, shared)))
    findings += found("repeated-line", split, list(map(printable, listed.repeated)))
    document = {"images": entries, "annotations": marks, "categories": []}
    return RawSplit(split, document, {**files, **dict.fromkeys(listed.missing)}, tuple(findings), frozenset(half_read))


def _unclear(label: str, pictures: Sequence[str]) -> str:
    names = ", ".join(map(printable, pictures[:3]))
    return f"{printable(label)}: expected one picture of this name, got {names}; rename the others"


def _alone(tree: FileTree, label: str) -> str:
    """Label file without a picture, and the file of its name that is none."""
    stem = stem_of(label)
    other = next((name for name in tree.others_by_stem.get(stem, ()) if not name.lower().endswith((".txt", ".xml", ".json"))), None)
    return printable(label) + (f"; {printable(other)} is of no known suffix: save it as PNG or JPEG" if other else "")


def _unlisted(tree: FileTree, sources: Sequence[RawSplit], label_of: Mapping[str, str]) -> list[Finding]:
    """One finding about the pictures that no split has, in the folders of those that one has, or with a label file."""
    used = {name for raw in sources for name in raw.files}
    tops = {name.split("/")[0] if "/" in name else "" for name in used}
    free = [name for name in tree.pictures if name not in used]
    return found("unlisted-image", "data", [printable(n) for n in free if n in label_of or (n.split("/")[0] if "/" in n else "") in tops])
