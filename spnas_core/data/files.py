"""Files of a data set at any fsspec URL: listings, bytes, and a local copy for what is remote."""

import hashlib
import os
import posixpath
import uuid
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from spnas_core.errors import UserError
from spnas_core.names import check_url


def open_url(url: str) -> tuple[Any, str]:
    """File system of `url` and the path inside it; UserError for a protocol that is unknown or whose package is missing."""
    try:
        system, path = fsspec.url_to_fs(check_url(str(url)))
    except UserError:
        raise
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: expected a path or an fsspec URL that this installation can open, got: {error}") from error
    return system, str(path)


def full_url(system: Any, path: str) -> str:
    """URL of `path`: the bare path where it is local."""
    return path if isinstance(system, LocalFileSystem) else str(system.unstrip_protocol(path))


def join(path: str, *parts: str) -> str:
    """`path` with `parts` below it, without ``.`` and ``..`` inside the parts; UserError where they lead out of `path`."""
    inner = posixpath.normpath(posixpath.join(*parts)) if parts else "."
    if inner.startswith(("/", "..")):
        raise UserError(f"{path}: expected a file name inside this folder, got {posixpath.join(*parts)!r}")
    return path if inner == "." else f"{path.rstrip('/')}/{inner}"


def list_folder(system: Any, path: str) -> dict[str, dict[str, Any]]:
    """Name -> fsspec info (``size``, ``type``) of each entry of a folder, by one listing; empty where there is no such folder."""
    try:
        entries = system.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    own = path.strip("/")
    return {posixpath.basename(e["name"].rstrip("/")): e for e in entries if e["name"].strip("/") != own}


def cache_folder() -> Path:
    """Where copies of remote files lie: ``$SPNAS_CACHE``, else ``~/.cache/spnas``."""
    return Path(os.environ.get("SPNAS_CACHE") or Path.home() / ".cache" / "spnas")


def local_file(url: str) -> Path:
    """Path of a file's bytes on this machine: the file itself where it is local, else a copy in the cache folder.

    The copy is named by the URL and what the store says of the file (size, time, tag), so a replaced file is fetched anew. It is
    written beside its place and then renamed: several processes may ask for the same file, and no one sees a part of it.
    UserError where there is no such file.
    """
    system, path = open_url(url)
    if isinstance(system, LocalFileSystem):
        return Path(path)
    try:
        version = system.ukey(path)
        key = hashlib.sha256(f"{full_url(system, path)} {version}".encode()).hexdigest()
        target = cache_folder() / "data" / key[:2] / (key + posixpath.splitext(path)[1])
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{key}.{os.getpid()}.{uuid.uuid4().hex}.part")
            try:
                system.get_file(path, str(part))
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
    except FileNotFoundError as error:
        raise UserError(f"{url}: expected a file, found none") from error
    return target
