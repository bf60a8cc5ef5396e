"""Folders of the splits of a YOLO data set and names of its classes: as a YAML file says, else by the names of folders and files.

All folders are paths below the root. The labels of an image are where it lies, with ``labels`` in place of the last ``images``.
"""

import contextlib
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from spnas_core.data import files

_SPLITS = ("train", "val", "test")
USUAL = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}  # folders that others call so
Described = Sequence[dict[str, Any]]
Folders = dict[str, tuple[str, ...]]  # of images, by split


def read_described(system: Any, root: str) -> Described:
    """Content of each YAML file in the root that holds an object."""
    documents = []
    for name in sorted(files.list_folder(system, root)):
        if name.endswith((".yaml", ".yml")):
            with contextlib.suppress(yaml.YAMLError, ValueError):
                documents.append(yaml.safe_load(files.read_file(system, files.join_path(root, name))))
    return [document for document in documents if isinstance(document, dict)]


def split_folders(system: Any, root: str, described: Described) -> Folders:
    """Folders of images of each split: those that a YAML file names, then others that have labels beside them."""
    splits = next(filter(None, (_named(system, root, document) for document in described)), {})
    taken = [folder for folders in splits.values() for folder in folders]
    for split, folder in _by_name(system, root).items():
        if split not in splits and not any(f"{folder}/".startswith(f"{other}/") or other.startswith(f"{folder}/") for other in taken):
            splits[split] = (folder,)
    usual = [split for split in _SPLITS if split in splits]
    return {split: splits[split] for split in (*usual, *(name for name in splits if name not in usual))}


def lists_of_images(system: Any, root: str, described: Described) -> dict[str, tuple[str, set[str]]]:
    """Text files that a YAML file names as splits: by split, the name of its list and the names of its images without folders."""
    lists: dict[str, tuple[str, set[str]]] = {}
    for split, entry in ((split, document.get(split)) for document in described for split in _SPLITS):
        if isinstance(entry, str) and entry.endswith(".txt") and not entry.startswith(("/", "..")):
            lists.setdefault(split, (entry, {posixpath.basename(line) for line in _lines(system, root, entry)}))
    return lists


def keypoint_values(described: Described) -> int:
    """Values of the keypoints in each line of pose labels, by `kpt_shape` of a YAML file; 0 for boxes and polygons."""
    shapes = (document.get("kpt_shape") for document in described)
    shape = next((one for one in shapes if isinstance(one, list) and len(one) == 2 and all(isinstance(n, int) for n in one)), [0, 0])
    return int(shape[0] * shape[1])


def label_place(path: str) -> str:
    """Path of the labels of a folder or of an image."""
    before, images, after = f"/{path}/".rpartition("/images/")
    return f"{before}/labels/{after}".strip("/") if images else path


def class_names(system: Any, root: str, described: Described, splits: Folders) -> dict[str, list[str]]:
    """Names of the classes 0, 1, ... for each split; empty where no file has them.

    A YAML file has them, or a list in the root, or one with the labels, where labelImg writes it; a split without one takes another's.
    """
    for document in described:
        names = document.get("names")
        if isinstance(names, dict) and set(map(str, names)) == set(map(str, range(len(names)))):  # numbers, also as text
            by_number = {str(number): name for number, name in names.items()}
            names = [by_number[str(number)] for number in range(len(names))]
        if isinstance(names, list) and names:
            return {split: [str(name) for name in names] for split in splits}
    if names := _lines(system, root, "classes.txt") or _lines(system, root, "obj.names"):
        return dict.fromkeys(splits, names)
    lists = {split: _beside(system, root, label_place(folders[0])) for split, folders in splits.items()}
    common = next(filter(None, lists.values()), [])
    return {split: names or common for split, names in lists.items()}


def _beside(system: Any, root: str, labels: str) -> list[str]:
    return _lines(system, root, f"{labels}/classes.txt") or _lines(system, root, f"{posixpath.dirname(labels)}/classes.txt".lstrip("/"))


def _lines(system: Any, root: str, name: str) -> list[str]:
    try:
        return files.read_file(system, files.join_path(root, name)).decode("utf-8-sig", errors="replace").strip().splitlines()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return []


def _named(system: Any, root: str, document: dict[str, Any]) -> Folders:
    """Folders that `document` names for its splits, of those that are below the root."""
    splits = {}
    for split in _SPLITS:
        entries = document.get(split)
        folders = [_below(system, root, document.get("path"), entry) for entry in (entries if isinstance(entries, list) else [entries])]
        splits[split] = tuple(folder for folder in folders if folder)
    return {split: folders for split, folders in splits.items() if folders}


def _below(system: Any, root: str, base: Any, entry: Any) -> str:
    """Path below the root of the folder `entry`, relative to `base` or to the root; empty where no such folder exists."""
    for place in _places(base, entry) if isinstance(entry, str) else ():
        full = posixpath.normpath(posixpath.join(root, place))
        inner = full.removeprefix(f"{root.rstrip('/')}/")
        if inner != full and files.list_folder(system, full):
            return inner
    return ""


def _places(base: Any, entry: str) -> Iterator[str]:
    if isinstance(base, str):
        yield posixpath.join(base, entry)
    yield entry
    if entry.startswith("../"):  # as Roboflow writes what lies beside the YAML file
        yield entry.removeprefix("../")


def _by_name(system: Any, root: str) -> dict[str, str]:
    """Folder of images of each split that folders are named for: images/SPLIT or SPLIT/images, or images alone for train."""
    top = _folders_in(system, root)
    if {"images", "labels"} <= top:
        inner = _folders_in(system, files.join_path(root, "images"))
        splits = {split: f"images/{split}" for split in inner} or {"train": "images"}
    else:
        splits = {split: f"{split}/images" for split in top if {"images", "labels"} <= _folders_in(system, files.join_path(root, split))}
    usual = {split: USUAL.get(split, split) for split in splits}
    return {split if usual[split] in splits else usual[split]: folder for split, folder in sorted(splits.items())}


def _folders_in(system: Any, path: str) -> set[str]:
    return {name for name, entry in files.list_folder(system, path).items() if entry["type"] == "directory" and name[0] != "."}
