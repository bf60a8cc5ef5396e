"""Folds of a small data set: the images of train and val together, dealt into parts of which each in turn is held back to score on."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spnas_core.data.columns import Marks
from spnas_core.data.masks.mask_samples import MaskSplit
from spnas_core.data.samples import Sample, Split


def fold_of(train: Split, val: Split, number: int, count: int) -> tuple[Split, Split]:
    """Images to learn from and images to score on, in fold `number` (from 0) of `count`.

    Images are dealt in the order of a hash of their names, so that each fold has its share whatever the order in which they were taken;
    they have new ids, since those of train and val may be the same.
    """
    samples = [*train.samples, *val.samples]
    held = _held_back([one.name for one in samples], number, count)
    known = [
        {one.image_id: start + n for n, one in enumerate(split.samples, start=1)}
        for start, split in ((0, train), (len(train.samples), val))
    ]
    marks = np.concatenate([_renumbered(split.marks, ids) for split, ids in zip((train, val), known, strict=True)])
    named = [replace(one, image_id=n) for n, one in enumerate(samples, start=1)]
    parts: list[Split] = []
    for split, wanted in ((train, set(range(len(samples))) - held), (val, held)):
        own: list[Sample] = [one for n, one in enumerate(named) if n in wanted]
        chosen = np.isin(marks["image_id"], [one.image_id for one in own])
        parts.append(replace(split, samples=own, marks=marks[chosen]))
    return parts[0], parts[1]


def fold_of_masks(train: MaskSplit, val: MaskSplit, number: int, count: int) -> tuple[MaskSplit, MaskSplit]:
    """As `fold_of`, of images with masks."""
    samples = [*train.samples, *val.samples]
    held = _held_back([one.name for one in samples], number, count)
    chosen = [[one for n, one in enumerate(samples) if (n in held) is wanted] for wanted in (False, True)]
    learnt, scored = ([replace(one, image_id=row) for row, one in enumerate(ones)] for ones in chosen)
    return replace(train, samples=learnt), replace(val, samples=scored)


def _held_back(names: Sequence[str], number: int, count: int) -> set[int]:
    """Places of the names that fold `number` of `count` holds back."""
    order = sorted(range(len(names)), key=lambda n: hashlib.sha256(names[n].encode()).digest())
    return {n for place, n in enumerate(order) if place % count == number}


def _renumbered(marks: Marks, ids: dict[int, int]) -> Marks:
    found = marks.copy()
    found["image_id"] = [ids[int(number)] for number in marks["image_id"]]
    return found
