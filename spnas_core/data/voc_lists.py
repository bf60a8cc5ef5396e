"""Lists of the images of each split of Pascal VOC: ImageSets/Main/SPLIT.txt, ImageSets/SPLIT.txt, or SPLIT.txt in the data set.

A line is a name with or without suffix and folders, of the picture or of its XML file. Lists of a class (cat_train.txt, of which each
line ends in 1 or -1) are no splits. `trainval` is train where there is no list of that.
"""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from spnas_core.data.images import SUFFIXES
from spnas_core.data.matching import Names, stem_of
from spnas_core.data.split_names import SPLITS, UNSPLIT, usual_name
from spnas_core.data.tree import FileTree, lines_of
from spnas_core.errors import UserError

_FLAGGED = re.compile(r"(.+?)\s+(-1|0|1)")
_BOTH = re.compile(r"train[ _-]?val", re.IGNORECASE)


@dataclass(frozen=True)
class Unit:
    """A picture, its XML file, or both."""

    page: str | None
    picture: str | None


class Units:
    """Pictures and XML files, to find by a name of a list: with or without suffix, and any of the folders above."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._of: dict[str, list[tuple[int, Unit]]] = {}  # with the folders that a name leaves out
        for unit in units:
            tails: dict[str, int] = {}
            for path in filter(None, (unit.page, unit.picture)):
                whole, left_out = posixpath.splitext(path)[0], 0
                while whole:
                    tails[whole] = min(left_out, tails.get(whole, left_out))
                    whole, left_out = whole.partition("/")[2], left_out + 1
            for tail, left_out in tails.items():
                self._of.setdefault(tail, []).append((left_out, unit))
        self._names = Names(self._of)

    def find(self, line: str) -> tuple[list[Unit], bool]:
        """Units that a line may mean, the one in the fewest folders alone; and whether it spells the name otherwise."""
        line = line[1:-1] if len(line) > 2 and line[0] == line[-1] == '"' else line  # as Datumaro writes names with blanks
        stem, suffix = posixpath.splitext(line)
        bare = stem if suffix.lower() in (*SUFFIXES, ".xml") else line
        path = posixpath.normpath(bare.replace("\\", "/")).lstrip("/").removeprefix("../")
        for name in dict.fromkeys((line, bare, path)):
            if name in self._of:
                return self._nearest(name), False
        for name in dict.fromkeys((line, path)):
            if (found := self._names.find(name)) is not None:
                return self._nearest(found), True
        while "/" in path:  # of another machine: the whole path below the data set is at its end
            path = path.partition("/")[2]
            if whole := [unit for left_out, unit in self._of.get(path, ()) if not left_out]:
                return whole, False
        first, _, second = line.partition(" ")  # a picture and its XML file
        if second.strip().lower().endswith(".xml"):
            return self.find(first)
        return [], False

    def _nearest(self, name: str) -> list[Unit]:
        least = min(left_out for left_out, _ in self._of[name])
        return [unit for left_out, unit in self._of[name] if left_out == least]


def split_lists(tree: FileTree, units: Units) -> dict[str, list[str]]:
    """Lines of each split, without the marks of classes; empty where there are no lists. UserError for two sets of lists."""
    texts = tree.ending(".txt")
    tops = {_top(name) for name in texts} - {None}
    if len(tops) > 1:
        raise UserError(f"{tree.url}: expected one data set, got {', '.join(sorted(f'{top}ImageSets' for top in tops))}: name one of them")
    inside = [name for name in texts if _top(name) is not None]
    main = [name for name in inside if posixpath.basename(posixpath.dirname(name)).lower() == "main"]
    direct = [name for name in inside if posixpath.basename(posixpath.dirname(name)).lower() == "imagesets"]
    top = posixpath.commonpath([posixpath.dirname(name) for name in tree.entries]) if tree.entries else ""
    loose = [name for name in texts if posixpath.dirname(name) == top and _named(name)]
    lists = {name: _flags_off(lines_of(tree.text(name)), units) for name in main or direct or loose if _named(name)}
    if not inside:
        lists = {name: (lines, flagged) for name, (lines, flagged) in lists.items() if any(units.find(line)[0] for line in lines)}
    usable = {stem_of(name): lines for name, (lines, flagged) in lists.items() if not flagged or _is_exact(stem_of(name))}
    exact = {usual_name(stem) for stem in usable if _is_exact(stem)}
    kept = {stem: lines for stem, lines in usable.items() if _is_exact(stem) or usual_name(stem) not in exact}
    both = [stem for stem in kept if _BOTH.fullmatch(stem)]
    has_train = any(usual_name(stem) == "train" for stem in kept)
    splits = {"train" if stem in both else stem: lines for stem, lines in kept.items() if stem not in both or not has_train}
    return {UNSPLIT: splits["default"]} if list(splits) == ["default"] else splits


def _top(name: str) -> str | None:
    """Folders above the ImageSets that a list lies in."""
    parts = name.split("/")
    place = next((n for n, part in enumerate(parts[:-1]) if part.lower() == "imagesets"), None)
    return None if place is None else "".join(f"{part}/" for part in parts[:place])


def _named(name: str) -> bool:
    stem = stem_of(name)
    return usual_name(stem) in SPLITS or bool(_BOTH.fullmatch(stem)) or stem.lower() == "default"


def _is_exact(stem: str) -> bool:
    return len(re.findall(r"[^\W\d_]+", stem)) == 1 or bool(_BOTH.fullmatch(stem))


def _flags_off(lines: list[str], units: Units) -> tuple[list[str], bool]:
    """Lines without the mark of a class, and whether some had one."""
    names, flags = [], 0
    for line in lines:
        match = _FLAGGED.fullmatch(line)
        flagged = match is not None and not units.find(line)[0] and bool(units.find(match[1])[0])
        flags += flagged
        names.append(match[1] if match and flagged else line)
    return names, flags > 0
