"""`spnas split`: division of the images of a data set into train, val and test, or into folds.

Groups stay together: images of one video or patient, as a pattern tells, and images that are the same or nearly the same
(`check/images.py`). Groups are dealt out one by one, the largest first, equal ones in an order drawn by the seed, each to the split for
which the shares of all classes and of the images come closest to those asked for (after Sechidis et al., "On the Stratification of
Multi-Label Data", ECML 2011, for groups in place of examples).

Shapes: n images, g groups, k classes, s splits.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spnas_core.check.twins import similar_pairs, unit_thumbnails
from spnas_core.data.image_facts import ImageFacts
from spnas_core.data.images import THUMBNAIL, ImageFact
from spnas_core.data.masks.mask_layouts import has_masks
from spnas_core.data.masks.mask_samples import MaskSplit
from spnas_core.data.masks.mask_set import MaskSet
from spnas_core.data.samples import Split
from spnas_core.data.split_file import Part
from spnas_core.data.split_names import UNSPLIT
from spnas_core.data.splits import DataSet
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Division:
    """Images of each split by name, boxes by class (of masks: images with the class), and how many images are in a group with others."""

    of: str
    images: Mapping[str, tuple[str, ...]]
    boxes: Mapping[str, Mapping[str, int]]
    grouped: int
    masks: bool = False

    def parts(self) -> dict[str, Part]:
        """Parts of a split file."""
        return {name: Part(of=self.of, images=images) for name, images in self.images.items()}


def divide(url: str, shares: Mapping[str, float], seed: int, group: str | None, reading: Reading | None = None) -> Division:
    """Divide the data set at `url` by `shares` of its images (that of train is what is left); UserError.

    `group` is a regular expression: images whose names have the same first group in it (or the same match) stay together.
    """
    split, keys, grouped = _open(url, group, reading, shares)
    whole = {"train": 1.0 - sum(shares.values()), **{name: share for name, share in shares.items() if share > 0}}
    if whole["train"] <= 0 or min(shares.values()) < 0:
        raise UserError(f"spnas split: expected shares of at least 0 that leave some for train, got {dict(shares)}")
    places = assign(keys, _classes(split), list(whole.values()), seed)
    return _division(split, places, {name: [number] for number, name in enumerate(whole)}, grouped)


def divide_folds(url: str, folds: int, test: float, seed: int, group: str | None, reading: Reading | None = None) -> list[Division]:
    """Divide the data set at `url` into `folds` folds beside a share `test`: for each fold, it is val and the others are train."""
    split, keys, grouped = _open(url, group, reading, {"test": test})
    if not 0 <= test < 1:
        raise UserError(f"spnas split: expected a share of test from 0 to 1, got {test}")
    places = assign(keys, _classes(split), [*([(1 - test) / folds] * folds), *([test] if test else [])], seed)
    tests = {"test": [folds]} if test else {}
    rest = [{"train": [n for n in range(folds) if n != fold], "val": [fold], **tests} for fold in range(folds)]
    return [_division(split, places, members, grouped) for members in rest]


def assign(groups: Places, classes: Places, shares: Sequence[float], seed: int) -> Places:
    """Choose the split (n,) of each image by `classes` (n, k), its boxes of each class; those of one number in `groups` (n,) together."""
    members, place = np.unique(groups, return_inverse=True)
    values = np.zeros((len(members), classes.shape[1] + 1))  # boxes of each class, and images
    np.add.at(values, place, np.concatenate([classes, np.ones((len(classes), 1))], axis=1))
    values /= np.maximum(values.sum(axis=0), 1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(members))
    order = order[np.argsort(-values[order].max(axis=1), kind="stable")]
    wanted = np.array(shares)[:, None]
    have = np.zeros((len(shares), values.shape[1]))
    chosen = np.zeros(len(members), np.int64)
    for group in order:
        gap = wanted - have
        gain = ((gap - values[group]) ** 2 - gap**2).sum(axis=1) / wanted[:, 0]
        chosen[group] = int(np.argmin(gain))
        have[chosen[group]] += values[group]
    return chosen[place]


def _open(url: str, group: str | None, reading: Reading | None, shares: Mapping[str, float]) -> tuple[Split | MaskSplit, Places, int]:
    """Images to divide, and the group of each; UserError for a data set that is divided already."""
    own = (reading or Reading()).model_copy(update={"split_file": None})
    data = MaskSet(url, own, divided=False) if has_masks(url, own) else DataSet(url, own, divided=False)
    only = data.names if len(data.names) == 1 else ()
    source = next((name for name in (*only, UNSPLIT, "train") if name in data.names), None)
    if source is None or ("val" in data.names and not only):
        way_out = "" if "train" in data.names else "; --set data.splits.train=NAME takes one of them as train"
        raise UserError(f"{url}: expected a data set without val, got {', '.join(data.names)}{way_out}")
    if "test" in data.names and not only and shares.get("test"):
        raise UserError(f"{url}: expected --test 0, since the data set has a test split, got {shares['test']:g}")
    split = data.split(source)
    groups = _Groups(len(split.samples))
    if group is not None:
        groups.join_alike(_keys(split, group))
    facts = ImageFacts(rules=split.rules).at(file.url for _, file in split.image_files)
    seen = [facts[file.url] for _, file in split.image_files]
    groups.join_alike([fact.sha256 if isinstance(fact, ImageFact) else None for fact in seen])
    first = {fact.sha256: place for place, fact in reversed(list(enumerate(seen))) if isinstance(fact, ImageFact)}
    whole = sorted(first.values())
    grey = np.array([fact.thumbnail.ravel() for place in whole if isinstance(fact := seen[place], ImageFact)], np.float32)
    for one, two in similar_pairs(unit_thumbnails(grey.reshape(-1, THUMBNAIL**2))):
        groups.join(whole[one], whole[two])
    keys = groups.numbers()
    _, counts = np.unique(keys, return_counts=True)
    return split, keys, int(counts[counts > 1].sum())


def _keys(split: Split | MaskSplit, pattern: str) -> list[str | None]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group: expected a regular expression, got {pattern!r}: {error}") from error
    matches = [compiled.search(name) for name, _ in split.image_files]
    if not any(matches):
        raise UserError(f"--group {pattern!r}: expected names of images that it matches, such as {split.image_files[0][0]!r}, got none")
    return [None if match is None else match[1] if compiled.groups else match[0] for match in matches]


class _Groups:
    """Disjoint sets of the numbers below `count`."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def _root(self, one: int) -> int:
        while self._parents[one] != one:
            self._parents[one] = one = self._parents[self._parents[one]]
        return one

    def join(self, one: int, two: int) -> None:
        first, second = sorted((self._root(one), self._root(two)))
        self._parents[second] = first

    def join_alike(self, keys: Sequence[str | None]) -> None:
        """Join the numbers whose keys are the same."""
        first: dict[str, int] = {}
        for number, key in enumerate(keys):
            if key is not None:
                self.join(first.setdefault(key, number), number)

    def numbers(self) -> Places:
        """Return the number of the set of each number."""
        return np.array([self._root(one) for one in range(len(self._parents))], np.int64)


def _classes(split: Split | MaskSplit) -> Places:
    """Boxes of each class (n, k) by image; of masks 1 where the image has the class."""
    counts = np.zeros((len(split.samples), len(split.categories)), np.int64)
    if isinstance(split, MaskSplit):
        for row, masked in enumerate(split.samples):
            counts[row] = np.bincount(masked.mask().ravel(), minlength=256)[: len(split.categories)] > 0
        return counts
    for row, sample in enumerate(split.samples):
        np.add.at(counts[row], sample.labels - 1, 1)
    return counts


def _division(split: Split | MaskSplit, places: Places, members: Mapping[str, Sequence[int]], grouped: int) -> Division:
    classes, names = _classes(split), [name for name, _ in split.image_files]
    masks = {name: np.isin(places, numbers) for name, numbers in members.items()}
    images = {name: tuple(names[row] for row in np.flatnonzero(mask)) for name, mask in masks.items()}
    if empty := [name for name, some in images.items() if not some]:
        raise UserError(f"spnas split: expected images for every split, got none for {empty[0]} of {len(names)} images in groups")
    boxes = {name: dict(zip(split.class_names, classes[mask].sum(axis=0).tolist(), strict=True)) for name, mask in masks.items()}
    return Division(split.name, images, boxes, grouped, isinstance(split, MaskSplit))
