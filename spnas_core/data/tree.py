"""All files below the place of a data set, by one listing of each folder: the readers of layouts find their files in it.

Hidden files and folders, and those that archives of macOS add, are no part of it. Links are followed, but not to a folder around them.
"""

import hashlib
import os
import posixpath
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from spnas_core.data import files
from spnas_core.data.images import SUFFIXES
from spnas_core.data.matching import Names, stem_of
from spnas_core.data.raw_split import ImageFile
from spnas_core.errors import UserError

DEPTH = 9  # levels of folders that are looked through
BARREN = 2_000  # folders without a picture or an annotation file, most of all, that show a place that is no data set: a home folder
MOST = 20_000  # folders of a data set
_FRUITFUL = (*SUFFIXES, ".xml", ".txt", ".csv", ".tsv", ".json")
READ_THREADS = 16  # for files that may be remote
_AT_ONCE = 64  # folders that are listed before they are counted


@dataclass(frozen=True, eq=False)
class FileTree:
    """Fsspec info of each file by its path below `root`, sorted by path."""

    system: Any
    root: str
    entries: Mapping[str, dict[str, Any]]

    @property
    def url(self) -> str:
        """URL of the root."""
        return files.url_of(self.system, self.root).rstrip("/")

    @cached_property
    def names(self) -> Names:
        """All paths, to find one that is spelled otherwise."""
        return Names(self.entries)

    @cached_property
    def pictures(self) -> tuple[str, ...]:
        """Paths of all files with the suffix of an image."""
        return tuple(name for name in self.entries if name.lower().endswith(SUFFIXES))

    @cached_property
    def pictures_by_name(self) -> dict[str, list[str]]:
        """Paths of the pictures by their last part."""
        by_name: dict[str, list[str]] = {}
        for picture in self.pictures:
            by_name.setdefault(posixpath.basename(picture), []).append(picture)
        return by_name

    @cached_property
    def others_by_stem(self) -> dict[str, list[str]]:
        """Paths of the files that are no pictures by their last part without its suffix."""
        by_stem: dict[str, list[str]] = {}
        for name in self.entries.keys() - set(self.pictures):
            by_stem.setdefault(stem_of(name), []).append(name)
        return {stem: sorted(names) for stem, names in by_stem.items()}

    @cached_property
    def folders(self) -> dict[str, list[str]]:
        """Paths of the pictures in each folder that has some, also in folders below it; of the root under an empty name."""
        below: dict[str, list[str]] = {}
        for picture in self.pictures:
            folder = picture
            while folder:
                folder = posixpath.dirname(folder)
                below.setdefault(folder, []).append(picture)
        return below

    def ending(self, *suffixes: str) -> list[str]:
        """Paths of all files with one of these suffixes, in any letter case."""
        return [name for name in self.entries if name.lower().endswith(suffixes)]

    def image(self, name: str) -> ImageFile:
        """URL and size of the file at a path."""
        entry = self.entries[name]
        return ImageFile(files.url_of(self.system, entry["name"]), int(entry.get("size") or 0))

    def read(self, name: str) -> bytes:
        """Content of the file at a path; empty of one that was deleted after the listing."""
        try:
            return files.read_file(self.system, files.join_path(self.root, name))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return b""

    def text(self, name: str) -> str:
        """Text of the file at a path."""
        return text_of(self.read(name))

    def contents(self, names: Iterable[str]) -> dict[str, bytes]:
        """Content of each file of `names`, read in threads."""
        wanted = list(dict.fromkeys(names))
        with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="spnas-read") as pool:
            return dict(zip(wanted, pool.map(self.read, wanted), strict=True))

    @property
    def digest(self) -> str:
        """Sha256 (hex) of what the store says of every file: path, size, time, tag."""
        facts = [(path, sorted(map(repr, entry.items()))) for path, entry in self.entries.items()]
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def list_tree(system: Any, root: str) -> FileTree:
    """List a place, level by level; UserError where it has too many folders to be a data set and nothing of one in them."""
    found: dict[str, dict[str, Any]] = {}
    level, barren, seen = [""], 0, 0
    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="spnas-list") as pool:
        for _ in range(DEPTH):
            below: list[str] = []
            for start in range(0, len(level), _AT_ONCE):
                some = level[start : start + _AT_ONCE]
                for folder, listing in zip(some, pool.map(lambda one: _listed(system, root, one), some), strict=True):
                    inside = {posixpath.join(folder, name): entry for name, entry in listing.items()}
                    below += sorted(name for name, entry in inside.items() if entry["type"] == "directory")
                    here = {name: entry for name, entry in inside.items() if entry["type"] == "file"}
                    found |= here
                    barren += not any(name.lower().endswith(_FRUITFUL) for name in here)
                seen += len(some)
                if seen > MOST or (barren > BARREN and 2 * barren > seen):
                    text = f"{seen:,} folders and more, {barren:,} of them without pictures or annotations; give the folder of the data"
                    raise UserError(f"{files.url_of(system, root)}: expected a data set, got a place with {text}")
            level = below
    return FileTree(system, root, dict(sorted(found.items())))


def _listed(system: Any, root: str, folder: str) -> dict[str, dict[str, Any]]:
    place = files.join_path(root, folder) if folder else root
    listing = files.list_folder(system, place)
    seen = {name: entry for name, entry in listing.items() if not name.startswith((".", "__MACOSX"))}
    if not isinstance(system, LocalFileSystem):
        return seen
    return {name: _followed(system, entry) if entry.get("islink") else entry for name, entry in seen.items()}


def _followed(system: Any, entry: dict[str, Any]) -> dict[str, Any]:
    """Info of what a link leads to, by the link's own path; of no type where it leads nowhere or to a folder around it."""
    target = os.path.realpath(entry["name"])
    around = os.path.realpath(posixpath.dirname(entry["name"]))
    if not os.path.exists(target) or f"{around}/".startswith(f"{target}/"):  # noqa: PTH110 - paths of fsspec are texts
        return {**entry, "type": "nothing"}
    return {**system.info(target), "name": entry["name"]}


def text_of(content: bytes) -> str:
    """Text of a file in UTF-8 or UTF-16, without its byte order mark; of other bytes as Windows wrote them (code page 1252)."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def lines_of(text: str) -> list[str]:
    """Lines of a text without the blanks around them, of those that are not empty."""
    return [line for line in map(str.strip, text.replace("\r", "\n").split("\n")) if line]


def printable(text: str) -> str:
    """`text` as a message can show it, at most 80 characters."""
    short = text if len(text) <= 80 else f"{text[:77]}..."
    return short if short.isprintable() else ascii(short)[1:-1]
