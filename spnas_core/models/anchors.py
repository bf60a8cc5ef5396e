"""Anchors: their places and sizes, in px of the network input.

Source: torchvision `models/detection/anchor_utils.py`, number for number.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spnas_core.arch import Arch
from spnas_core.settings.detector import Detector


class Grid(NamedTuple):
    """Levels with anchors: size (H, W) in cells, stride, and side of the square anchor, px, of each.

    The last `extra` levels have only anchors: no region is pooled from them.
    """

    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    sides: tuple[float, ...]
    extra: int = 1

    def regions(self) -> "Grid":
        """Grid of the levels that regions are pooled from."""
        count = len(self.sizes) - self.extra
        return Grid(self.sizes[:count], self.strides[:count], self.sides[:count], 0)


def anchor_grid(arch: Arch, settings: Detector) -> Grid:
    """Grid of a detector's levels, the outputs of its neck."""
    sizes, strides, scales, extra = zip(*settings.neck.outputs(arch, settings.image_size), strict=True)
    return Grid(sizes, strides, tuple(settings.head.anchor_scale * scale for scale in scales), sum(extra))


def steps(grid: Grid) -> list[tuple[int, int]]:
    """Distance between neighbouring anchors of each level, vertical and horizontal, px.

    Extra levels are placed as in torchvision: their cells divide the area of the last other level, so 25 rows of 32 px become 13 rows of
    61 px.
    """
    found = [(stride, stride) for stride in grid.strides]
    first = max(1, len(found) - grid.extra)
    (rows, columns), stride = grid.sizes[first - 1], grid.strides[first - 1]
    for level in range(first, len(found)):
        own = grid.sizes[level]
        found[level] = (rows * stride // own[0], columns * stride // own[1])
    return found


def anchor_sides(side: float, octave: int) -> tuple[float, ...]:
    """Sides, px, of the square anchors of one level, `octave` of them from `side` to below its double; all but the first are whole."""
    return (side, *(float(int(side * 2 ** (n / octave))) for n in range(1, octave)))


def anchor_shapes(side: float, ratios: tuple[float, ...], octave: int = 1) -> npt.NDArray[np.float32]:
    """Anchors (R * octave, 4) of one level, centred at 0, by ratios of height to width, then sizes; the area is that of a square."""
    ratio = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    sides = np.asarray(anchor_sides(side, octave), np.float32)
    w, h = (sides / ratio).ravel(), (sides * ratio).ravel()
    return np.asarray((np.stack((-w, -h, w, h), 1) / 2).round(), np.float32)


def place_anchors(grid: Grid, ratios: tuple[float, ...], octave: int = 1) -> list[npt.NDArray[np.float32]]:
    """Anchors (H*W*R*octave, 4) of each level, order (y, x, ratio, size)."""
    found = []
    for (height, width), (down, right), side in zip(grid.sizes, steps(grid), grid.sides, strict=True):
        y, x = np.meshgrid(np.arange(height) * down, np.arange(width) * right, indexing="ij")
        centres = np.stack((x, y, x, y), -1).reshape(-1, 1, 4)
        found.append((centres + anchor_shapes(side, ratios, octave)).reshape(-1, 4).astype(np.float32))
    return found
