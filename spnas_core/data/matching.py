"""File names that a data set writes otherwise than its folders: back slashes, letter case, and the two forms of accents."""

import posixpath
import unicodedata
from collections.abc import Iterable


def stem_of(path: str) -> str:
    """Last part of a path without its suffix: the name by which an annotation file and its picture belong together."""
    return posixpath.splitext(posixpath.basename(path))[0]


class Cuts:
    """Parts at the start of paths that may be cut off, since another machine has the data set there: those that all `paths` have.

    What one path alone has is the folder of that file: without it another file of the same name would be found. Paths from the top of
    a machine and those from a folder are told apart.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._common: dict[str, list[str]] = {}
        for path in paths:
            top, parts = _split(path)
            folders = parts[:-1]
            common = self._common.setdefault(top, folders)
            while common != folders[: len(common)]:
                common = common[:-1]
            self._common[top] = common

    def tails(self, path: str) -> list[list[str]]:
        """Parts of a path, whole and then without each of the parts that may be cut off."""
        top, parts = _split(path)
        return [parts[start:] for start in range(min(len(self._common.get(top, ())), max(len(parts) - 1, 0)) + 1)]


def _split(path: str) -> tuple[str, list[str]]:
    """Top of a path, empty of one from a folder, and its parts."""
    path = path.replace("\\", "/")
    parts = [part for part in posixpath.normpath(path).split("/") if part not in ("", ".", "..")]
    return parts[0] if parts and (path.startswith("/") or parts[0].endswith(":")) else "", parts


class Names:
    """Names to find one among; what differs in more than spelling is another name."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)
        self._alike: dict[str, list[str]] | None = None  # made when a name is not found as it is written

    def find(self, name: str) -> str | None:
        """Return the name that is `name`, or the only one that differs from it in spelling alone; None where there is none, or several."""
        if name in self._names:
            return name
        if self._alike is None:
            self._alike = {}
            for one in self._names:
                self._alike.setdefault(_folded(one), []).append(one)
        alike = self._alike.get(_folded(name), [])
        return alike[0] if len(alike) == 1 else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()
