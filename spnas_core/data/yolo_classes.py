"""Names of the classes of a YOLO data set: of its YAML file, else of the list (classes.txt) that is nearest to each label file.

labelImg writes a list beside the labels, in the order in which each folder met its classes: numbers of one split may mean different classes
in two folders. Such numbers are read by the list of their own folder and matched by name. Lists of
folders above say what a nearer one leaves out.
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from spnas_core.data.findings import Finding, found
from spnas_core.data.tree import FileTree, printable
from spnas_core.data.yolo_described import CLASS_FILES, Described, class_lines, named_classes
from spnas_core.data.yolo_folders import Listed


@dataclass(frozen=True)
class ClassNames:
    """Names by number for each split, empty where no file has them, and what is told of the files.

    `numbers` are there where folders of one split disagree: the number in `names` of each number in the label files of a folder.
    """

    names: Mapping[str, Mapping[int, str]]
    numbers: Mapping[str, Mapping[int, int]] | None = None
    findings: Sequence[Finding] = ()


@dataclass
class _Lists:
    """Lists of the folders of a data set, each read once."""

    tree: FileTree
    read: dict[str, tuple[str, dict[int, str]]] = field(default_factory=dict)
    respelled: dict[str, None] = field(default_factory=dict)

    def near(self, folder: str) -> list[tuple[str, dict[int, str]]]:
        """File and names of a folder and of those above, the nearest first."""
        parts = folder.split("/") if folder else []
        return [one for end in range(len(parts), -1, -1) if (one := self._of("/".join(parts[:end])))[1]]

    def _of(self, folder: str) -> tuple[str, dict[int, str]]:
        if folder not in self.read:
            self.read[folder] = ("", {})
            for path in (posixpath.join(folder, name) for name in CLASS_FILES):
                place = self.tree.names.find(path)
                names = {number: line for number, line in enumerate(class_lines(self.tree, place)) if line} if place else {}
                if place and names:
                    self.read[folder] = (place, names)
                    self.respelled |= {place: None} if place != path else {}
                    break
        return self.read[folder]


def class_names(tree: FileTree, described: Sequence[Described], splits: Mapping[str, Listed], label_of: Mapping[str, str]) -> ClassNames:
    """Read the names of the classes of each split; a folder without a list takes that of the others, where these agree."""
    places = {split: _folders(listed, label_of) for split, listed in splits.items()}
    lists = _Lists(tree)
    chains = {folder: lists.near(folder) for some in places.values() for folder in some}
    files = [(one.name, names) for one in described if (names := named_classes(tree, [one]))]
    yaml = files[0][1] if files else {}
    other = _differences([[*files, *chain] for chain in chains.values()])
    findings = [*found("other-classes", "data", other), *found("other-spelling", "data", list(map(printable, lists.respelled)))]
    if yaml:
        return ClassNames(dict.fromkeys(splits, yaml), findings=findings)
    names_of = {folder: _merged(names for _, names in chain) for folder, chain in chains.items()}
    some = {split: [names_of[folder] for folder in folders if names_of[folder]] for split, folders in places.items()}
    labelled = {posixpath.dirname(label) for label in label_of.values()}
    distinct = _distinct([names for one in some.values() for names in one])
    lacking = [folder for folder, names in names_of.items() if folder in labelled and not names]
    if len(distinct) < 2 or (not lacking and all(len(_distinct(one)) < 2 for one in some.values())):
        common = distinct[0] if distinct else {}
        return ClassNames({split: one[0] if one else common for split, one in some.items()}, findings=findings)
    return _by_name(names_of, splits, findings)


def _folders(listed: Listed, label_of: Mapping[str, str]) -> list[str]:
    """Folders of the label files of a split; of its pictures where it has none."""
    paths = [label_of[picture] for picture in listed.pictures if picture in label_of] or listed.pictures
    return list(dict.fromkeys(map(posixpath.dirname, paths)))


def _by_name(names_of: Mapping[str, Mapping[int, str]], splits: Iterable[str], findings: Sequence[Finding]) -> ClassNames:
    """One list for all folders, in which each name has its number in the first list, or the next that is free."""
    number_of: dict[str, int] = {}
    for names in names_of.values():
        for number, name in names.items():
            used = set(number_of.values())
            number_of.setdefault(name, number if number not in used else max(used) + 1)
    numbers = {folder: {number: number_of[name] for number, name in names.items()} for folder, names in names_of.items()}
    moved = [printable(folder) or "." for folder, table in numbers.items() if any(old != new for old, new in table.items())]
    names = {number: name for name, number in sorted(number_of.items(), key=lambda one: one[1])}
    return ClassNames(dict.fromkeys(splits, names), numbers, [*findings, *found("class-order", "data", moved)])


def _merged(lists: Iterable[Mapping[int, str]]) -> dict[int, str]:
    """Names by number, of the first list that has the number."""
    merged: dict[int, str] = {}
    for names in lists:
        merged = {**names, **merged}
    return dict(sorted(merged.items()))


def _distinct(lists: Iterable[dict[int, str]]) -> list[dict[int, str]]:
    return list({tuple(names.items()): names for names in lists}.values())


def _differences(chains: Iterable[Sequence[tuple[str, Mapping[int, str]]]]) -> list[str]:
    """Files that give another name to a number than the first one of their chain, with one such number."""
    texts: dict[str, str] = {}
    for (first, names), *others in filter(None, chains):
        for place, some in others:
            wrong = next((number for number, name in some.items() if names.get(number, name) != name), None)
            if wrong is not None:
                text = f"{printable(place)}: class {wrong} is {printable(some[wrong])}, but {printable(names[wrong])} in {printable(first)}"
                texts.setdefault(place, text)
    return list(texts.values())
