"""Verification of images, each once as long as it stays the same, and fingerprints of splits."""

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from spnas_core.data import files, images
from spnas_core.data.content import content_digest
from spnas_core.data.raw_split import ImageFile
from spnas_core.data.samples import Sample, Split
from spnas_core.data.splits import DataSet
from spnas_core.errors import UserError
from spnas_core.job import Data
from spnas_core.settings.reading import Reading
from spnas_core.store.storage import cache_folder

_SETTLED = 2.0  # s after its last change from which on a file's time tells its next one


def verify_images(split: Split, threads: int = 4) -> None:
    """Read every image to its end, in parallel (remote ones land in the cache), each once per machine as long as it stays the same.

    UserError names the first one that is broken or is not of the annotated size, and says how many more there are.
    """
    known = _Verified(split.digest)

    def problem(sample: Sample) -> str | None:
        try:
            path = files.local_file(sample.file)
            key = _identity(path, (sample.width, sample.height))
            if key not in known:
                images.check_size(images.probe(path, sample.file, split.rules), (sample.width, sample.height), sample.file)
                known.add(key, path)
        except UserError as error:
            return str(error)
        return None

    new, seen = [], set()
    for sample in split.samples:
        key = None if "://" in sample.file else _identity(Path(sample.file), (sample.width, sample.height))
        if key is None or (key not in known and key not in seen):
            new.append(sample)
            seen.add(key)
    with ThreadPoolExecutor(threads, thread_name_prefix="spnas-verify") as pool:
        problems = [text for text in pool.map(problem, new) if text]
    if new:
        known.save()
    if problems:
        more = f" (and {len(problems) - 1} more images of split {split.name!r})" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)


class _Verified:
    """Images that were read to their ends, by what tells a file from its next version; kept in the cache by the split's digest."""

    _of_process: ClassVar[set[int]] = set()

    def __init__(self, digest: str) -> None:
        self._place = cache_folder("verified") / f"{digest}.npy"
        self._new: list[int] = []
        with contextlib.suppress(OSError, ValueError, EOFError):
            self._of_process.update(np.load(self._place).tolist())

    def __contains__(self, key: int | None) -> bool:
        return key in self._of_process

    def add(self, key: int | None, path: Path) -> None:
        """Take an image for verified; other processes learn of it unless it was changed just now, and may be again in the same moment."""
        if key is not None:
            self._of_process.add(key)
            if time.time() - path.stat().st_mtime > _SETTLED:
                self._new.append(key)

    def save(self) -> None:
        """Write them; where the cache cannot be written, they are read again by the next process."""
        partial = self._place.with_name(f".{uuid.uuid4().hex}.npy")
        with contextlib.suppress(OSError):
            self._place.parent.mkdir(parents=True, exist_ok=True)
            known = set(self._new)
            with contextlib.suppress(OSError, ValueError, EOFError):
                known.update(np.load(self._place).tolist())
            np.save(partial, np.array(sorted(known), np.uint64))
            partial.rename(self._place)
        partial.unlink(missing_ok=True)


def _identity(path: Path, size: tuple[int, int]) -> int | None:
    """Make a number of what tells this content of a file, at the annotated `size`, from others; None of one that is gone.

    Hard links of one file are one content.
    """
    try:
        facts = os.stat(path)  # noqa: PTH116 - of many files; Path.stat takes twice the time
    except OSError:
        return None
    values = facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, *size
    return int.from_bytes(hashlib.blake2b(repr(values).encode(), digest_size=8).digest(), "little")


class Fingerprinted(Protocol):
    """A split of any task, as far as its fingerprint goes."""

    @property
    def name(self) -> str:
        """Name of the split."""

    @property
    def digest(self) -> str:
        """Sha256 of its annotations."""

    @property
    def image_files(self) -> Sequence[tuple[str, ImageFile]]:
        """Name and file of each image."""


def fingerprint_splits(splits: Sequence[Fingerprinted], full: bool = False, threads: int = 4) -> str:
    """Sha256 (hex) of the annotations and of the names and sizes of the images, and if `full` of their contents.

    The annotations count by `Split.digest`. Equal data in an equal layout has an equal text wherever it lies. A text that is not `full`
    needs only the listings that found the images.
    """
    parts = [[split.name, split.digest, sorted(_facts(split, full, threads))] for split in splits]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _facts(split: Fingerprinted, full: bool, threads: int) -> list[list[Any]]:
    """Name and size of each image, and if `full` the sha256 of its content."""
    if not full:
        return [[name, file.size] for name, file in split.image_files]
    with ThreadPoolExecutor(threads, thread_name_prefix="spnas-fingerprint") as pool:
        digests = pool.map(lambda one: content_digest(files.local_file(one[1].url)), split.image_files)
        return [[name, file.size, digest] for (name, file), digest in zip(split.image_files, digests, strict=True)]


def data_of(url: str, reading: Reading | None = None) -> Data:
    """Name a data set as jobs do, by the fingerprint of its splits train and val."""
    data = DataSet(url, reading)
    return Data(url=url, fingerprint=fingerprint_splits([data.split(name) for name in ("train", "val")]), reading=data.reading)


def check_fingerprint(splits: Sequence[Fingerprinted], data: Data) -> None:
    """Refuse splits that are not those that a job was planned with, in this order: UserError. A full fingerprint needs all images read."""
    if data.fingerprint != (found := fingerprint_splits(splits)) and data.fingerprint != fingerprint_splits(splits, full=True):
        names = ", ".join(split.name for split in splits)
        planned = f"the data that the job was planned with (fingerprint {data.fingerprint[:12]})"
        raise UserError(f"{data.url} {names}: expected {planned}, got other annotations or images ({found[:12]}); start the run again")
