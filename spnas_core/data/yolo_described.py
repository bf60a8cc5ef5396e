"""What a YOLO data set says of itself: its YAML files, and Darknet's obj.data; the places they name, and the names of its classes."""

import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from spnas_core.data.split_names import SPLITS, usual_name
from spnas_core.data.tree import FileTree, lines_of

CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")


@dataclass(frozen=True)
class Described:
    """Content of a file that describes the data set, all scalars as texts, and its folder below the root."""

    folder: str
    document: Mapping[str, Any]
    name: str = ""

    def places(self, key: str) -> list[str]:
        """Places that it names for a split."""
        others = (name for name in self.document if name.isalpha() and usual_name(name) == key)
        entry = self.document.get(key, self.document.get(next(others, key)))
        return [one.strip() for one in (entry if isinstance(entry, list) else [entry]) if isinstance(one, str) and one.strip()]


def read_described(tree: FileTree) -> tuple[list[Described], list[str]]:
    """Files that describe the data set, of those nearest to the root, and those that cannot be read."""
    names = tree.ending(".yaml", ".yml")
    depth = min((name.count("/") for name in names), default=0)
    described, broken = [], []
    for name in names:
        if name.count("/") == depth:
            try:
                document = yaml.load(tree.text(name), Loader=yaml.BaseLoader)  # texts alone: a class may be called no, or 1.0
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                broken.append(f"{name}: expected YAML, got: {' '.join(str(error).split())}")
                continue
            if isinstance(document, dict) and all(isinstance(key, str) for key in document):
                described.append(Described(posixpath.dirname(name), document, name))
    for name in tree.ending(".data"):
        pairs = dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in lines_of(tree.text(name)) if "=" in line)
        described.append(Described(posixpath.dirname(name), pairs, name))
    return described, broken


def keypoint_values(described: Sequence[Described]) -> int | None:
    """Values of the keypoints in each line of pose labels, by `kpt_shape`; None where nothing says it."""
    for one in described:
        shape = one.document.get("kpt_shape")
        if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, str) and re.fullmatch(r"\d{1,4}", n) for n in shape):
            return math.prod(map(int, shape))
    return None


def candidate_paths(one: Described, entry: str, root: str) -> Iterator[str]:
    """Paths below the root that `entry` may mean, the likeliest first.

    Relative to its `path`, to its folder and to the root; without the ``../`` that Roboflow writes; and what a path of another machine,
    or the path of a file, ends in, where that is a file, has two parts or the name of a split.
    """
    entry = entry.replace("\\", "/")
    base = str(one.document.get("path") or "").replace("\\", "/") if not isinstance(one.document.get("path"), dict | list) else ""
    own = f"{root.strip('/')}/"
    for top in (base, ""):
        for folder in (one.folder, ""):
            joined = posixpath.normpath(posixpath.join(folder, top, entry))
            yield joined.strip("/").removeprefix(own) if joined.startswith("/") else joined
    for folder in dict.fromkeys((one.folder, "")):
        yield posixpath.normpath(posixpath.join(folder, re.sub(r"^(\.{1,2}/)+", "", entry)))
    whole = posixpath.join(base, entry)
    if whole.startswith(("/", "..")) or re.match(r"[A-Za-z]:/", whole) or posixpath.splitext(whole)[1]:
        parts = [part for part in posixpath.normpath(whole).split("/") if part not in ("", "..")]
        for start in range(1, len(parts)):
            if len(parts) - start > 1 or usual_name(parts[start]) in SPLITS or posixpath.splitext(parts[start])[1]:
                for folder in dict.fromkeys((one.folder, "")):
                    yield posixpath.join(folder, *parts[start:])


def named_classes(tree: FileTree, described: Sequence[Described]) -> dict[int, str]:
    """Names of the classes by number, as a list, an object or a file of names says; empty where none does."""
    for one in described:
        names = one.document.get("names")
        if isinstance(names, str) and names.strip():
            place = next(filter(None, (tree.names.find(path) for path in candidate_paths(one, names.strip(), tree.root))), None)
            names = class_lines(tree, place) if place else None
        pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
        numbered = {int(key): name.strip() for key, name in pairs if _is_class(str(key)) and isinstance(name, str) and name.strip()}
        if numbered:
            return numbered
    return {}


def class_lines(tree: FileTree, name: str) -> list[str]:
    """Lines of a file of names: line 1 is class 0."""
    return (
        [line.strip() for line in tree.text(name).replace("\r\n", "\n").replace("\r", "\n").strip().split("\n")]
        if name in tree.entries
        else []
    )


def _is_class(key: str) -> bool:
    return re.fullmatch(r"\s*\d{1,9}\s*", key) is not None
