"""Pictures of each split of a YOLO data set, and the label file of each picture.

The places that a YAML file or obj.data names for train, val and test are the splits: folders with all below them, or lists of images.
Else folders that are named for splits; else lists in the data set that are (autosplit_train.txt); else all is one split.
"""

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from spnas_core.data.matching import Cuts, Names, stem_of
from spnas_core.data.pairing import Pairs, pair_files
from spnas_core.data.split_folders import splits_by_folders
from spnas_core.data.split_names import SPLITS, UNSPLIT, usual_name
from spnas_core.data.tree import FileTree, lines_of, printable
from spnas_core.data.yolo_described import CLASS_FILES, Described, candidate_paths

_Find = Callable[[str], str | None]


@dataclass
class Listed:
    """Pictures of a split; lines of lists that name none, those that spell one otherwise, and those that name one again."""

    pictures: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    respelled: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def label_place(path: str) -> str:
    """Path of the labels of a folder or of an image: with ``labels`` in place of the last ``images``."""
    before, images, after = f"/{path}/".rpartition("/images/")
    return f"{before}/labels/{after}".strip("/") if images else path


def label_files(tree: FileTree, lists: set[str]) -> tuple[dict[str, str], list[str], Pairs]:
    """Label file of each picture that has one, label files that belong to no picture, and what is unclear or spelled otherwise."""
    texts = {name for name in tree.ending(".txt") if name not in lists and not _is_no_label(name)}
    label_of = {picture: label for picture in tree.pictures if (label := f"{posixpath.splitext(label_place(picture))[0]}.txt") in texts}
    used = set(label_of.values())
    pairs = pair_files(
        sorted(texts - used),
        [picture for picture in tree.pictures if picture not in label_of],
        settled={label: picture for picture, label in label_of.items()},
    )
    label_of |= {picture: label for label, picture in pairs.picture_of.items()}
    folders = {posixpath.dirname(label) for label in (*label_of.values(), *pairs.strays)} | {
        name for name in map(posixpath.dirname, texts) if _is_labels(name)
    }
    alone = sorted(name for name in texts - set(label_of.values()) - set(pairs.unclear) if posixpath.dirname(name) in folders)
    return label_of, alone, pairs


def named_splits(tree: FileTree, described: Sequence[Described]) -> tuple[dict[str, Listed], list[str], set[str], list[Described]]:
    """Read the splits of the first file that names some that are there, else of the first that names some.

    These, places of it that are not there, the lists that are read, and the files, that one first.
    """
    first: tuple[dict[str, Listed], list[str], set[str], list[Described]] = ({}, [], set(), list(described))
    for one in described:
        absent: list[str] = []
        splits: dict[str, Listed] = {}
        lists: dict[str, Listed] = {}
        for split in SPLITS:
            listed = Listed()
            lost = [printable(entry) for entry in one.places(split) if not _add_place(tree, one, entry, listed, lists)]
            if listed.pictures or listed in lists.values():
                splits[split] = listed
            absent += [name for name in lost if split in splits or name.endswith(".txt")]
        _add_lines(tree, lists, one)
        splits = {split: listed for split, listed in splits.items() if listed.pictures or listed.missing}
        order = [one, *(other for other in described if other is not one)]
        if splits:
            return splits, absent, set(lists), order
        if absent and not first[1]:
            first = ({}, absent, set(), order)
    return first


def _add_place(tree: FileTree, one: Described, entry: str, listed: Listed, lists: dict[str, Listed]) -> bool:
    """Add the pictures of a place that a file names; False where there is none."""
    for find in (_exactly(tree), _spelled(tree)):
        for path in candidate_paths(one, entry, tree.root):
            place = find("" if path == "." else path)
            if place is not None and place in tree.folders:
                known = set(listed.pictures)
                listed.pictures += [picture for picture in tree.folders[place] if picture not in known]
                return True
            if place is not None and place.lower().endswith(".txt") and place in tree.entries:
                lists[place] = listed
                return True
    return False


def _exactly(tree: FileTree) -> _Find:
    return lambda path: path if path in tree.folders or path in tree.entries else None


def _spelled(tree: FileTree) -> _Find:
    folders = Names(tree.folders)
    return lambda path: folders.find(path) or tree.names.find(path)


def _add_lines(tree: FileTree, lists: Mapping[str, Listed], one: Described) -> None:
    """Add the pictures that lists name: from their folder, from the root, or as the end of a path of another place."""
    lines = {name: lines_of(tree.text(name)) for name in lists}
    cuts = Cuts(line for some in lines.values() for line in some)
    pictures = set(tree.pictures)
    for name, listed in lists.items():
        tops = list(dict.fromkeys((posixpath.dirname(name), one.folder, "")))
        known = set(listed.pictures)
        for line in lines[name]:
            tails = ["/".join(parts) for parts in cuts.tails(line)]
            candidates = [posixpath.normpath(posixpath.join(top, tail)) for tail in tails for top in tops]
            exact = next((place for place in candidates if place in pictures), None)
            found = exact or next((place for place in map(tree.names.find, candidates) if place in pictures), None)
            if found is None:
                listed.missing.append(tails[0] or "nothing")
            elif found in known:
                listed.repeated.append(line)
            else:
                known.add(found)
                listed.pictures.append(found)
                listed.respelled += [line] if not exact or "\\" in line else []


def other_splits(tree: FileTree, splits: Mapping[str, Listed], labelled: Mapping[str, str]) -> dict[str, Listed]:
    """Name splits by the folders that have labels, beside those that are named already."""
    tops = {picture.split("/")[0] if "/" in picture else "" for picture in labelled}
    if splits:  # others that are called so
        used = {picture for listed in splits.values() for picture in listed.pictures}
        folders = splits_by_folders([picture for picture in tree.pictures if _top(picture) in tops])
        free = {name: some for name, some in folders.items() if usual_name(name) in SPLITS and usual_name(name) not in splits}
        return {name: Listed(some) for name, some in free.items() if not used.intersection(some)}
    found = splits_by_folders([picture for picture in tree.pictures if _top(picture) in tops])
    if list(found) == [UNSPLIT]:
        lists = {name: Listed() for name in tree.ending(".txt") if usual_name(stem_of(name)) in SPLITS and name not in labelled.values()}
        _add_lines(tree, lists, Described("", {}))
        if some := {stem_of(name): listed for name, listed in lists.items() if listed.pictures}:
            return some
    return {name: Listed(pictures) for name, pictures in found.items()}


def _top(picture: str) -> str:
    return picture.split("/")[0] if "/" in picture else ""


def _is_no_label(name: str) -> bool:
    base = posixpath.basename(name).lower()
    return base in CLASS_FILES or base in ("_classes.txt", "predefined_classes.txt") or base.startswith(("readme", "license"))


def _is_labels(folder: str) -> bool:
    return any(part.lower() == "labels" for part in folder.split("/"))
