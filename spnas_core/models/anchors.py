"""Anchors: where they stand, and how large they are; of the network input, px.

Source: torchvision `models/detection/anchor_utils.py`, number for number.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spnas_core import arch as architecture
from spnas_core import cost
from spnas_core.arch import Arch
from spnas_core.settings.detector import Detector


class Grid(NamedTuple):
    """For every level that has anchors, the pooled one last: its size (H, W) in cells, its stride, and the side of its square anchor."""

    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    sides: tuple[float, ...]


def anchor_grid(arch: Arch, settings: Detector) -> Grid:
    """Levels of a detector: one per output of the pyramid, and the pooled one."""
    own = [level.stride for level in architecture.levels(arch, settings.base_width)]
    strides = [own[tap] for tap in architecture.tapped(arch, settings.taps)]
    sizes = cost.pyramid_sizes(arch, settings.image_size, settings.taps)
    sides = tuple(settings.anchor_scale * stride for stride in (*own, 2 * own[-1]))  # whichever level an output reads
    return Grid((*sizes, cost.half(sizes[-1])), (*strides, 2 * strides[-1]), sides)


def steps(grid: Grid) -> list[tuple[int, int]]:
    """Distance of neighbouring anchors, down and right, of each level.

    The last level, the pooled one, stands where torchvision has it: its cells share what the level before covers, so that of 25 rows of
    32 px it makes 13 rows of 61 px.
    """
    found = [(stride, stride) for stride in grid.strides]
    if len(found) > 1:
        before, last = grid.sizes[-2], grid.sizes[-1]
        found[-1] = (before[0] * grid.strides[-2] // last[0], before[1] * grid.strides[-2] // last[1])
    return found


def anchor_shapes(side: float, ratios: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Anchors (R, 4) around 0 of one level, for ratios of height to width; the area is that of a square of `side`."""
    ratio = np.sqrt(np.asarray(ratios, np.float32))
    w, h = side / ratio, side * ratio
    return np.asarray((np.stack((-w, -h, w, h), 1) / 2).round(), np.float32)


def place_anchors(grid: Grid, ratios: tuple[float, ...]) -> list[npt.NDArray[np.float32]]:
    """Anchors (H*W*R, 4) of each level, order (y, x, ratio)."""
    found = []
    for (height, width), (down, right), side in zip(grid.sizes, steps(grid), grid.sides, strict=True):
        y, x = np.meshgrid(np.arange(height) * down, np.arange(width) * right, indexing="ij")
        centres = np.stack((x, y, x, y), -1).reshape(-1, 1, 4)
        found.append((centres + anchor_shapes(side, ratios)).reshape(-1, 4).astype(np.float32))
    return found
