"""Files of a data set at any fsspec URL: listings, bytes, and a local copy for what is remote; errors that pass are waited for."""

import hashlib
import os
import posixpath
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from spnas_core.errors import UserError
from spnas_core.store import listing
from spnas_core.store.retries import insist
from spnas_core.store.storage import cache_folder
from spnas_core.store.urls import open_place

_Answer = TypeVar("_Answer")


def open_url(url: str) -> tuple[Any, str]:
    """File system of `url` and the path inside it; UserError for a protocol that is unknown or whose package is missing."""
    return open_place(str(url))


def url_of(system: Any, path: str) -> str:
    """URL of `path`: the bare path where it is local."""
    return path if isinstance(system, LocalFileSystem) else str(system.unstrip_protocol(path))


def join_path(path: str, *parts: str) -> str:
    """`path` with `parts` below it, without ``.`` and ``..`` inside the parts; UserError where they lead out of `path`."""
    inner = posixpath.normpath(posixpath.join(*parts)) if parts else "."
    if inner.startswith(("/", "..")):
        raise UserError(f"{path}: expected a file name inside this folder, got {posixpath.join(*parts)!r}")
    return path if inner == "." else f"{path.rstrip('/')}/{inner}"


def ask(call: Callable[[], _Answer], url: str, action: str) -> _Answer:
    """Do `action` on what lies at `url`, again as long as its errors may pass; UserError where it is forbidden, StoreError in the end."""

    def once() -> _Answer:
        try:
            return call()
        except PermissionError as error:
            raise UserError(f"{url}: not allowed to {action} it: {error}") from error

    return insist(once, f"{url}: {action}")


def list_folder(system: Any, path: str) -> dict[str, dict[str, Any]]:
    """Name -> fsspec info (``size``, ``type``) of each entry of a folder, by one listing; empty where there is no such folder."""
    try:
        entries = ask(lambda: system.ls(path, detail=True), url_of(system, path), "list")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    own = path.strip("/")
    return {posixpath.basename(e["name"].rstrip("/")): e for e in entries if e["name"].strip("/") != own}


def kind(system: Any, path: str) -> str | None:
    """``file`` or ``directory``; None of a path that does not exist."""
    try:
        return str(ask(lambda: system.info(path), url_of(system, path), "read")["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None


def matching(pattern: str) -> list[str]:
    """URLs of the files that the URL `pattern` matches; UserError for a pattern that is none."""
    system, path = open_url(pattern)
    try:
        entries = ask(lambda: system.glob(path, detail=True), pattern, "list")
    except ValueError as error:
        raise UserError(f"{pattern}: expected a pattern of fsspec, such as {pattern.split('*')[0]}**/*.jpg, got: {error}") from error
    return [url_of(system, name) for name, entry in entries.items() if entry["type"] == "file"]


def files_below(system: Any, path: str) -> dict[str, int]:
    """Size of every file below a folder, by its full path; empty where there is no such folder."""
    return ask(lambda: listing.find_files(system, path), url_of(system, path), "list")


def read_file(system: Any, path: str) -> bytes:
    """Content of one file, all of it; FileNotFoundError."""

    def whole() -> bytes:
        content = bytes(system.cat_file(path))
        _check_whole(len(content), system.size(path))
        return content

    return ask(whole, url_of(system, path), "read")


def _check_whole(size: int, expected: int | None) -> None:
    """ConnectionError, which passes, where a read was torn."""
    if expected is not None and size != expected:
        raise ConnectionError(f"{size} of {expected} bytes")


def write(url: str, content: bytes, option: str) -> None:
    """Write a file at a path or any fsspec URL, with the folders above it; UserError, about `option`, where that fails."""
    system, path = open_url(url)

    def put() -> None:
        system.makedirs(posixpath.dirname(path), exist_ok=True)
        system.pipe_file(path, content)

    try:
        ask(put, url, "write")
    except OSError as error:
        raise UserError(f"{option}: expected a place for a file, got {url}: {error}") from error


def local_file(url: str) -> Path:
    """Path of a file's bytes on this machine: the file itself where it is local, else a copy in the cache folder.

    The copy is named by the URL and what the store says of the file (size, time, tag), so a replaced file is fetched anew. It is
    written beside its place and then renamed: several processes may ask for the same file, and no one sees a part of it.
    UserError for a file that does not exist, StoreError where its place does not answer.
    """
    system, path = open_url(url)
    if isinstance(system, LocalFileSystem):
        return Path(path)
    try:
        return ask(lambda: _copy(system, path), url, "read")
    except FileNotFoundError as error:
        raise UserError(f"{url}: expected a file, found none") from error


def _copy(system: Any, path: str) -> Path:
    """Path of the cached copy of a remote file, made at the first call for this version of the file."""
    key = hashlib.sha256(f"{url_of(system, path)} {system.ukey(path)}".encode()).hexdigest()
    target = cache_folder("data") / key[:2] / (key + posixpath.splitext(path)[1])
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{key}.{os.getpid()}.{uuid.uuid4().hex}.part")
        try:
            system.get_file(path, str(part))
            _check_whole(part.stat().st_size, system.size(path))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return target
