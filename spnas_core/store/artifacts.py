"""Artifacts of jobs in object storage, verified on every read.

    KIND/DIGEST/manifest.json + files     complete if and only if the manifest exists (it is written last)
    checkpoints/KIND/DIGEST/NUMBER/       the same, for a running job (checkpoints.py)
    claims/KIND/DIGEST/NUMBER             which process computes it (claims.py)
    runs/NAME/, logs/KIND/                reports of a run; progress and curves of jobs (jobs/progress_file.py)
    data/KEY.txt                          digests of remote annotation files (data/index.py), whose index/KEY/ is an artifact
    clocks/NAME.json                      measured nets of other devices (run/clocks.py)
    watch/NAME.json                       the data of the last search on a watched data set (flows/research.py)
    aside/KIND/DIGEST.N                   corrupt or incomplete artifacts

Only the modules of this package access the store.
"""

import errno
import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spnas_core import job as jobs
from spnas_core.errors import MissingArtifactError, UserError
from spnas_core.names import MANIFEST_FILE, check_name, check_path, is_path
from spnas_core.store.checkpoints import Checkpoints
from spnas_core.store.claims import Claim, Lease
from spnas_core.store.manifest import Manifest, files_of, read_manifest, seal, versions
from spnas_core.store.retries import DELAYS, first_line
from spnas_core.store.storage import READS, Storage, cache_folder, sha256_file

_log = logging.getLogger(__name__)


class Store:
    """Store of artifacts under one fsspec URL (or the path of a local folder)."""

    def __init__(self, url: str, cache: Path | None = None, delays: tuple[float, ...] = DELAYS) -> None:
        self._storage = Storage(url, delays)
        self.url = self._storage.url
        self.local = self._storage.local
        self._cache = cache or cache_folder("files")

    def writable(self) -> None:
        """Check that a file can be written, read and deleted; UserError if not."""
        storage, probe, content = Storage(self.url, self._storage.delays[:3]), f"probe-{uuid.uuid4().hex}", b"spnas"
        try:
            storage.write(probe, content)
            if storage.read(probe) != content:
                raise UserError(f"store {self.url!r}: expected to read back what was written")
            storage.remove(probe)
        except UserError:
            raise
        except Exception as error:  # each driver has its own errors; here all of them mean the same
            raise UserError(f"store {self.url!r}: expected a place that can be written, got: {first_line(error)}") from error

    def find(self, kind: str, digest: str) -> Manifest | None:
        """Manifest of a complete artifact (all files exist in their sizes), else None; a corrupt artifact is set aside."""
        found = self._look(kind, digest)
        if isinstance(found, str):
            self._set_aside(_folder(kind, digest), lambda: self._look(kind, digest))
            return None
        return found

    def publish(self, job: jobs.Job, folder: Path, metrics: dict[str, Any], seconds: float) -> Manifest:
        """Publish the files of `folder` as the artifact of `job`; keeps and returns an existing complete artifact."""
        return self.publish_record(job.kind, jobs.digest(job), job.model_dump(mode="json"), folder, metrics, seconds)

    def publish_record(
        self, kind: str, digest: str, document: dict[str, Any], folder: Path, metrics: dict[str, Any], seconds: float
    ) -> Manifest:
        """Publish an artifact that no job made, see `publish`; `document` holds what determines it."""
        if found := self.find(kind, digest):
            return found
        target = _folder(kind, digest)
        if self._storage.sizes(target):
            if found := self.find(kind, digest):  # another process has published it between the two checks
                return found
            self._set_aside(target, lambda: self._look(kind, digest) or "it is half-written (no manifest)")
        manifest = seal(
            Manifest(
                kind=kind,
                digest=digest,
                job=document,
                files=files_of(folder),
                metrics=metrics,
                versions=versions(),
                seconds=round(seconds, 3),
            )
        )
        text = jobs.canonical_json(manifest.model_dump(mode="json")).encode()
        if self._storage.put_folder(target, folder, list(manifest.files), text):
            return manifest
        return self.publish_record(kind, digest, document, folder, metrics, seconds)  # another process was first: check its artifact

    def fetch(self, kind: str, digest: str, name: str) -> Path:
        """Path of one verified file of an artifact: in a local store itself, else a cached copy; MissingArtifactError.

        If a file's sha256 differs from the manifest's, the whole artifact is set aside, and is recomputed later.
        """
        folder, missing = _folder(kind, digest), f"store {self.url!r}: expected {name!r} in {kind}/{digest}, found none"
        manifest = self.find(kind, digest)
        if manifest is None or name not in manifest.files:
            raise MissingArtifactError(missing)

        def fault() -> Manifest | str | None:
            wrong = (now := self._look(kind, digest)) == manifest and not self._whole(folder, name, manifest.files[name].sha256)
            return f"{name} has another sha256" if wrong else now

        try:
            if path := self._whole(folder, name, manifest.files[name].sha256):
                return path
            self._set_aside(folder, fault)
        except FileNotFoundError as error:  # another process has set it aside meanwhile
            raise MissingArtifactError(missing) from error
        raise MissingArtifactError(f"{kind}/{digest} was corrupt and is set aside; start the run again to compute it anew")

    def read(self, path: str) -> bytes:
        """Content of a file below `runs/`, `clocks/`, `watch/`, `data/` or `logs/`; FileNotFoundError."""
        return self._storage.read(path)

    def write(self, path: str, content: bytes) -> None:
        """Write a file below `runs/`, `clocks/`, `watch/`, `data/` or `logs/`, atomically."""
        self._storage.write(path, content)

    def files(self, folder: str = "") -> dict[str, int]:
        """Sizes in bytes of all files of the store, or below `folder`, by relative path; files with invalid names are left out."""
        return {path: size for path, size in self._storage.files(folder).items() if is_path(path)}

    def manifest(self, folder: str) -> Manifest | str | None:
        """Manifest of an artifact's or a checkpoint's folder; None without one; a text for a fault. Sets nothing aside."""
        return read_manifest(self._storage, folder)

    def is_whole(self, path: str, sha256: str) -> bool:
        """Whether a file has the given sha256."""
        return any(self._storage.sha256(path) == sha256 for _ in range(READS))

    def remove(self, path: str) -> None:
        """Delete a file or a whole folder, an artifact's manifest first."""
        self._storage.remove(f"{path}/{MANIFEST_FILE}")
        self._storage.remove(path)

    def set_aside(self, kind: str, digest: str, reason: str) -> None:
        """Set an artifact aside, and delete its job's checkpoints, so that it is recomputed."""
        if self._storage.sizes(_folder(kind, digest)):
            self._set_aside(_folder(kind, digest), lambda: reason)
        self.checkpoints(kind, digest).drop()

    def checkpoints(self, kind: str, digest: str) -> Checkpoints:
        """Checkpoints of an unfinished job."""
        return Checkpoints(self._storage, f"checkpoints/{_folder(kind, digest)}", kind, digest)

    def claim(self, kind: str, digest: str, lease: Lease = Lease()) -> Claim:  # noqa: B008 - immutable
        """Claim on an artifact, which prevents other processes from computing it at the same time."""
        return Claim(self._storage, f"claims/{_folder(kind, digest)}", lease)

    def _look(self, kind: str, digest: str) -> Manifest | str | None:
        """Manifest of a complete artifact; None without one; a text for a fault."""
        found = read_manifest(self._storage, _folder(kind, digest))
        if isinstance(found, Manifest) and (found.kind, found.digest) != (kind, digest):
            return f"it is the manifest of {found.kind}/{found.digest}"
        return found

    def _whole(self, folder: str, name: str, sha256: str) -> Path | None:
        """Local path of a file, in a local store or the cache, if it has the given sha256, else None; FileNotFoundError."""
        if self.local is not None:
            path = self.local / folder / check_name(name)
            return path if sha256_file(path) == sha256 else None
        path = self._cache / sha256 / name
        whole = (path.exists() and sha256_file(path) == sha256) or self._storage.get_file(f"{folder}/{name}", path, sha256)
        return path if whole else None

    def _set_aside(self, folder: str, fault: Callable[[], Manifest | str | None]) -> None:
        """Move a folder aside if `fault`, called just before, still returns a text: another process may have recomputed it meanwhile."""
        number = 0
        while True:
            target = f"aside/{folder}.{number}"
            if self._storage.sizes(target):
                number += 1
                continue
            if not isinstance(reason := fault(), str):
                return
            try:
                self._storage.move(folder, target)
            except FileNotFoundError:  # another process was first
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process has taken this number
                    raise
                number += 1
                continue
            _log.warning("artifact %s is set aside as %s: %s", folder, target, reason)
            return


def _folder(kind: str, digest: str) -> str:
    return check_path(f"{kind}/{digest}")
