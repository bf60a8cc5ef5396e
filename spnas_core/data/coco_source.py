"""Splits of a data set in COCO layout: annotations, a large file's by its index, and images, found by listings."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from spnas_core.data import files
from spnas_core.data.annotations import Categories, Clean, clean_columns, clean_document
from spnas_core.data.coco import CocoFile, load_json, open_content
from spnas_core.data.coco_parser import parse_coco
from spnas_core.data.image_facts import header_sizes
from spnas_core.data.index import LARGE, file_digest, indexed, known_digest, remote_digest
from spnas_core.data.listings import Listings
from spnas_core.data.locate import locate_around
from spnas_core.data.mending import mend_document
from spnas_core.data.opening import picture_rules
from spnas_core.data.raw_split import ImageFile
from spnas_core.data.recent import Recent
from spnas_core.data.split_names import name_splits
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading
from spnas_core.store.artifacts import Store

_log = logging.getLogger("spnas_core")
_cleaned: Recent[Clean] = Recent(4, keep=lambda clean: not clean.measured)  # splits by the digest of their annotations


class CocoSource:
    """Splits of the annotation files `found` of the data set at `root`."""

    layout = "COCO"

    def __init__(
        self, url: str, listings: Listings, root: str, found: Mapping[str, CocoFile], reading: Reading, store: Store | None
    ) -> None:
        self._listings, self._root, self._found, self._reading, self._store = listings, root, found, reading, store
        self._read: dict[str, tuple[Clean, str]] = {}
        self.own_names = {split: own for own, split in name_splits(list(found), reading.splits, url).items()}

    def where(self, name: str) -> str:
        """URL of the annotation file of a split."""
        return self._found[self.own_names[name]].url

    def annotations(self, name: str) -> tuple[Clean, str]:
        """Annotations of a split, and the sha256 of their file; UserError for a fault."""
        if name not in self._read:
            self._read[name] = self._annotations(self._found[self.own_names[name]])
        return self._read[name]

    def _annotations(self, file: CocoFile) -> tuple[Clean, str]:
        crowds = self._reading.crowds
        if file.size < LARGE:
            content = files.read_file(file.system, file.path)
            digest = hashlib.sha256(content).hexdigest()
            return _cleaned.get((digest, crowds, self._root), lambda: self._clean(content, file)), digest
        if "://" in file.url:
            digest, store = self._remote_digest(file), self._store
            return _cleaned.get((digest, crowds), lambda: indexed(digest, crowds, lambda: self._parse(file), store)), digest
        path = files.local_file(file.url)
        if known := known_digest(path):
            return _cleaned.get((known, crowds), lambda: indexed(known, crowds, lambda: self._parse(file))), known
        with ThreadPoolExecutor(1, thread_name_prefix="spnas-digest") as pool:  # of a new file, which probably has no index
            hashing = pool.submit(file_digest, path)
            clean = self._parse(file)
            digest = hashing.result()
        return _cleaned.get((digest, crowds), lambda: indexed(digest, crowds, lambda: clean)), digest

    def _parse(self, file: CocoFile) -> Clean:
        with open_content(file) as content:
            return self._clean(content, file)

    def _remote_digest(self, file: CocoFile) -> str:
        return remote_digest(file.url, str(file.system.ukey(file.path)), lambda: file_digest(files.local_file(file.url)), self._store)

    def categories(self, name: str) -> Categories:
        """Categories of a split."""
        return self.annotations(name)[0].categories

    def files(self, name: str, images: Sequence[str]) -> list[ImageFile]:
        """Files of images of a split, by their names; UserError for one that is missing."""
        file = self._found[self.own_names[name]]
        located, told = self._locate(file, images)
        if told:
            _log.warning("%s: %d images are found by another spelling or in another place (%s)", file.url, len(told), told[0])
        if missing := [one for one in dict.fromkeys(images) if one not in located]:
            for one in missing:
                files.join_path(self._root, one)  # raises for one that leads out
            text = f"image {missing[0]!r} is not in images/, {file.split}/, images/{file.split}/ or beside them ({len(missing)} missing)"
            raise UserError(f"{file.url}: {text}")
        return [located[one] for one in images]

    def _locate(self, file: CocoFile, names: Sequence[str]) -> tuple[dict[str, ImageFile], list[str]]:
        return locate_around(self._listings, self._root, file, self._reading.images, names)

    def _clean(self, content: Any, file: CocoFile) -> Clean:
        """Take what is learnt of the bytes of an annotation file; one that is not quite sound is mended and told of."""
        learn = self._reading.crowds == "learn"
        columns = parse_coco(content)
        if columns is not None:
            return clean_columns(columns, file.url, learn)

        measured = False

        def measure(names: Sequence[str]) -> Mapping[str, tuple[int, int] | None]:
            nonlocal measured
            measured = True
            located, _ = self._locate(file, names)
            sizes = header_sizes((one.url for one in located.values()), picture_rules(self._reading))
            return {name: sizes[one.url] for name, one in located.items()}

        document, findings = mend_document(parsed(content, file.url), file.split, measure)
        told = [f"{finding.what} ({finding.first}); mended" for finding in findings if finding.severity != "note"]
        return replace(clean_document(document, file.url, learn), told=tuple(told), measured=measured)


def parsed(content: Any, where: str) -> Any:
    """Parse the annotation file of the place `where`; UserError for one that is no JSON."""
    try:
        return load_json(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected JSON, got: {error}") from error
