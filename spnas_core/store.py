"""Artifacts of jobs in object storage, checked on every read.

    KIND/DIGEST/manifest.json + files     complete if and only if the manifest is there (it is written last)
    checkpoints/KIND/DIGEST/NUMBER/       the same, of a job that still runs; the newest valid one wins
    runs/NAME/, logs/KIND/                what a person reads
    aside/KIND/DIGEST.N                   what was found corrupt or half-written

No other module touches the store.
"""

import logging
import os
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spnas_core import job as jobs
from spnas_core.errors import MissingArtifactError, UserError
from spnas_core.manifest import Manifest, files_of, versions
from spnas_core.storage import MANIFEST, Storage, check_name, check_path, sha256_file

log = logging.getLogger(__name__)
KEPT_CHECKPOINTS = 2


class Store:
    """The artifacts under one fsspec URL (or a path of a local folder)."""

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self._storage = Storage(url)
        self.url = self._storage.url
        self.local = self._storage.local
        self._cache = cache or Path(os.environ.get("SPNAS_CACHE") or Path.home() / ".cache" / "spnas") / "files"

    def writable(self) -> None:
        """Write, read and delete a file; UserError where the store cannot do so."""
        probe, content = f"probe-{uuid.uuid4().hex}", b"spnas"
        try:
            self._storage.write(probe, content)
            if self._storage.read(probe) != content:
                raise UserError(f"store {self.url!r}: expected to read back what was written")
            self._storage.remove(probe)
        except UserError:
            raise
        except Exception as error:  # every driver has its own errors; here all of them mean the same
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"store {self.url!r}: expected a place that can be written, got: {reason}") from error

    def find(self, kind: str, digest: str) -> Manifest | None:
        """Manifest of a complete artifact whose files are all there in their sizes, else None; a corrupt one is set aside."""
        folder = _folder(kind, digest)
        manifest = self._manifest(folder)
        if isinstance(manifest, Manifest) and (manifest.kind, manifest.digest) != (kind, digest):
            manifest = f"it is the manifest of {manifest.kind}/{manifest.digest}"
        if isinstance(manifest, str):
            self._set_aside(folder, manifest)
            return None
        return manifest

    def publish(self, job: jobs.Job, folder: Path, metrics: dict[str, Any], seconds: float) -> Manifest:
        """Make the files of `folder` the artifact of `job`; where it is complete already, that one stays and is returned."""
        return self.publish_record(job.kind, jobs.digest(job), job.model_dump(mode="json"), folder, metrics, seconds)

    def publish_record(
        self, kind: str, digest: str, document: dict[str, Any], folder: Path, metrics: dict[str, Any], seconds: float
    ) -> Manifest:
        """As `publish`, for an artifact that no job made: `document` says what determines it."""
        if found := self.find(kind, digest):
            return found
        target = _folder(kind, digest)
        if self._storage.sizes(target):
            self._set_aside(target, "it is half-written (no manifest)")
        manifest = Manifest(
            kind=kind, digest=digest, job=document, files=files_of(folder), metrics=metrics, versions=versions(), seconds=round(seconds, 3)
        )
        text = jobs.canonical_json(manifest.model_dump(mode="json")).encode()
        if not self._storage.put_folder(target, folder, list(manifest.files), text) and (first := self.find(kind, digest)):
            return first
        return manifest

    def fetch(self, kind: str, digest: str, name: str) -> Path:
        """One verified file of an artifact: its place in a local store, else a cached copy; MissingArtifactError.

        A file whose sha256 is not the manifest's takes the whole artifact aside: it will be computed anew.
        """
        manifest = self.find(kind, digest)
        if manifest is None or name not in manifest.files:
            raise MissingArtifactError(f"store {self.url!r}: expected {name!r} in {kind}/{digest}, found none")
        folder, expected = _folder(kind, digest), manifest.files[name].sha256
        if self.local is not None:
            path = self.local / folder / check_name(name)
        else:
            path = self._cache / expected / name
            if not path.exists() or sha256_file(path) != expected:
                self._storage.get_file(f"{folder}/{name}", path)
        if sha256_file(path) != expected:
            if self.local is None:
                path.unlink()
            self._set_aside(folder, f"{name} has another sha256")
            raise MissingArtifactError(f"{kind}/{digest} was corrupt and is set aside; start the run again to compute it anew")
        return path

    def read(self, path: str) -> bytes:
        """Content of a file below `runs/` or `logs/`; FileNotFoundError."""
        return self._storage.read(path)

    def write(self, path: str, content: bytes) -> None:
        """Write a file below `runs/` or `logs/`, whole or not at all."""
        self._storage.write(path, content)

    def save_checkpoint(self, kind: str, digest: str, folder: Path) -> None:
        """Keep the files of `folder` as the newest checkpoint of a running job; all but the newest few are removed."""
        place = f"checkpoints/{_folder(kind, digest)}"
        numbers = self._storage.folders(place)
        files, now = files_of(folder), round(time.time(), 3)
        manifest = Manifest(kind=kind, digest=digest, job={}, files=files, metrics={}, versions=versions(), seconds=now)
        number = f"{int(numbers[-1]) + 1 if numbers else 0:06d}"
        self._storage.put_folder(f"{place}/{number}", folder, list(files), manifest.model_dump_json().encode())
        for old in [*numbers, number][:-KEPT_CHECKPOINTS]:
            self._storage.remove(f"{place}/{old}")

    def load_checkpoint(self, kind: str, digest: str, folder: Path) -> bool:
        """Copy the newest checkpoint that is whole into `folder`; False where there is none."""
        place = f"checkpoints/{_folder(kind, digest)}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in reversed(self._storage.folders(place)):
            manifest = self._manifest(f"{place}/{number}")
            if not isinstance(manifest, Manifest):
                log.warning("checkpoint %s/%s is passed over: %s", place, number, manifest or "it is half-written")
                continue
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                for name in manifest.files:
                    self._storage.get_file(f"{place}/{number}/{name}", Path(scratch) / name)
                if files_of(Path(scratch)) == manifest.files:
                    for name in manifest.files:
                        (Path(scratch) / name).replace(folder / name)
                    return True
            log.warning("checkpoint %s/%s is passed over: a file has another sha256", place, number)
        return False

    def drop_checkpoints(self, kind: str, digest: str) -> None:
        """Remove the checkpoints of a job that has ended."""
        self._storage.remove(f"checkpoints/{_folder(kind, digest)}")

    def _manifest(self, folder: str) -> Manifest | str | None:
        """Manifest of a folder whose files are there in their sizes; None without a manifest; a text that says what is wrong."""
        try:
            manifest = Manifest.model_validate_json(self._storage.read(f"{folder}/{MANIFEST}"))
            for name in manifest.files:
                check_name(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValidationError, UserError) as error:
            return f"its manifest is wrong: {str(error).splitlines()[0]}"
        there = self._storage.sizes(folder)
        wrong = [name for name, file in manifest.files.items() if there.get(name) != file.size]
        return f"{wrong[0]} is missing or has another size" if wrong else manifest

    def _set_aside(self, folder: str, reason: str) -> None:
        number = 0
        while self._storage.sizes(target := f"aside/{folder}.{number}"):
            number += 1
        log.warning("artifact %s is set aside as %s: %s", folder, target, reason)
        self._storage.move(folder, target)


def _folder(kind: str, digest: str) -> str:
    return check_path(f"{kind}/{digest}")
