"""Complete listings of a folder, or an error: fsspec's and Python's own walks return a partial listing when a folder cannot be listed."""

import contextlib
import os
from pathlib import Path
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

_GONE = (FileNotFoundError, NotADirectoryError)  # deleted by another process meanwhile


def find_files(system: Any, root: str) -> dict[str, int]:
    """Sizes in bytes of all files below `root` of an fsspec file system, by full path; empty if there is no such folder."""
    return {path: int(entry["size"]) for path, entry in list_entries(system, root).items()}


def list_entries(system: Any, root: str) -> dict[str, dict[str, Any]]:
    """Fsspec infos of all files below `root` of a file system, by full path; empty if there is no such folder.

    One request if the driver lists recursively (S3), else one per folder.
    """
    if _lists_at_once(system):
        return {str(path): entry for path, entry in system.find(root, detail=True).items() if path != root}
    found: dict[str, dict[str, Any]] = {}
    folders = [root.rstrip("/")]
    while folders:
        folder = folders.pop()
        with contextlib.suppress(*_GONE):
            for entry in system.ls(folder, detail=True):
                path = str(entry["name"]).rstrip("/")
                if entry["type"] != "directory":
                    found[path] = entry
                elif path != folder:
                    folders.append(path)
    return found


def find_local(root: str) -> dict[str, int]:
    """Sizes in bytes of all plain files below a local folder, by relative path; links are left out and not followed."""
    found = {}
    for top, _, names in os.walk(root, onerror=_raise):
        for place in (Path(top, name) for name in names):
            with contextlib.suppress(*_GONE):
                if not place.is_symlink():
                    found[str(place.relative_to(root))] = place.stat().st_size
    return found


def _lists_at_once(system: Any) -> bool:
    if isinstance(system, AsyncFileSystem):
        return type(system)._find is not AsyncFileSystem._find
    return type(system).find is not AbstractFileSystem.find


def _raise(error: OSError) -> None:
    if not isinstance(error, _GONE):
        raise error
