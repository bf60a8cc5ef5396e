"""Bilinear resizing as two matrix products, for any sizes: one graph on all devices, and a gradient that costs no more.

Source: pixel centres at half pixels, as `torch.nn.functional.interpolate` with ``align_corners=False``.
"""

import numpy as np
from mindspore import Tensor, nn, ops

from spnas_core.cost import Size
from spnas_core.data.images import Floats
from spnas_core.models import primitives as p


def line_weights(source: int, target: int) -> Floats:
    """Weights (target, source) by which each of `target` cells on a line is a mean of two neighbours among `source` cells."""
    places = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    before = np.minimum(np.floor(places).astype(int), source - 1)
    share, rows = places - before, np.arange(target)
    found = np.zeros((target, source))
    np.add.at(found, (rows, before), 1 - share)
    np.add.at(found, (rows, np.minimum(before + 1, source - 1)), share)
    return found.astype(np.float32)


class BilinearResize(nn.Cell):
    """Resize maps (B, C, h, w) to (B, C, H, W), in their precision."""

    def __init__(self, source: Size, target: Size) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.rows = Tensor(line_weights(source[0], target[0]))
        self.columns = Tensor(line_weights(source[1], target[1]))
        self.across = ops.MatMul(transpose_b=True)
        self.down = ops.BatchMatMul()

    def construct(self, x: Tensor) -> Tensor:
        """Resize along the rows, then along the columns."""
        batch, channels, height, width = x.shape
        if self.source == self.target:
            return x
        x = self.across(p.reshape(x, (batch * channels * height, width)), p.cast(self.columns, x.dtype))
        x = p.reshape(x, (batch * channels, height, self.target[1]))
        rows = ops.BroadcastTo((batch * channels, self.target[0], height))(p.cast(self.rows, x.dtype))
        return p.reshape(self.down(rows, x), (batch, channels, *self.target))
