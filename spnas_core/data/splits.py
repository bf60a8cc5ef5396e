"""One door to the splits of a data set in any layout (`layouts.py`): read, checked and cleaned, each file parsed once per process.

Boxes are float32 xyxy in px of the original image (after its EXIF rotation); labels count from 1 in the order of the category ids.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from spnas_core.data import annotations, coco, files, images
from spnas_core.data.annotations import Clean
from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import layout_listing, open_layout
from spnas_core.data.raw_split import ImageFile, Layout, RawSplit
from spnas_core.data.recent import Recent
from spnas_core.errors import UserError
from spnas_core.job import Data, canonical_json
from spnas_core.store.storage import sha256_file

Categories = tuple[tuple[int, str], ...]  # (id, name), by ascending id
_MISREAD = ("missing-label", "unnamed-category", "list-of-images")  # findings: a training would learn what is not meant
_log = logging.getLogger("spnas_core")
_verified: set[tuple[Path, int, int, tuple[int, int]] | None] = set()  # images that were read to their ends, by file, size and time
_cleaned: Recent[Clean] = Recent(4)  # splits by the digest of their annotations
_layouts: Recent[Layout] = Recent(1)  # Pascal VOC or YOLO, by place and listing


@dataclass(frozen=True, eq=False)
class Sample:
    """One image: its file, its annotated size, and the boxes to learn, without crowds."""

    image_id: int
    name: str
    file: str
    file_size: int
    width: int
    height: int
    boxes: images.Floats  # (n, 4) xyxy, px of the original image
    labels: images.Ints  # (n,) in 1..K


@dataclass(frozen=True, eq=False)
class Split:
    """Samples by ascending image id, (id, name) of the categories by ascending id, and the faults of the boxes.

    `dropped` counts boxes: ``zero area`` and ``outside`` are left out everywhere, ``clipped`` are learnt as far as they are inside.
    `annotations` is the COCO document to score with: boxes as given, crowds kept, ids of annotations from 1.
    """

    name: str
    samples: tuple[Sample, ...]
    categories: Categories
    dropped: dict[str, int]
    annotations: dict[str, Any]
    digest: str  # sha256 of the annotation file; of Pascal VOC and YOLO, of the COCO document that they are read as

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of label 1, 2, ..."""
        return tuple(name for _, name in self.categories)


def open_split(url: str, split: str, strict: bool = False) -> Split:
    """Read a split of the data set at `url`, in the layout that its files show, and find its images by listings.

    Faulty boxes are left out (or clipped), counted and logged; UserError where `strict`. UserError, one line, for every other fault of
    the annotations, and for an image that is missing.
    """
    system, root = files.open_url(url)
    place = files.url_of(system, root).rstrip("/")
    try:
        raw = files.read_file(system, files.join_path(root, coco.annotation_file(split)))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        layout = _layout(url)
        if layout is None:
            present = ", ".join(sorted(coco.coco_split_names(system, root)))
            raise UserError(f"{place}/{coco.annotation_file(split)}: no such file; the splits there are: {present}") from error
        return _other_split(layout, split, strict)
    where = f"{place}/{coco.annotation_file(split)}"
    digest = hashlib.sha256(raw).hexdigest()
    clean = _cleaned.get(digest, lambda: annotations.clean_document(_parsed(raw, where), where))
    names = [entry["file_name"] for entry in clean.images]
    located = coco.locate_images(system, root, split, names)
    if missing := [name for name in dict.fromkeys(names) if name not in located]:
        text = f"image {missing[0]!r} is not in images/, {split}/, images/{split}/ or beside them ({len(missing)} missing)"
        raise UserError(f"{where}: {text}")
    return _split(split, clean, located, digest, where, strict)


def split_names(url: str) -> tuple[str, ...]:
    """Names of the splits of the data set at `url`; UserError where it is in no known layout."""
    layout = _layout(url)
    return tuple(coco.coco_split_names(*files.open_url(url))) if layout is None else tuple(raw.split for raw in layout.sources)


def _layout(url: str) -> Layout | None:
    """Pascal VOC or YOLO data set at `url`, None of COCO; parsed anew where the store's listing of its files has changed."""
    system, root = files.open_url(url)
    if coco.coco_split_names(system, root):
        return None
    return _layouts.get((url, layout_listing(system, root)), lambda: open_layout(url, header_sizes))


def _other_split(layout: Layout, split: str, strict: bool) -> Split:
    """Split of a data set in Pascal VOC or YOLO layout; UserError where a training would learn other boxes than its files mean."""
    by_name = {raw.split: raw for raw in layout.sources}
    if split not in by_name:
        raise UserError(f"{layout.url}: expected a split {split!r}, got {', '.join(by_name)} ({layout.name})")
    raw, where = by_name[split], f"{layout.url} {split}"
    for finding in (*raw.findings, *layout.findings):
        if finding.kind == "malformed":
            raise UserError(f"{where}: {finding.first}" + (f" (and {finding.count - 1} more)" if finding.count > 1 else ""))
        if finding.kind in _MISREAD:
            raise UserError(f"{where}: {finding.what} ({finding.first})")
    for other in layout.sources:
        if other is not raw and (shared := sorted(set(raw.files) & set(other.files))):
            raise UserError(f"{where}: expected splits without common images, got {shared[0]!r} in {other.split} too ({len(shared)} such)")
    _check_classes(raw, where)
    digest = hashlib.sha256(canonical_json(raw.document).encode()).hexdigest()
    if missing := [name for name, file in raw.files.items() if file is None]:
        raise UserError(f"{where}: image {missing[0]!r} is not there ({len(missing)} missing)")
    if broken := sorted(set(raw.files) - {entry["file_name"] for entry in raw.document["images"]}):
        raise UserError(f"{where}: image {broken[0]!r}: expected an image file, got one whose size cannot be read ({len(broken)} such)")
    clean = _cleaned.get(digest, lambda: annotations.clean_document(raw.document, where))
    return _split(split, clean, {name: file for name, file in raw.files.items() if file}, digest, where, strict)


def _check_classes(raw: RawSplit, where: str) -> None:
    """UserError for a box of a class that has no name, which names its image."""
    known = {kind["id"] for kind in raw.document["categories"]}
    names = {image["id"]: image["file_name"] for image in raw.document["images"]}
    for mark in raw.document["annotations"]:
        if mark["category_id"] not in known:
            image, number = names[mark["image_id"]], mark["category_id"]
            raise UserError(f"{where}: labels of {image}: expected one of the {len(known)} classes that have a name, got class {number}")


def _split(name: str, clean: Clean, located: Mapping[str, ImageFile], digest: str, where: str, strict: bool) -> Split:
    if clean.faults:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(clean.faults.items()))
        if strict:
            raise UserError(f"{where}: expected boxes with an area and inside their image, got {counts} (first: {clean.first_fault})")
        _log.warning("%s: faulty boxes: %s (first: %s); left out, or clipped", where, counts, clean.first_fault)
    samples = tuple(
        Sample(entry["id"], entry["file_name"], *located[entry["file_name"]], entry["width"], entry["height"], boxes, labels)
        for entry, boxes, labels in zip(clean.images, clean.boxes, clean.labels, strict=True)
    )
    return Split(name, samples, clean.categories, dict(clean.faults), clean.document, digest)


def _parsed(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected JSON, got: {error}") from error


def verify_images(split: Split, threads: int = 4) -> None:
    """Read every image to its end, in parallel (remote ones land in the cache), each once per process as long as it stays the same.

    UserError names the first one that is broken or is not of the annotated size, and says how many more there are.
    """

    def problem(sample: Sample) -> str | None:
        annotated = sample.width, sample.height
        try:
            path = files.local_file(sample.file)
            facts = path.stat() if path.exists() else None
            key = (path, facts.st_size, facts.st_mtime_ns, annotated) if facts else None
            if key is None or key not in _verified:
                images.check_size(images.probe(path, sample.file), annotated, sample.file)
                _verified.add(key)
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

    The annotations count by `Split.digest`. Equal data in an equal layout has an equal text wherever it lies. A text that is not `full`
    needs only the listings that found the images.
    """

    def facts(sample: Sample) -> list[Any]:
        return [sample.name, sample.file_size, *([_content_digest(files.local_file(sample.file))] if full else [])]

    with ThreadPoolExecutor(threads, thread_name_prefix="spnas-fingerprint") as pool:
        parts = [[split.name, split.digest, sorted(pool.map(facts, split.samples))] for split in splits]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _content_digest(path: Path) -> str:
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1 << 20)
def _sha256(path: Path, _size: int, _time: int) -> str:
    """Sha256 (hex) of a file, read once per process as long as its size and time stay."""
    return sha256_file(path)


def data_of(url: str) -> Data:
    """Name a data set as jobs do, by the fingerprint of its splits train and val."""
    return Data(url=url, fingerprint=fingerprint_splits([open_split(url, split) for split in ("train", "val")]))


def check_fingerprint(splits: Sequence[Split], data: Data) -> None:
    """Refuse splits that are not those that a job was planned with, in this order: UserError. A full fingerprint needs all images read."""
    if data.fingerprint != (found := fingerprint_splits(splits)) and data.fingerprint != fingerprint_splits(splits, full=True):
        names = ", ".join(split.name for split in splits)
        planned = f"the data that the job was planned with (fingerprint {data.fingerprint[:12]})"
        raise UserError(f"{data.url} {names}: expected {planned}, got other annotations or images ({found[:12]}); start the run again")
