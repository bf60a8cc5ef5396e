"""RoIAlign as matrix products: each region is a small set of rows and columns of the level that fits it.

Shape shorthand: B images, R regions per image, S bins per side (7), T = 2S sample points per side, C channels, H and W rows and columns.
Sources: He et al., ICCV 2017; torchvision `ops/poolers.py` and `ops/roi_align` (not aligned, 2 x 2 points per bin), number for number.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from spnas_core.models import boxes as box_ops

BINS, SAMPLES = 7, 2
PART_BYTES = 1 << 30  # about the largest intermediate tensor


def sampling(low: Tensor, size: Tensor, length: int, on_level: Tensor) -> Tensor:
    """Matrix (B, R, S, length) that averages a line of `length` px over the bins of the interval [low, low + size], both (B, R) in px.

    Linear interpolation at a point y weighs pixel j with max(0, 1 - |y - j|); points beyond one pixel outside weigh nothing.
    """
    offsets = Tensor(((np.arange(BINS * SAMPLES) + 0.5) / SAMPLES / BINS).astype(np.float32))
    points = low.expand_dims(-1) + size.expand_dims(-1) * offsets
    inside = ops.logical_and(ops.logical_and(points >= -1.0, points <= length), on_level.expand_dims(-1))
    points = ops.minimum(ops.relu(points), length - 1.0)
    pixels = Tensor(np.arange(length, dtype=np.float32))
    weights = ops.relu(1.0 - ops.abs(points.expand_dims(-1) - pixels)) * inside.expand_dims(-1).astype(ms.float32)
    return weights.reshape(*low.shape, BINS, SAMPLES, length).mean(3)


class Resample(nn.Cell):
    """Pooled cells (B, R, S, S, C) of a map (B, H, W, C): products with rows (B, R, S, H), then with columns (B, R, S, W).

    The product with the rows is large, (B, R, S, W, C); so many regions go in parts, one after the other, forward and backward. Only the
    map gets a gradient: regions are constants, and rows and columns with them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.product = ops.BatchMatMul()
        self.transposed = ops.BatchMatMul(transpose_a=True)

    def construct(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Resample one map for all regions."""
        batch, height, width, channels = x.shape
        count, flat = rows.shape[1], x.reshape(batch, height, width * channels)
        size = part_size(x.shape, count)
        pooled: tuple[Tensor, ...] = ()
        for start in range(0, count, size):
            part = rows[:, start : start + size] if size < count else rows
            if start:
                part = ops.depend(part, pooled[-1])
            y = self.product(part.reshape(batch, -1, height), flat).reshape(-1, width, channels)
            part = spread(columns[:, start : start + size] if size < count else columns)
            pooled = (*pooled, self.product(part, y).reshape(batch, -1, BINS, BINS, channels))
        return ops.concat(pooled, 1) if size < count else pooled[0]

    def bprop(self, x: Tensor, rows: Tensor, columns: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of the map from `dout` (B, R, S, S, C)."""
        batch, height, width, channels = x.shape
        count = rows.shape[1]
        size = part_size(x.shape, count)
        gradient: Tensor = 0.0
        for start in range(0, count, size):
            part = dout[:, start : start + size] if size < count else dout
            if start:
                part = ops.depend(part, gradient)
            across = spread(columns[:, start : start + size] if size < count else columns)
            y = self.transposed(across, part.reshape(-1, BINS, channels)).reshape(batch, -1, width * channels)
            down = rows[:, start : start + size] if size < count else rows
            part = self.transposed(down.reshape(batch, -1, height), y)
            gradient = gradient + part
        return gradient.reshape(x.shape), ops.zeros_like(rows), ops.zeros_like(columns)


def part_size(shape: tuple[int, ...], count: int) -> int:
    """Regions of one part, for a map (B, H, W, C)."""
    batch, _, width, channels = shape
    parts = -(-4 * batch * count * BINS * width * channels // PART_BYTES)
    return -(-count // parts)


def spread(columns: Tensor) -> Tensor:
    """Repeat the columns (B, R, S, W) of a region for each of its rows: (B * R * S, S, W)."""
    batch, count, bins, width = columns.shape
    return ops.broadcast_to(columns.expand_dims(2), (batch, count, bins, bins, width)).reshape(-1, bins, width)


def pool_regions(maps: tuple[Tensor, ...], strides: tuple[int, ...], regions: Tensor, canonical: float, resample: Resample) -> Tensor:
    """RoIAlign of regions (B, R, 4) on the level that fits each one's size: (B * R, C * S * S).

    `canonical` is the side in px that belongs to stride 16.
    """
    batch, count = regions.shape[0], regions.shape[1]
    x1, y1, x2, y2 = box_ops.split(regions)
    size = ops.sqrt(ops.relu((x2 - x1) * (y2 - y1)))
    level = ops.floor(4.0 + ops.log2(ops.maximum(size, 1e-6) / canonical) + 1e-6)
    first, last = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
    level = ops.clamp(level, first, last)
    pooled: Tensor = 0.0
    for index in range(len(strides)):
        x, stride = maps[index], strides[index]
        height, width = x.shape[2:]
        here = level == first + index
        rows = sampling(y1 / stride, ops.maximum((y2 - y1) / stride, 1.0), height, here)
        columns = sampling(x1 / stride, ops.maximum((x2 - x1) / stride, 1.0), width, here)
        pooled = pooled + resample(x.transpose(0, 2, 3, 1), rows, columns)
    return pooled.reshape(batch * count, BINS * BINS, -1).transpose(0, 2, 1).reshape(batch * count, -1)
