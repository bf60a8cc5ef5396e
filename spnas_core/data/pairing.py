"""Which annotation file belongs to which picture, by their names and folders, and which split the folders of a picture name.

NAME.xml belongs to NAME.jpg: beside it, or in a folder that differs in as few parts as possible, such as Annotations/day1 and
JPEGImages/day1. Folders of two different splits are never paired.
"""

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spnas_core.data.matching import Names
from spnas_core.data.split_names import SPLITS, UNSPLIT, usual_name
from spnas_core.data.tree import printable

_FAR = 3  # parts in which two folders of one data set may differ: Annotations and JPEGImages/day1


@dataclass(frozen=True)
class Pairs:
    """Picture of each annotation file that has one, those that two pictures fit alike, and the names that differ in spelling."""

    picture_of: dict[str, str]
    unclear: dict[str, tuple[str, ...]]
    respelled: tuple[str, ...]


def pair_files(
    pages: Iterable[str], pictures: Iterable[str], hints: Mapping[str, str] | None = None, settled: Mapping[str, str] | None = None
) -> Pairs:
    """Pair annotation files with pictures of one name, each with one at most; `hints`, names inside the files, decide a tie.

    Pairs of folders that differ much count where most files of the one have their pictures in the other, by `settled` pairs too.
    """
    hints = hints or {}
    by_stem: dict[str, list[str]] = defaultdict(list)
    for picture in pictures:
        base = posixpath.basename(picture)
        by_stem[posixpath.splitext(base)[0]].append(picture)
        by_stem[base].append(picture)  # NAME.jpg.xml
    stems, respelled = Names(by_stem), []
    groups: dict[str, list[str]] = defaultdict(list)
    for page in pages:
        stem = posixpath.splitext(posixpath.basename(page))[0]
        if (found := stems.find(stem)) is not None:
            groups[found].append(page)
            respelled += [f"{page} and {posixpath.basename(by_stem[found][0])}"] if found != stem else []
    picture_of: dict[str, str] = {}
    unclear: dict[str, tuple[str, ...]] = {}
    for stem, some in groups.items():
        _pair_group(some, by_stem[stem], hints, picture_of, unclear)
    folders: dict[str, Counter[str]] = defaultdict(Counter)
    for page, picture in {**(settled or {}), **picture_of}.items():
        folders[posixpath.dirname(page)][posixpath.dirname(picture)] += 1
    for page, picture in list(picture_of.items()):
        others = folders[posixpath.dirname(page)]
        if (distance(page, picture) or 0) > _FAR and others[posixpath.dirname(picture)] * 2 < others.total():
            del picture_of[page]
    return Pairs(picture_of, unclear, tuple(respelled))


def _pair_group(
    pages: list[str], pictures: list[str], hints: Mapping[str, str], picture_of: dict[str, str], unclear: dict[str, tuple[str, ...]]
) -> None:
    """Pair files of one name, the nearest first."""
    if len(pages) == len(pictures) == 1:
        if distance(pages[0], pictures[0]) is not None:
            picture_of[pages[0]] = pictures[0]
        return
    by_distance: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for page in pages:
        for picture in pictures:
            if (far := distance(page, picture)) is not None:
                by_distance[far].append((page, picture))
    taken = set(picture_of.values())
    for far in sorted(by_distance):
        left = [(page, picture) for page, picture in by_distance[far] if page not in picture_of and picture not in taken]
        rivals = Counter(picture for _, picture in left)
        for page in dict.fromkeys(page for page, _ in left if page not in unclear):
            some = [picture for one, picture in left if one == page and picture not in taken]
            named = [picture for picture in some if posixpath.basename(picture) == posixpath.basename(hints.get(page, ""))]
            choice = some if len(some) == 1 and rivals[some[0]] == 1 else named
            if len(choice) == 1:
                picture_of[page] = choice[0]
                taken.add(choice[0])
            elif some:
                unclear[page] = tuple(some)


def distance(page: str, picture: str) -> int | None:
    """Parts in which the folders of two files differ; None where they name different splits."""
    one, two = (posixpath.dirname(path).split("/") for path in (page, picture))
    while one and two and one[0] == two[0]:
        one, two = one[1:], two[1:]
    while one and two and one[-1] == two[-1]:
        one, two = one[:-1], two[:-1]
    splits = [{name for name in map(usual_name, parts) if name in SPLITS} for parts in (one, two)]
    return None if all(splits) and splits[0] != splits[1] else len([part for part in one + two if part])


def splits_by_folders(pictures: Sequence[str]) -> dict[str, list[str]]:
    """Pictures of each split: of the folders beside one that is named for a split, by the folder's own name; else all are one split.

    Pictures that lie in none of these folders are left out; where that were most of them, the folders are no splits.
    """
    folder_of = {picture: posixpath.dirname(picture) for picture in pictures}
    parts_of = {folder: folder.split("/") for folder in set(folder_of.values())}
    levels = {folder: next((n for n, part in enumerate(parts) if usual_name(part) in SPLITS), None) for folder, parts in parts_of.items()}
    level = min((n for n in levels.values() if n is not None), default=None)
    if level is None:
        return {UNSPLIT: list(pictures)} if pictures else {}
    above = {tuple(parts_of[folder][:level]) for folder, n in levels.items() if n == level}
    split_of = {
        folder: printable(parts[level]) for folder, parts in parts_of.items() if len(parts) > level and tuple(parts[:level]) in above
    }
    splits: dict[str, list[str]] = defaultdict(list)
    for picture, folder in folder_of.items():
        if folder in split_of:
            splits[split_of[folder]].append(picture)
    if 2 * sum(map(len, splits.values())) < len(pictures):
        return {UNSPLIT: list(pictures)}
    return dict(splits)
