"""One split of a data set in COCO layout, read, checked and cleaned at the door.

    DATA/annotations/instances_SPLIT.json      images in DATA/images/, DATA/SPLIT/, DATA/images/SPLIT/, DATA/ or beside the annotations

Boxes are float32 xyxy in px of the original image (after its EXIF rotation); labels count from 1 in the order of the category ids.
"""

import hashlib
import json
import logging
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spnas_core.data import annotations, files, images
from spnas_core.errors import UserError
from spnas_core.job import Data
from spnas_core.store.storage import sha256_file

_log = logging.getLogger("spnas_core")


Categories = tuple[tuple[int, str], ...]  # (id, name), by ascending id


@dataclass(frozen=True, eq=False)
class Sample:
    """One image: where it lies, its annotated size, and the boxes to learn; crowd boxes are not among them."""

    image_id: int
    name: str
    file: str
    file_size: int
    width: int
    height: int
    boxes: npt.NDArray[np.float32]  # (n, 4) xyxy, px of the original image
    labels: npt.NDArray[np.int32]  # (n,) in 1..K


@dataclass(frozen=True, eq=False)
class Split:
    """Samples by ascending image id, (id, name) of the categories by ascending id, and what was wrong with the boxes.

    `dropped` counts boxes: ``zero area`` and ``outside`` are left out everywhere, ``clipped`` are learnt as far as they are inside.
    `annotations` is the COCO document to score with: boxes as given, crowds kept, ids of annotations from 1.
    """

    name: str
    samples: tuple[Sample, ...]
    categories: Categories
    dropped: dict[str, int]
    annotations: dict[str, Any]
    digest: str  # sha256 of the annotation file

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of label 1, 2, ..."""
        return tuple(name for _, name in self.categories)


def open_split(url: str, split: str, strict: bool = False) -> Split:
    """Read ``annotations/instances_SPLIT.json`` below `url` and find its images, by one listing of each folder.

    Faulty boxes are left out (or clipped), counted and logged; UserError where `strict`. UserError, one line, for everything else
    that is wrong with the annotations, and for an image that is not there.
    """
    system, root = files.open_url(url)
    where = f"{files.url_of(system, root).rstrip('/')}/annotations/instances_{split}.json"
    raw = _read(system, root, split, where)
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected JSON, got: {error}") from error
    clean = annotations.clean_document(document, where)
    if clean.faults:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(clean.faults.items()))
        if strict:
            raise UserError(f"{where}: expected boxes with an area and inside their image, got {counts} (first: {clean.first_fault})")
        _log.warning("%s: faulty boxes: %s (first: %s); left out, or clipped", where, counts, clean.first_fault)
    names = [entry["file_name"] for entry in clean.images]
    found = locate_images(system, root, split, names)
    if missing := [name for name in dict.fromkeys(names) if name not in found]:
        text = f"image {missing[0]!r} is not in images/, {split}/, images/{split}/ or beside them ({len(missing)} missing)"
        raise UserError(f"{where}: {text}")
    samples = tuple(
        Sample(entry["id"], entry["file_name"], *found[entry["file_name"]], entry["width"], entry["height"], boxes, labels)
        for entry, boxes, labels in zip(clean.images, clean.boxes, clean.labels, strict=True)
    )
    return Split(split, samples, clean.categories, dict(clean.faults), clean.document, hashlib.sha256(raw).hexdigest())


def verify_images(split: Split, threads: int = 4) -> None:
    """Read every image to its end, in parallel (remote ones land in the cache).

    UserError names the first one that is broken or is not of the annotated size, and says how many more there are.
    """

    def problem(sample: Sample) -> str | None:
        try:
            images.check_size(images.probe(files.local_file(sample.file), sample.file), (sample.width, sample.height), sample.file)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(threads, thread_name_prefix="spnas-verify") as pool:
        problems = [text for text in pool.map(problem, split.samples) if text]
    if problems:
        more = f" (and {len(problems) - 1} more images of split {split.name!r})" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)


def fingerprint_splits(splits: Sequence[Split], full: bool = False, threads: int = 4) -> str:
    """Sha256 (hex) of the annotations and of the names and sizes of the images, and if `full` of their contents.

    Wherever the data lies, equal data has equal text. What is not `full` needs no more than the listings that found the images.
    """

    def facts(sample: Sample) -> list[Any]:
        return [sample.name, sample.file_size, *([sha256_file(files.local_file(sample.file))] if full else [])]

    with ThreadPoolExecutor(threads, thread_name_prefix="spnas-fingerprint") as pool:
        parts = [[split.name, split.digest, sorted(pool.map(facts, split.samples))] for split in splits]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def data_of(url: str) -> Data:
    """Name a data set as jobs do, by the fingerprint of its splits train and val."""
    return Data(url=url, fingerprint=fingerprint_splits([open_split(url, split) for split in ("train", "val")]))


def check_fingerprint(splits: Sequence[Split], data: Data) -> None:
    """Refuse splits that are not those that a job was planned with, in this order: UserError. A full fingerprint needs all images read."""
    if data.fingerprint != (found := fingerprint_splits(splits)) and data.fingerprint != fingerprint_splits(splits, full=True):
        names = ", ".join(split.name for split in splits)
        planned = f"the data that the job was planned with (fingerprint {data.fingerprint[:12]})"
        raise UserError(f"{data.url} {names}: expected {planned}, got other annotations or images ({found[:12]}); start the run again")


def _read(system: Any, root: str, split: str, where: str) -> bytes:
    folder = files.join_path(root, "annotations")
    try:
        return files.read_file(system, files.join_path(folder, f"instances_{split}.json"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        names = sorted(files.list_folder(system, folder))
        splits = [n.removeprefix("instances_").removesuffix(".json") for n in names if n.startswith("instances_") and n.endswith(".json")]
        hint = (
            " (spnas check DATA --to-coco OUT makes COCO of Pascal VOC and YOLO)" if files.list_folder(system, root) and not splits else ""
        )
        raise UserError(f"{where}: no such file; the splits there are: {', '.join(splits) or 'none'}{hint}") from error


def locate_images(system: Any, root: str, split: str, names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """URL and size in bytes of each image file name, of those that are there."""
    tops = [files.join_path(root, *parts) for parts in (("images",), (split,), ("images", split), (".",), ("annotations",))]
    listings: dict[str, dict[str, Any]] = {}
    found: dict[str, tuple[str, int]] = {}
    for name in names:
        for top in tops:
            folder, base = posixpath.split(files.join_path(top, name))
            if folder not in listings:
                listings[folder] = files.list_folder(system, folder)
            entry = listings[folder].get(base)
            if entry is not None and entry["type"] == "file":
                found[name] = (files.url_of(system, entry["name"]), int(entry.get("size") or 0))
                break
    return found
