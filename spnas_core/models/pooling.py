"""RoIAlign by one gather over all levels: each bin is a weighted mean of sixteen cells of the level that fits its region.

Shape shorthand: B images, R regions per image, C channels, L levels, N cells of all levels and images, S bins per side (7), T taps per
bin and side (4: two sample points between two cells each), H and W rows and columns.
Sources: He et al., ICCV 2017; torchvision `ops/poolers.py` and `ops/roi_align` (not aligned, 2 x 2 points per bin), number for number.
"""

from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
from mindspore import Tensor, nn, ops

from spnas_core.cost import POOLED
from spnas_core.models import boxes as box_ops
from spnas_core.models import primitives as p

SAMPLES = 2
TAPS = 2 * SAMPLES
PART_BYTES = 1 << 30  # about the largest intermediate tensor
CACHE_BYTES, CACHE_PARTS = 1 << 24, 64  # in inference, parts whose cells stay in the processor's cache, but not too many of them


class RegionPooling(nn.Cell):
    """Pooled features of regions of a pyramid whose levels have these `sizes` (H, W) and `strides`, px; only the maps get gradients.

    A region is pooled from the last level whose least size it reaches (size: the square root of its area). That is 7/4 of the side of the
    level's square anchors, `sides`, px: 224 px for anchors of 128 px.
    """

    def __init__(self, sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], sides: tuple[float, ...]) -> None:
        super().__init__()
        self.count = len(sizes)
        self.taps = _Corners(sizes, strides, sides)
        self.product = ops.BatchMatMul()

    def construct(self, maps: tuple[Tensor, ...], regions: Tensor) -> Tensor:
        """Pool regions (B, R, 4) of the first L of the maps (B, C, H_l, W_l): (B * R, C * S * S)."""
        count, channels = regions.shape[0] * regions.shape[1], maps[0].shape[1]
        flat = self.flatten(maps)
        index, weights = self.taps(regions)
        size = part_size(count, channels, self.training)
        pooled = self.pool_parts(flat, index, weights, size) if size < count else self.pool(flat, index, weights)
        return p.reshape(p.transpose(pooled, (0, 2, 1)), (count, -1))

    def flatten(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Cells (N, C) of the levels, in the order image, level, row, column."""
        flat: tuple[Tensor, ...] = ()
        for level in range(self.count):
            x = maps[level]
            flat = (*flat, p.reshape(p.transpose(x, (0, 2, 3, 1)), (x.shape[0], -1, x.shape[1])))
        return p.reshape(ops.Concat(1)(flat), (-1, maps[0].shape[1]))

    def pool(self, flat: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """Weighted means (n, S * S, C) of the rows `index` (n, S * S * T * T) of the cells (N, C)."""
        cells = p.reshape(p.gather(flat, p.reshape(index, (-1,)), 0), (-1, TAPS * TAPS, flat.shape[1]))
        means = self.product(p.reshape(weights, (-1, 1, TAPS * TAPS)), cells)
        return p.reshape(means, (-1, POOLED * POOLED, flat.shape[1]))

    def pool_parts(self, flat: Tensor, index: Tensor, weights: Tensor, size: int) -> Tensor:
        """As `pool`, for `size` regions after each other, so that only the cells of one part are in memory (or in the cache)."""
        pooled: tuple[Tensor, ...] = ()
        for first, last in p.row_slices(index.shape, size):
            part = p.slice_strided(index, first, last, (1, 1))
            if pooled:
                part = ops.depend(part, pooled[-1])
            pooled = (*pooled, self.pool(flat, part, p.slice_strided(weights, first, last, (1, 1))))
        return ops.Concat(0)(pooled)


class _Corners(nn.Cell):
    """The cells that each bin averages, and their weights."""

    def __init__(self, sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], sides: tuple[float, ...]) -> None:
        super().__init__()
        cells = np.cumsum([0, *(height * width for height, width in sizes)])
        self.bounds = Tensor(least_sizes(sides))
        self.strides = Tensor(np.array(strides, np.float32))
        self.lengths = Tensor(np.array(sizes, np.float32))
        self.starts = Tensor(np.array([(start, width) for start, (_, width) in zip(cells[:-1], sizes, strict=True)], np.int32))
        self.image_cells = int(cells[-1])
        self.offsets = Tensor(((np.arange(POOLED * SAMPLES) + 0.5) / SAMPLES / POOLED).astype(np.float32))

    def construct(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Row numbers in `RegionPooling.flatten`, and weights, of the cells that each bin averages: both (B * R, S * S * T * T)."""
        batch, count = regions.shape[:2]
        x1, y1, x2, y2 = box_ops.split(regions)
        side = p.sqrt(p.relu((x2 - x1) * (y2 - y1)))
        level = p.cast(p.total(p.cast(p.expand_dims(side, -1) >= self.bounds, ms.float32), -1), ms.int32)
        stride = p.gather(self.strides, level, 0)
        height, width = p.unstack_last(p.gather(self.lengths, level, 0))
        start, row_length = p.unstack_last(p.gather(self.starts, level, 0))
        start = start + Tensor(np.arange(batch).reshape(-1, 1) * self.image_cells, ms.int32)
        rows, down = self.line(y1 / stride, (y2 - y1) / stride, height)
        columns, across = self.line(x1 / stride, (x2 - x1) / stride, width)
        rows = rows * p.reshape(row_length, (batch, count, 1, 1)) + p.reshape(start, (batch, count, 1, 1))
        upright, flat, shape = (batch, count, POOLED, 1, TAPS, 1), (batch, count, 1, POOLED, 1, TAPS), (batch * count, -1)
        index = p.reshape(rows, upright) + p.reshape(columns, flat)
        return p.reshape(index, shape), p.reshape(p.reshape(down, upright) * p.reshape(across, flat), shape)

    def line(self, low: Tensor, size: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (int32) and weights, both (B, R, S, T), that average the bins of [low, low + size] on a line of `length` cells, all (B, R).

        Points between two cells share their weight linearly; points beyond one cell outside of the line weigh nothing.
        """
        length = p.expand_dims(length, -1)
        points = p.expand_dims(low, -1) + p.expand_dims(p.maximum(size, 1.0), -1) * self.offsets
        inside = p.cast(p.both(points >= -1.0, points <= length), ms.float32) * (1 / SAMPLES)
        points = p.minimum(p.relu(points), length - 1.0)
        before = p.floor(points)
        share = (points - before) * inside
        cells = p.stack_last((before, p.minimum(before + 1.0, length - 1.0)))
        shape = (*low.shape, POOLED, TAPS)
        return p.cast(p.reshape(cells, shape), ms.int32), p.reshape(p.stack_last((inside - share, share)), shape)

    def bprop(self, regions: Tensor, out: Any, dout: Any) -> Any:
        """Count the outputs as constants."""
        return p.constant(regions)


def least_sizes(sides: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Least size of a region of levels 2 to L (L - 1,), px, for the sides of the levels' square anchors; infinity where L is 1."""
    return np.array([1.75 * 2.0**-1e-6 * side for side in sides[1:]] or [np.inf], np.float32)


def part_size(count: int, channels: int, training: bool) -> int:
    """Regions of one part, of `count`; in training fewer and larger parts, since each makes a gradient of all cells."""
    size = 4 * count * (POOLED * TAPS) ** 2 * channels
    parts = -(-size // PART_BYTES)
    if not training:
        parts = max(parts, min(-(-size // CACHE_BYTES), CACHE_PARTS))
    return -(-count // parts)
