"""Files under one fsspec URL: names that cannot leave it, writes that are whole or not there, folders whose manifest comes last.

`store.py` gives these files their meaning; nothing else uses this module.
"""

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from spnas_core.errors import UserError

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,199}")


def check_name(name: str) -> str:
    """Return `name` if it is one plain file name; UserError for separators, leading dots, absolute paths and the like."""
    if not _NAME.fullmatch(name):
        raise UserError(f"name in the store: expected letters, digits, '.', '_', '=' and '-', got {name!r}")
    return name


def check_path(path: str) -> str:
    """Return `path` if every part of it is a plain name."""
    for part in path.split("/"):
        check_name(part)
    return path


def sha256_file(path: Path) -> str:
    """Sha256 (hex) of a local file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Storage:
    """One place under a URL: local folder or object store."""

    def __init__(self, url: str) -> None:
        if "://" not in url:
            url = "file://" + os.path.abspath(os.path.expanduser(url))  # noqa: PTH100, PTH111 - no symlink is resolved, as in a URL
        self.url = url.rstrip("/")
        try:
            self._fs: Any
            self._fs, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
        except (ValueError, ImportError) as error:
            raise UserError(f"store {url!r}: expected a URL of a kind that fsspec knows, got: {error}") from error
        self._root = str(root).rstrip("/")
        self.local = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def read(self, path: str) -> bytes:
        """Content of one file; FileNotFoundError."""
        content: bytes = self._fs.cat_file(self._full(path))
        return content

    def write(self, path: str, content: bytes) -> None:
        """Write one file, whole or not at all."""
        if self.local is None:
            self._fs.pipe_file(self._full(path), content)
            return
        target = self.local / check_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{uuid.uuid4().hex}.partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)

    def create(self, path: str, content: bytes) -> bool:
        """Write one file that is not there yet; whether it came to be (False: another process was first).

        Local folders and S3 decide between two that do so at once; what has no conditional write (memory://) looks first and then writes.
        """
        if self.local is not None:
            target = self.local / check_path(path)
            while True:
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with target.open("xb") as file:
                        file.write(content)
                    return True
                except FileExistsError:
                    return False
                except FileNotFoundError:  # its folder was removed between the two steps
                    continue
        try:
            self._fs.pipe_file(self._full(path), content, mode="create")
        except OSError:  # drivers have different ones for "it is there"; and the answer to a write that came through may have been lost
            try:
                return self.read(path) == content
            except FileNotFoundError:
                pass
            raise
        return True

    def sizes(self, folder: str) -> dict[str, int]:
        """Sizes of the plain files right in `folder`, links and folders left out; empty where there is no such folder."""
        try:
            entries = self._fs.ls(self._full(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        plain = [e for e in entries if e["type"] == "file" and not e.get("islink")]
        return {str(e["name"]).rsplit("/", 1)[-1]: int(e["size"]) for e in plain}

    def folders(self, folder: str) -> list[str]:
        """Names of the folders right in `folder`, sorted; partial ones (a leading dot) left out."""
        try:
            entries = self._fs.ls(self._full(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = [str(e["name"]).rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "directory"]
        return sorted(name for name in names if not name.startswith("."))

    def put_folder(self, folder: str, source: Path, names: list[str], manifest: bytes) -> bool:
        """Copy the files `names` of `source` and, last, the manifest; whether it came to be (False: another process was first)."""
        if self.local is None:
            for name in names:
                self._fs.put_file(str(source / name), self._full(f"{folder}/{name}"))
            self.write(f"{folder}/{MANIFEST}", manifest)
            return True
        target = self.local / check_path(folder)
        partial = target.with_name(f".{uuid.uuid4().hex}.partial")
        partial.mkdir(parents=True)
        try:
            for name in names:
                shutil.copyfile(source / check_name(name), partial / name, follow_symlinks=False)
            (partial / MANIFEST).write_bytes(manifest)
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            if (target / MANIFEST).exists():
                return False
            raise
        return True

    def get_file(self, path: str, target: Path) -> None:
        """Copy one file to the local `target`, whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            self._fs.get_file(self._full(path), str(partial))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def move(self, folder: str, target: str) -> None:
        """Rename a folder (copy and delete where the store cannot)."""
        if self.local is None:
            self._fs.mv(self._full(folder), self._full(target), recursive=True)
            return
        (self.local / check_path(target)).parent.mkdir(parents=True, exist_ok=True)
        (self.local / check_path(folder)).rename(self.local / target)

    def remove(self, path: str) -> None:
        """Delete a file or a folder with all in it, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._full(path), recursive=True)

    def _full(self, path: str) -> str:
        return f"{self._root}/{check_path(path)}"
