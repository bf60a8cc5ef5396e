"""Classification data for reignite out of masks: squares of images, each named after the class that fills at least half of it.

Of each class that an image has, the square with the largest share of it is taken, at the largest of a few sides at which one fills half.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from spnas_core.data.crops import MIN_SIDE, Crops, Window
from spnas_core.data.images import Doubles, Pixels
from spnas_core.data.masks.mask_samples import MaskSample, MaskSplit
from spnas_core.errors import UserError

SIDES = (1 / 2, 1 / 4, 1 / 8)  # of a square, in shorter sides of its image
FILLED = 0.5  # least share of its class
LOOKED_AT = 256  # px, longer side at which a mask is looked at
CROPS_OF_IMAGE = 2  # about as many, for forecasts


def open_mask_crops(split: MaskSplit, size: int, threads: int = 4) -> Crops:
    """Squares of all images of a split; UserError where no class fills half of any."""

    def of_image(sample: MaskSample) -> list[tuple[Window, int]]:
        return filled_squares(sample.mask(), len(split.categories))

    with ThreadPoolExecutor(threads, thread_name_prefix="spnas-crops") as pool:
        found = list(pool.map(of_image, split.samples))
    items = tuple((sample.file, window, label) for sample, own in zip(split.samples, found, strict=True) for window, label in own)
    if not items:
        raise UserError(f"split {split.name!r}: expected squares that one class fills, for the classifier, got none")
    return Crops(size, split.class_names, items, split.rules)


def filled_squares(mask: Pixels, classes: int) -> list[tuple[Window, int]]:
    """Window and class of the squares of a mask (h, w), at most one for each class, in the order of the classes."""
    ratio = min(1.0, LOOKED_AT / max(mask.shape))
    small = mask
    if ratio < 1:
        height, width = (max(1, round(ratio * side)) for side in mask.shape)
        small = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    found: dict[int, Window] = {}
    sums = [_integral(small == label) for label in range(classes)]
    for part in SIDES:
        side = max(int(MIN_SIDE), round(part * min(small.shape)))
        rows, columns = (_starts(length, side) for length in small.shape)
        for label in range(classes):
            if label in found or sums[label][-1, -1] < FILLED * side * side:
                continue
            share = _shares(sums[label], rows, columns, side)
            row, column = divmod(int(share.argmax()), share.shape[1])
            if share[row, column] >= FILLED:
                found[label] = _window(columns[int(column)], rows[int(row)], side, small.shape, mask.shape)
    return [(found[label], label) for label in sorted(found)]


def _integral(hit: Pixels) -> Doubles:
    return np.pad(hit.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _starts(length: int, side: int) -> Sequence[int]:
    """First places of squares along a side, half a square apart; the last one ends where the side does."""
    last = max(0, length - side)
    return sorted({*range(0, last + 1, max(1, side // 2)), last})


def _shares(sums: Doubles, rows: Sequence[int], columns: Sequence[int], side: int) -> Doubles:
    """Share of a class in each square (rows, columns), of what lies inside of the image."""
    ends = [np.minimum(np.array(starts) + side, length - 1) for starts, length in zip((rows, columns), sums.shape, strict=True)]
    corners = [sums[np.ix_(ys, xs)] for ys in (ends[0], np.array(rows)) for xs in (ends[1], np.array(columns))]
    areas = np.outer(ends[0] - rows, ends[1] - columns)
    return np.asarray((corners[0] - corners[1] - corners[2] + corners[3]) / areas)


def _window(left: int, top: int, side: int, small: tuple[int, ...], whole: tuple[int, ...]) -> Window:
    down, across = whole[0] / small[0], whole[1] / small[1]
    return across * left, down * top, min(float(whole[1]), across * (left + side)), min(float(whole[0]), down * (top + side))
