"""A split as jobs see it: images with their boxes, made one by one from arrays that are shared and may lie on disk.

Boxes are float32 xyxy in px of the original image (after its EXIF rotation); labels count from 1 in the order of the category ids.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np

from spnas_core.data.annotations import Categories, Clean
from spnas_core.data.columns import MARK_DTYPE, Longs, Marks
from spnas_core.data.images import Floats, Ints
from spnas_core.data.opening import PictureRules, picture_rules
from spnas_core.data.raw_split import ImageFile
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading


@dataclass(frozen=True, eq=False)
class Sample:
    """One image: its file, its annotated size, and the boxes to learn, without crowds."""

    image_id: int
    name: str
    file: str
    file_size: int
    width: int
    height: int
    boxes: Floats  # (n, 4) xyxy, px of the original image
    labels: Ints  # (n,) in 1..K


class Samples(Sequence[Sample]):
    """Images of a split by ascending id; each is made when it is asked for."""

    def __init__(self, clean: Clean, files: Sequence[ImageFile]) -> None:
        self._clean, self.files = clean, files

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...

    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        at = range(len(self))[place]
        clean, file = self._clean, self.files[at]
        image_id, width, height, last = clean.images[at].tolist()
        first = int(clean.images["end"][at - 1]) if at else 0
        return Sample(image_id, clean.names[at], *file, width, height, clean.boxes[first:last], clean.labels[first:last])

    def __iter__(self) -> Iterator[Sample]:
        return map(self.__getitem__, range(len(self)))

    @property
    def image_files(self) -> Sequence[tuple[str, ImageFile]]:
        """Name and file of each image."""
        return list(zip(self._clean.names, self.files, strict=True))

    @property
    def box_counts(self) -> Longs:
        """Number of boxes of each image (n,)."""
        return np.diff(self._clean.images["end"], prepend=0)


@dataclass(frozen=True, eq=False)
class Split:
    """Samples by ascending image id, (id, name) of the categories by ascending id, and the faults of the boxes.

    `dropped` counts boxes: ``zero area`` and ``outside`` are left out everywhere, ``clipped`` are learnt as far as they are inside.
    """

    name: str
    samples: Sequence[Sample]
    categories: Categories
    dropped: Mapping[str, int] = field(default_factory=dict)
    digest: str = ""  # sha256 of the annotation file; of other layouts, of the COCO document that they are read as
    marks: Marks = field(default_factory=lambda: np.zeros(0, MARK_DTYPE))  # to score with
    reading: Reading = field(default_factory=Reading)

    @property
    def rules(self) -> PictureRules:
        """How its image files are read."""
        return picture_rules(self.reading)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of label 1, 2, ..."""
        return tuple(name for _, name in self.categories)

    @property
    def image_files(self) -> Sequence[tuple[str, ImageFile]]:
        """Name and file of each image."""
        samples = self.samples
        return samples.image_files if isinstance(samples, Samples) else [(one.name, ImageFile(one.file, one.file_size)) for one in samples]

    @property
    def box_counts(self) -> Longs:
        """Number of boxes to learn of each image (n,)."""
        samples = self.samples
        return samples.box_counts if isinstance(samples, Samples) else np.array([len(one.boxes) for one in samples], np.int64)

    @cached_property
    def annotations(self) -> dict[str, Any]:
        """COCO document to score with: boxes as given, crowds kept, ids of annotations from 1."""
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
        columns = [self.marks[key].tolist() for key in keys]
        return {
            "images": [{"id": one.image_id, "file_name": one.name, "width": one.width, "height": one.height} for one in self.samples],
            "categories": [{"id": number, "name": name} for number, name in self.categories],
            "annotations": [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)],
        }


def take_images(clean: Clean, rows: Longs) -> Clean:
    """Take the images at `rows` (ascending) alone, with their boxes and annotations."""
    starts, ends = np.concatenate([[0], clean.images["end"][:-1]])[rows], clean.images["end"][rows]
    counts = ends - starts
    images = clean.images[rows]
    images["end"] = np.cumsum(counts)
    boxes = np.repeat(starts - (images["end"] - counts), counts) + np.arange(counts.sum())
    marks = clean.marks[np.isin(clean.marks["image_id"], images["id"])]
    marks["id"] = np.arange(1, len(marks) + 1)
    names = [clean.names[row] for row in rows]
    return Clean(
        images, names, clean.categories, clean.boxes[boxes], clean.labels[boxes], marks, clean.faults, clean.first_fault, clean.told
    )


def match_categories(names: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """Place of each name among the `known`: of the equal one, else of the only one that differs in blanks, letter case or accents' form."""
    places = {name: place for place, name in enumerate(known)}
    alike: dict[str, list[int]] = {}
    for place, name in enumerate(known):
        alike.setdefault(_folded(name), []).append(place)
    own = Counter(_folded(name) for name in names)
    matches: list[int | None] = []
    for name in names:
        some = alike.get(_folded(name), [])
        matches.append(places.get(name, some[0] if len(some) == 1 == own[_folded(name)] else None))
    return matches


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", " ".join(name.split())).casefold()


def rename_categories(clean: Clean, categories: Categories) -> tuple[Clean, list[str]]:
    """Give the boxes the ids and labels that `categories` give to their names; and say what is told of other names.

    Boxes of categories whose name `categories` lack are left out. UserError where no name is common.
    """
    if clean.categories == categories:
        return clean, []
    known = [name for _, name in categories]
    matches = match_categories([name for _, name in clean.categories], known)
    if all(match is None for match in matches):
        names = [", ".join(name for _, name in some) for some in (categories, clean.categories)]
        raise UserError(f"expected some of the categories {names[0]}, got {names[1]}")
    labels = np.array([0, *(0 if match is None else match + 1 for match in matches)], np.int32)[clean.labels]
    ids = np.array([number for number, _ in clean.categories], np.int64)
    numbers = np.array([-1 if match is None else categories[match][0] for match in matches], np.int64)
    marks = clean.marks.copy()
    marks["category_id"] = numbers[np.searchsorted(ids, marks["category_id"])]
    strange = marks["category_id"] < 0
    marks = marks[~strange]
    marks["id"] = np.arange(1, len(marks) + 1)
    learnt = labels > 0
    images = clean.images.copy()
    images["end"] = np.concatenate([[0], np.cumsum(learnt)])[clean.images["end"]]
    told = []
    pairs = [(name, match) for (_, name), match in zip(clean.categories, matches, strict=True)]
    if others := [name for name, match in pairs if match is None]:
        told.append(f"{int(strange.sum())} boxes of categories that train lacks are left out: {', '.join(others)}")
    if spelled := [f"{name} is {known[match]}" for name, match in pairs if match is not None and known[match] != name]:
        told.append(f"categories that train spells otherwise: {', '.join(spelled)}")
    if missing := [name for place, name in enumerate(known) if place not in matches]:
        told.append(f"categories of train that it does not list: {', '.join(missing)}")
    if not told:
        told.append("category ids are not those of train: matched by name")
    boxes = clean.boxes[learnt]
    return Clean(images, clean.names, categories, boxes, labels[learnt], marks, clean.faults, clean.first_fault, clean.told), told
