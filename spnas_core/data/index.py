"""Index of a large split: what is taken of its annotation file, as arrays that a job maps into memory instead of parsing the file.

    CACHE/index/KEY/images.npy boxes.npy labels.npy marks.npy facts.json      KEY: digest of the file, way of reading, version
    STORE/index/KEY/                                                          the same as an artifact, of remote data
    STORE/data/KEY.txt                                                        digest of a remote file, by its place, size and time

An index appears as a whole or not at all; one that is incomplete or of another form is made again.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from spnas_core.data.annotations import IMAGE_DTYPE, Clean
from spnas_core.data.columns import MARK_DTYPE
from spnas_core.errors import MissingArtifactError
from spnas_core.store.artifacts import Store
from spnas_core.store.storage import cache_folder, sha256_file

LARGE = 1 << 22  # bytes of an annotation file from which on it has an index
INDEX_VERSION = 2  # raise it when other things are taken of a file
KEPT = 24  # indexes; those that were not asked for longest give way
_ARRAYS = {"images": IMAGE_DTYPE, "boxes": np.dtype("f4"), "labels": np.dtype("i4"), "marks": MARK_DTYPE}
_SETTLED = 2.0  # s after its last change from which on a file's time tells its next one


@dataclass(frozen=True)
class _Facts:
    """What is no array."""

    names: list[str]
    categories: list[tuple[int, str]]
    faults: dict[str, int]
    first_fault: str
    told: list[str]


def indexed(digest: str, way: str, make: Callable[[], Clean], store: Store | None = None) -> Clean:
    """Return what is taken of the annotation file of `digest`, read in this `way`: from its index, made where there is none.

    A `store` hands the index of one host to the others. What was measured in pictures has no index.
    """
    key = hashlib.sha256(f"{INDEX_VERSION} {digest} {way}".encode()).hexdigest()
    folder = cache_folder("index") / key
    clean = load_index(folder) or (_fetch(store, key, folder) if store else None)
    if clean is None:
        started = time.perf_counter()
        made = make()
        if made.measured:
            return made
        save_index(made, folder)
        clean = load_index(folder)
        if clean is None:
            return made
        if store:
            store.publish_record("index", key, {"annotations": digest, "way": way}, folder, {}, time.perf_counter() - started)
    return clean


def _fetch(store: Store, key: str, folder: Path) -> Clean | None:
    """Copy an index from a store into the cache; None where the store has none."""
    partial = folder.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        names = [*(f"{name}.npy" for name in _ARRAYS), "facts.json"]
        places = {name: store.fetch("index", key, name) for name in names}
        partial.mkdir(parents=True)
        for name, path in places.items():
            shutil.copyfile(path, partial / name)
        partial.rename(folder)
    except (MissingArtifactError, OSError):
        return load_index(folder)  # of another process, perhaps
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_index(folder)


def load_index(folder: Path) -> Clean | None:
    """Index in a folder, its arrays mapped; None where there is no whole one."""
    try:
        facts = json.loads((folder / "facts.json").read_bytes())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        os.utime(folder)
        if any(arrays[name].dtype != dtype for name, dtype in _ARRAYS.items()) or len(facts["names"]) != len(arrays["images"]):
            return None
        categories = tuple((int(number), str(name)) for number, name in facts["categories"])
        rest = {key: facts[key] for key in ("names", "faults", "first_fault")}
        return Clean(**arrays, **rest, categories=categories, told=tuple(facts["told"]))
    except (OSError, ValueError, EOFError, LookupError, TypeError):  # none, cut off, or of another form
        return None


def save_index(clean: Clean, folder: Path) -> None:
    """Write an index to a folder, unless another process has done so; where the cache cannot be written, there is none."""
    partial = folder.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        for name in _ARRAYS:
            np.save(partial / f"{name}.npy", np.ascontiguousarray(getattr(clean, name)))
        facts = _Facts(clean.names, list(clean.categories), clean.faults, clean.first_fault, list(clean.told))
        (partial / "facts.json").write_text(json.dumps(asdict(facts)))
        if folder.exists():  # of another form, or cut off
            shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        _forget(folder.parent)
    except OSError:
        pass
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _forget(top: Path) -> None:
    """Delete the indexes that were not asked for longest."""
    folders = sorted((path for path in top.iterdir() if path.is_dir() and path.name[0] != "."), key=lambda path: path.stat().st_mtime)
    for folder in folders[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


def remote_digest(url: str, version: str, digest: Callable[[], str], store: Store | None) -> str:
    """Sha256 (hex) of a remote file whose `version` the place of the file says; a `store` remembers it, so that hosts need no copy."""
    path = f"data/{hashlib.sha256(f'{url} {version}'.encode()).hexdigest()}.txt"
    if store:
        with contextlib.suppress(FileNotFoundError):
            if len(known := store.read(path).decode(errors="replace")) == 64:
                return known
    found = digest()
    if store:
        store.write(path, found.encode())
    return found


def known_digest(path: Path) -> str | None:
    """Sha256 (hex) of a large local file, as the cache remembers it while its place, size and time stay; None where it does not."""
    with contextlib.suppress(OSError):
        if len(known := _note(path, path.stat()).read_text()) == 64:
            return known
    return None


def file_digest(path: Path) -> str:
    """Sha256 (hex) of a large local file, which the cache then remembers."""
    if known := known_digest(path):
        return known
    facts, digest = path.stat(), sha256_file(path)
    after = path.stat()
    if time.time() - facts.st_mtime > _SETTLED and (after.st_size, after.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns):
        with contextlib.suppress(OSError):
            note = _note(path, facts)
            note.parent.mkdir(parents=True, exist_ok=True)
            partial = note.with_name(f".{uuid.uuid4().hex}")
            partial.write_text(digest)
            partial.rename(note)
    return digest


def _note(path: Path, facts: os.stat_result) -> Path:
    """File of the cache that remembers the digest of another one."""
    key = hashlib.sha256(f"{path} {facts.st_dev} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()
    return cache_folder("digests") / key
