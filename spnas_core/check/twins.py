"""Search for thumbnails that correlate: of many thousands, each with all others, in seconds and without a table of all pairs.

Most pairs are told apart by 32 numbers each instead of 256: the thumbnail along the 31 axes that hold most of the variance, and the
length of what is left of it. Their product is never below the correlation: a.b = Pa.Pb + Ra.Rb <= Pa.Pb + |Ra| |Rb| (Cauchy, Schwarz).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from spnas_core.data.images import Floats

SIMILAR = 0.98  # correlation
FLAT = 2.0  # standard deviation of grey levels, of 255, under which there is nothing to compare
ROWS = 2048  # of a block of the table of correlations
_AXES = 31
_ROUNDING = 1e-4  # of float32 products, with a wide margin
_CANCELLED = 1e-6  # by which the square of the rest may come out too small, as the difference of two sums near 1 in float32


def unit_thumbnails(grey: Floats) -> Floats:
    """Thumbnails (n, 256) of mean 0 and length 1; those of flat pictures are zero."""
    grey = grey - grey.mean(axis=1, keepdims=True)
    flat = grey.std(axis=1) < FLAT
    grey /= np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), 1e-6)
    grey[flat] = 0
    return grey


def similar_rows(first: Floats, second: Floats, apart: bool) -> npt.NDArray[np.int64]:
    """Indexes of the rows of `second` that a row of `first` is similar to; only one before it, where they are one split."""
    if max(len(first), len(second)) <= ROWS:  # one table of all pairs: nothing to save
        every = np.arange(len(second)), np.arange(len(first))
        return np.flatnonzero(_above(second, first, *every, apart, SIMILAR))
    found = np.zeros(len(second), bool)
    axes = _main_axes(second)
    known = _bounds(first, axes)
    asked = _bounds(second, axes) if apart else known
    for start in range(0, len(second), ROWS):
        rows = np.arange(start, min(start + ROWS, len(second)))
        end = len(first) if apart else start + len(rows)
        for left in reversed(range(0, end, ROWS)):  # the neighbours first: frames of a video are alike
            columns = np.arange(left, min(left + ROWS, end))
            near = _above(asked[rows], known[left:end][:ROWS], rows, columns, apart, SIMILAR - _ROUNDING)
            found[rows[near]] = _above(second[rows[near]], first[left:end][:ROWS], rows[near], columns, apart, SIMILAR)
            rows = rows[~found[rows]]
            if not len(rows):
                break
    return np.flatnonzero(found)


def similar_pairs(grey: Floats) -> Iterator[tuple[int, int]]:
    """Yield all pairs of rows of thumbnails (n, 256) that are similar, the earlier first."""
    near = similar_rows(grey, grey, False)
    for start in range(0, len(near), ROWS):
        rows = near[start : start + ROWS]
        table = grey[rows] @ grey[: rows[-1]].T
        table[np.arange(table.shape[1]) >= rows[:, None]] = -1
        yield from ((int(column), int(rows[row])) for row, column in zip(*np.nonzero(table >= SIMILAR), strict=True))


def _above(
    one: Floats, other: Floats, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], apart: bool, least: float
) -> npt.NDArray[np.bool_]:
    """Which rows of `one` have a product of at least `least` with a row of `other`; their numbers are `rows` and `columns`."""
    table = one @ other.T
    if not apart and len(rows) and columns[-1] >= rows[0]:
        table[columns >= rows[:, None]] = -1
    return np.asarray(table.max(axis=1, initial=-1) >= least)


def nearest_row(first: Floats, row: Floats) -> tuple[int, float]:
    """Row of `first` (n, 256) that is the most similar to `row` (256,), and their correlation."""
    values = first @ row
    best = int(values.argmax())
    return best, float(values[best])


def _main_axes(grey: Floats) -> Floats:
    """Axes (256, 31) that hold the most of the variance of thumbnails (n, 256)."""
    return np.asarray(np.linalg.eigh(grey.T @ grey)[1][:, -_AXES:], np.float32)


def _bounds(grey: Floats, axes: Floats) -> Floats:
    """Thumbnails (n, 256) along the axes, and the length of the rest, or a little more: (n, 32)."""
    along = grey @ axes
    rest = np.sqrt(np.maximum((grey**2).sum(axis=1) - (along**2).sum(axis=1), 0) + _CANCELLED)
    return np.concatenate([along, rest[:, None]], axis=1, dtype=np.float32)
