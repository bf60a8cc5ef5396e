"""Files under one fsspec URL: atomic writes, folders whose manifest is written last, retries of transient errors.

`artifacts.py`, `checkpoints.py` and `claims.py` give these files their meaning.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from spnas_core.errors import UserError
from spnas_core.names import MANIFEST_FILE, check_name, check_path, check_url
from spnas_core.store import listing
from spnas_core.store.retries import DELAYS, retried
from spnas_core.store.urls import is_local, open_place, protocol_of

READS = 3  # attempts at a file that does not match its manifest: a read may be incomplete


def sha256_file(path: Path) -> str:
    """Sha256 (hex) of a local file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder(part: str) -> Path:
    """Local cache folder for one kind of files (data, files, graphs, demo), below ``$SPNAS_CACHE`` or ``~/.cache/spnas``."""
    return Path(os.environ.get("SPNAS_CACHE") or Path.home() / ".cache" / "spnas") / part


def full_url(url: str) -> str:
    """URL for a URL or a local path."""
    return url if protocol_of(url) or not is_local(url) else "file://" + os.path.abspath(os.path.expanduser(url))  # noqa: PTH100, PTH111 - these resolve no symlink


class Storage:
    """Files under one URL, of a local folder or an object store. Transient errors are retried after each of `delays`, s."""

    def __init__(self, url: str, delays: tuple[float, ...] = DELAYS) -> None:
        self.delays = delays
        self.url = full_url(url if is_local(url) else check_url(url)).rstrip("/")
        self._fs: Any
        try:
            self._fs, root = open_place(self.url, use_listings_cache=False, skip_instance_cache=True)
        except UserError as error:
            raise UserError(f"store {error}") from error
        self._root = str(root).rstrip("/")
        self.local = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    @retried
    def read(self, path: str) -> bytes:
        """Content of one file; FileNotFoundError."""
        return bytes(self._fs.cat_file(self._full(path)))

    @retried
    def write(self, path: str, content: bytes) -> None:
        """Write one file atomically."""
        if self.local is None:
            self._fs.pipe_file(self._full(path), content)
            return
        target = self._place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @retried
    def create(self, path: str, content: bytes) -> bool:
        """Create one file; False if it exists, since another process was first (claims.py describes the guarantee)."""
        if self.local is not None:
            target = self._place(path)
            while True:
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with target.open("xb") as file:
                        file.write(content)
                    return True
                except FileExistsError:
                    return False
                except FileNotFoundError:  # its folder was deleted between the two steps
                    continue
        try:
            self._fs.pipe_file(self._full(path), content, mode="create")
        except OSError as error:  # drivers have several errors for an existing file, and the answer to a successful write may be lost
            with contextlib.suppress(FileNotFoundError):
                return self.read(path) == content
            if isinstance(error, FileExistsError) or "PreconditionFailed" in str(error.__cause__):  # it existed for a moment
                return False
            raise
        return True

    @retried
    def sizes(self, folder: str) -> dict[str, int]:
        """Sizes in bytes of the plain files directly in `folder`, without links and folders; empty if there is no such folder."""
        path = self._full(folder)
        try:
            found = {str(e["name"]): e for e in self._fs.ls(path, detail=True) if e["type"] == "file" and not e.get("islink")}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {name.rsplit("/", 1)[-1]: int(e["size"]) for name, e in found.items() if name.rstrip("/") != path}  # S3 may list itself

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder` that have files, sorted, without partial ones (a leading dot)."""
        names = {path.split("/", 1)[0] for path in self.files(folder) if "/" in path}
        return sorted(name for name in names if not name.startswith("."))

    @retried
    def files(self, folder: str = "") -> dict[str, int]:
        """Sizes in bytes of all files below `folder` (or the URL), by relative path; links are left out."""
        root = self._full(folder) if folder else self._root
        if self.local is not None:
            return listing.find_local(root)
        return {path[len(root) :].lstrip("/"): size for path, size in listing.find_files(self._fs, root).items()}

    @retried
    def sha256(self, path: str) -> str:
        """Sha256 (hex) of one file, read in pieces; FileNotFoundError."""
        with self._fs.open(self._full(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def put_folder(self, folder: str, source: Path, names: list[str], manifest: bytes) -> bool:
        """Copy the files `names` of `source` and, last, the manifest; False if another process was first."""
        if self.local is not None:
            return self._put_local(self._place(folder), source, names, manifest)
        for name in names:
            self._do("put_file", str(source / name), self._full(f"{folder}/{name}"))
        return self.create(f"{folder}/{MANIFEST_FILE}", manifest)

    @retried
    def _put_local(self, target: Path, source: Path, names: list[str], manifest: bytes) -> bool:
        partial = target.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            partial.mkdir(parents=True)
            for name in names:
                shutil.copyfile(source / check_name(name), partial / name, follow_symlinks=False)
            (partial / MANIFEST_FILE).write_bytes(manifest)
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            if (target / MANIFEST_FILE).exists():
                return False
            raise
        return True

    def get_file(self, path: str, target: Path, sha256: str) -> bool:
        """Copy one file to the local `target` if it has the given sha256; returns whether it has."""
        return any(self._get_file(path, target, sha256) for _ in range(READS))

    @retried
    def _get_file(self, path: str, target: Path, sha256: str) -> bool:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            self._fs.get_file(self._full(path), str(partial))
            if same := sha256_file(partial) == sha256:
                partial.replace(target)
            return same
        finally:
            partial.unlink(missing_ok=True)

    def move(self, folder: str, target: str) -> None:
        """Rename a folder of plain files (copy and delete if the store cannot rename)."""
        if self.local is not None:
            place = self._place(target)
            place.parent.mkdir(parents=True, exist_ok=True)
            self._place(folder).rename(place)
            return
        for name in self.sizes(folder):
            self._do("cp_file", self._full(f"{folder}/{name}"), self._full(f"{target}/{name}"))
        self.remove(folder)

    @retried
    def _do(self, action: str, source: str, target: str) -> None:
        getattr(self._fs, action)(source, target)

    @retried
    def remove(self, path: str) -> None:
        """Delete a file or a whole folder, if it exists."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._fs.rm(self._full(path), recursive=True)

    def _full(self, path: str) -> str:
        return str(self._place(path)) if self.local is not None else f"{self._root}/{check_path(path)}"

    def _place(self, path: str) -> Path:
        """Local path of `path`; UserError if a link leads elsewhere."""
        place = self.local or Path()
        for part in check_path(path).split("/"):
            place /= part
            if place.is_symlink():
                raise UserError(f"store {self.url}: expected no symbolic links in it, got {place}")
        return place
