"""Every file below a folder, or an error: never a part of them, as fsspec's and Python's own walks give where a listing fails."""

import contextlib
import os
from pathlib import Path
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

_GONE = (FileNotFoundError, NotADirectoryError)  # what another process removes meanwhile is not there


def find_files(system: Any, root: str) -> dict[str, int]:
    """Size of every file below `root` of an fsspec file system, by its full path; empty where there is no such folder."""
    return {path: int(entry["size"]) for path, entry in list_entries(system, root).items()}


def list_entries(system: Any, root: str) -> dict[str, dict[str, Any]]:
    """Fsspec info of every file below `root` of a file system, by its full path; empty where there is no such folder.

    A driver that lists all at once (S3) is asked once, else each folder is.
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
    """Size of every plain file below a local folder, by its path in there; links are left out and not followed."""
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
