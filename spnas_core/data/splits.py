"""One door to the splits of a data set in any layout (`layouts.py`): read, mended, checked and cleaned, each file parsed once per process.

A split has the categories of train, matched by name.
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from spnas_core.data import annotations, files
from spnas_core.data.annotations import Categories, Clean
from spnas_core.data.coco import find_coco_root
from spnas_core.data.coco_source import CocoSource
from spnas_core.data.layout_source import LayoutSource
from spnas_core.data.listings import Listings
from spnas_core.data.raw_split import ImageFile
from spnas_core.data.samples import Samples, Split, rename_categories, take_images
from spnas_core.data.split_file import SplitFile, find_split_file
from spnas_core.data.split_names import UNSPLIT, in_order
from spnas_core.errors import EmptySplitError, UserError
from spnas_core.settings.reading import Reading
from spnas_core.store.artifacts import Store

_log = logging.getLogger("spnas_core")


class _Source(Protocol):
    """Splits of a data set as its files have them."""

    layout: str
    own_names: dict[str, str]  # the data set's own name of each split, by its name here

    def where(self, name: str) -> str:
        """Place of a split, for messages."""

    def annotations(self, name: str) -> tuple[Clean, str]:
        """Annotations of a split, and their digest; UserError for a fault."""

    def categories(self, name: str) -> Categories:
        """Categories of a split."""

    def files(self, name: str, images: Sequence[str]) -> list[ImageFile]:
        """Files of images of a split, by their names; UserError for one that is missing."""


class DataSet:
    """A data set as it is now: its layout, its splits by their names here, and listings of its folders, each read once.

    `divided`: by its split file, if it has one. A `store` has indexes of large annotation files for all hosts.
    """

    def __init__(
        self, url: str, reading: Reading | None = None, strict: bool = False, divided: bool = True, store: Store | None = None
    ) -> None:
        self.reading = reading or Reading()
        self.strict = strict
        self._divided, self._store = divided, store
        self._url = url
        self._system, self._root = files.open_url(url)
        self._root = self._root.rstrip("/") or "/"
        self.url = files.url_of(self._system, self._root).rstrip("/")
        self._listings = Listings(self._system)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the splits here: train, val and test first; UserError where the place is in no known layout."""
        own = tuple(self._source.own_names)
        given = self._split_file
        rest = [name for name in own if given is None or name not in given.sources]
        return in_order({*(given.splits if given else ()), *rest})

    def split(self, name: str, categories: Categories | None = None) -> Split:
        """Open a split, under `categories` (by default those of train), and find its images by listings.

        Faulty boxes are left out (or clipped), counted and logged; UserError where the data set is `strict`. UserError, one line, for every
        other fault of the annotations, and for an image that is missing.
        """
        clean, located, digest = self._part(name)
        where = self._source.where(self._source_of(name))
        if categories is None and name != "train" and "train" in self.names:
            categories = self._source.categories(self._source_of("train"))
        for text in clean.told:
            _log.warning("%s: %s", where, text)
        if clean.faults:
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(clean.faults.items()))
            if self.strict:
                text = f"expected boxes with an area and inside their image, got {counts} (first: {clean.first_fault})"
                raise UserError(f"{where}: {text}")
            _log.warning("%s: faulty boxes: %s (first: %s); left out, or clipped", where, counts, clean.first_fault)
        if categories is not None:
            try:
                clean, told = rename_categories(clean, categories)
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            for text in told:
                _log.warning("%s: %s", where, text)
        self._tell_of_crowds(clean, where)
        return Split(name, Samples(clean, located), clean.categories, clean.faults, digest, clean.marks, self.reading)

    def categories(self, name: str) -> Categories:
        """Categories of a split as it lists them itself."""
        return self._annotations(self._source_of(name))[0].categories

    def test(self) -> Split | None:
        """Open the test split; None where there is none, or it has no image or no box to score with, which is logged."""
        if "test" not in self.names:
            return None
        try:
            self._annotations(self._source_of("test"))
        except EmptySplitError as error:
            _log.warning("%s; the final net is scored on val alone", error)
            return None
        split = self.split("test")
        if split.marks["iscrowd"].all():
            _log.warning("%s test: no boxes to score with; the final net is scored on val alone", self.url)
            return None
        return split

    @cached_property
    def _source(self) -> _Source:
        root, found = find_coco_root(self._listings, self._root, self.reading.annotations)
        if found:
            return CocoSource(self.url, self._listings, root, found, self.reading, self._store)
        if self.reading.images:
            raise UserError(
                f"{self.url}: expected COCO files, whose images {self.reading.images} has, found none; --annotations names them"
            )
        return LayoutSource(self._url, self._system, self._root, self.reading)

    @cached_property
    def _split_file(self) -> SplitFile | None:
        given = find_split_file(self._listings, self._root, self.reading.split_file) if self._divided else None
        own = self._source.own_names
        if given and (gone := sorted(given.sources - own.keys())):
            raise UserError(f"{given.url}: expected splits of {self.url}, {', '.join(own)}, got {gone[0]!r}")
        return given

    def _source_of(self, name: str) -> str:
        """Split of the data set that a split is taken of."""
        given = self._split_file
        return given.splits[name].of if given and name in given.splits else name

    def _annotations(self, name: str) -> tuple[Clean, str]:
        """Annotations of a split of the data set, and their digest."""
        own = self._source.own_names
        if name not in own:
            layout = self._source.layout
            if UNSPLIT in own:
                raise UserError(f"{self.url}: expected train and val, got images that are not split ({layout}); spnas split {self.url}")
            way_out = f"; spnas split {self.url} takes it from train" if name == "val" and "train" in own else ""
            raise UserError(f"{self.url}: expected a split {name!r}, got {', '.join(own)} ({layout}){way_out}")
        return self._source.annotations(name)

    def _part(self, name: str) -> tuple[Clean, list[ImageFile], str]:
        """Open a split as the data set or its split file has it: its annotations, the files of its images, and its digest."""
        clean, digest = self._annotations(self._source_of(name))
        given = self._split_file
        if given and name in given.splits:
            clean = take_images(clean, given.rows(name, clean.names))
        return clean, self._source.files(self._source_of(name), clean.names), digest

    def _tell_of_crowds(self, clean: Clean, where: str) -> None:
        crowds, boxes = int(np.count_nonzero(clean.marks["iscrowd"])), len(clean.marks)
        if crowds > annotations.MANY_CROWDS * boxes:
            _log.warning("%s: %d of %d boxes are crowds, which are not learnt; --set data.crowds=learn learns them", where, crowds, boxes)


def open_split(url: str, split: str, strict: bool = False, reading: Reading | None = None) -> Split:
    """Open one split of the data set at `url`: `DataSet.split`."""
    return DataSet(url, reading, strict).split(split)
