"""Manifest of an artifact: the job, its files with size and sha256, its metrics, and the versions of the libraries."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field

from spnas_core.errors import UserError
from spnas_core.job import canonical_json
from spnas_core.names import MANIFEST_FILE, check_name
from spnas_core.settings.base import Settings
from spnas_core.store.storage import READS, Storage, sha256_file


class File(Settings):
    """Size in bytes and sha256 of one file of an artifact."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(Settings):
    """Description of an artifact in the store: the job, its files, its metrics."""

    kind: str
    digest: str
    job: dict[str, Any]
    files: dict[str, File]
    metrics: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    sha256: str | None = Field(None, description="of the canonical JSON of all else in it; older ones have none")


def seal(manifest: Manifest) -> Manifest:
    """Return the manifest with its own sha256; ValueError if a number in it is not finite."""
    text = canonical_json(manifest.model_dump(mode="json", exclude={"sha256"}))
    return manifest.model_copy(update={"sha256": hashlib.sha256(text.encode()).hexdigest()})


def versions() -> dict[str, str]:
    """Versions of the libraries that determine a result."""
    found = {"python": platform.python_version()}
    for name in ("spnas", "mindspore", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def files_of(folder: Path) -> dict[str, File]:
    """All files of a local folder by name; UserError for links, folders and names that the store rejects."""
    found: dict[str, File] = {}
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or path.name == MANIFEST_FILE:
            raise UserError(f"artifact from {folder}: expected plain files, got {path.name!r}")
        found[check_name(path.name)] = File(size=path.stat().st_size, sha256=sha256_file(path))
    return found


def read_manifest(storage: Storage, folder: str) -> Manifest | str | None:
    """Manifest of a folder whose files all exist in their sizes; None without a manifest; a text for a fault."""
    for _ in range(READS):
        if not isinstance(found := _read_once(storage, folder), str):
            break
    return found


def _read_once(storage: Storage, folder: str) -> Manifest | str | None:
    try:
        manifest = Manifest.model_validate_json(storage.read(f"{folder}/{MANIFEST_FILE}"))
        for name in manifest.files:
            check_name(name)
        if manifest.sha256 is not None and manifest != seal(manifest):
            return "its manifest has another sha256"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:  # including the errors of pydantic and `check_name`
        return f"its manifest is wrong: {str(error).splitlines()[0]}"
    there = storage.sizes(folder)
    wrong = [name for name, file in manifest.files.items() if there.get(name) != file.size]
    return f"{wrong[0]} is missing or has another size" if wrong else manifest
