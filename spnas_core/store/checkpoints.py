"""Checkpoints of an unfinished job: numbered folders in the store, each with a manifest; the newest complete one counts."""

import logging
import re
import tempfile
import time
from pathlib import Path

from spnas_core.store.manifest import Manifest, files_of, read_manifest, seal, versions
from spnas_core.store.storage import Storage

_log = logging.getLogger(__name__)
_KEPT = 2
_NUMBER = re.compile(r"\d{6}", re.ASCII)


class Checkpoints:
    """Checkpoints of one job, in the folder `place` of the store."""

    def __init__(self, storage: Storage, place: str, kind: str, digest: str) -> None:
        self._storage, self._place, self._kind, self._digest = storage, place, kind, digest

    def save(self, folder: Path) -> None:
        """Save the files of `folder` as the newest checkpoint; all but the newest few are deleted."""
        numbers = self._numbers()
        files, now = files_of(folder), round(time.time(), 3)
        manifest = seal(Manifest(kind=self._kind, digest=self._digest, job={}, files=files, metrics={}, versions=versions(), seconds=now))
        number = f"{int(numbers[-1]) + 1 if numbers else 0:06d}"
        self._storage.put_folder(f"{self._place}/{number}", folder, list(files), manifest.model_dump_json().encode())
        for old in [*numbers, number][:-_KEPT]:
            self._storage.remove(f"{self._place}/{old}")

    def load(self, folder: Path) -> bool:
        """Copy the newest complete checkpoint into `folder`; False if there is none."""
        folder.mkdir(parents=True, exist_ok=True)
        for number in reversed(self._numbers()):
            place = f"{self._place}/{number}"
            manifest = read_manifest(self._storage, place)
            if not isinstance(manifest, Manifest):
                _log.warning("checkpoint %s is passed over: %s", place, manifest or "it is half-written")
                continue
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                files = manifest.files.items()
                if all(self._storage.get_file(f"{place}/{name}", Path(scratch) / name, file.sha256) for name, file in files):
                    for name in manifest.files:
                        (Path(scratch) / name).replace(folder / name)
                    return True
            _log.warning("checkpoint %s is passed over: a file has another sha256", place)
        return False

    def drop(self) -> None:
        """Delete all checkpoints, once the job has ended."""
        self._storage.remove(self._place)

    def _numbers(self) -> list[str]:
        return [name for name in self._storage.folders(self._place) if _NUMBER.fullmatch(name)]
