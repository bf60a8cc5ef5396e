"""A split of a segmentation data set as jobs see it: images, each with its mask, read when they are asked for.

Value k of a mask is category k of the split, from 0 on; 255 is ignored: neither learnt nor scored.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from spnas_core.data import files, images
from spnas_core.data.annotations import Categories
from spnas_core.data.content import content_digest
from spnas_core.data.image_facts import REMOTE
from spnas_core.data.images import Pixels
from spnas_core.data.masks.decoding import IGNORED, Colours, decode_mask
from spnas_core.data.opening import PictureRules, picture_rules
from spnas_core.data.raw_split import ImageFile
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading


class MaskSource(Protocol):
    """Mask of one image, in a file or drawn."""

    @property
    def place(self) -> str:
        """Where it lies, for messages."""

    @property
    def file(self) -> ImageFile | None:
        """File that it is read of; None of one that is drawn."""

    def identity(self) -> str:
        """Text that tells it from others: equal masks have equal ones, wherever they lie."""

    def values(self, rules: PictureRules) -> Pixels:
        """Values (h, w), 255 where ignored; PictureError for a file that is no mask."""


@dataclass(frozen=True, eq=False)
class StoredMask:
    """Mask in a file; with `zero_ignored` its 0 is ignored, and value k is category k - 1 (as in ADE20K).

    In one of several channels, or of a palette of these alone, colours stand for the values.
    """

    file: ImageFile
    zero_ignored: bool = False
    colours: Colours | None = None

    @property
    def place(self) -> str:
        """URL of the file."""
        return self.file.url

    def identity(self) -> str:
        """Sha256 (hex) of the content, and what its values mean."""
        return f"{content_digest(files.local_file(self.file.url))}{'-' * self.zero_ignored}{sorted((self.colours or {}).items()) or ''}"

    def values(self, rules: PictureRules) -> Pixels:
        """Values (h, w), 255 where ignored; PictureError for a file that is no mask."""
        values = decode_mask(files.local_file(self.file.url), self.file.url, rules, self.colours)
        if self.zero_ignored:
            values = np.where((values == 0) | (values == IGNORED), IGNORED, values - 1).astype(np.uint8)
        return values


@dataclass(frozen=True, eq=False)
class MaskSample:
    """One image and its mask; `image_id` is its place in the split, from 0 on."""

    image_id: int
    name: str
    file: str
    file_size: int
    source: MaskSource
    classes: int
    rules: PictureRules
    table: Pixels | None = None  # (256,) value under other categories of each value in the file

    def image(self) -> Pixels:
        """Pixels (h, w, 3), RGB, after EXIF rotation; UserError for a file that cannot be read."""
        return images.decode_image(files.local_file(self.file), self.file, self.rules)

    def mask(self) -> Pixels:
        """Categories (h, w), 255 where ignored; UserError for a mask that cannot be read, and for a value without a category."""
        values = self.source.values(self.rules)
        beyond = values[(values >= self.classes) & (values != IGNORED)]
        if beyond.size:
            text = f"expected values below {self.classes}, which have names, and {IGNORED}, got {int(beyond.max())} ({beyond.size} px)"
            raise UserError(f"mask {self.source.place}: {text}")
        return values if self.table is None else self.table[values]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the image, px after EXIF rotation, by its header."""
        width, height = images.header_size(files.local_file(self.file), self.file, self.rules)
        return height, width


@dataclass(frozen=True, eq=False)
class MaskSplit:
    """Samples in the order of their names, and (number, name) of the categories: number k is value k of a mask."""

    name: str
    samples: Sequence[MaskSample]
    categories: Categories
    reading: Reading = field(default_factory=Reading)

    @property
    def rules(self) -> PictureRules:
        """How its image files are read."""
        return picture_rules(self.reading)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of category 0, 1, ..."""
        return tuple(name for _, name in self.categories)

    @property
    def image_files(self) -> Sequence[tuple[str, ImageFile]]:
        """Name and file of each image."""
        return [(one.name, ImageFile(one.file, one.file_size)) for one in self.samples]

    @cached_property
    def digest(self) -> str:
        """Sha256 (hex) of the categories and of what the masks hold; files of masks are read for it, remote ones land in the cache."""
        remote = any("://" in one.source.place for one in self.samples)
        with ThreadPoolExecutor(REMOTE if remote else 4, thread_name_prefix="spnas-masks") as pool:
            masks = list(pool.map(lambda one: [one.name, one.source.identity()], self.samples))
        return hashlib.sha256(json.dumps([self.categories, masks]).encode()).hexdigest()
