"""The cell of `necks/fpn.py`: a feature pyramid over any number of levels, plus one extra level, every second pixel of the last.

In Vega's ParallelFPN outputs that read one level share its 3x3 convolution too, and so are one map; here each output has its own.
"""

from mindspore import Tensor, nn

from spnas_core.arch import Level
from spnas_core.models import primitives as p
from spnas_core.models.backbone import upsample
from spnas_core.models.convolution import BiasedConv3x3


class Pyramid(nn.Cell):
    """Stage outputs (B, C_l, H_l, W_l) to L + 1 maps (B, channels, H_t, W_t), t = `taps[l]` the merged level that output l reads."""

    def __init__(self, levels: tuple[Level, ...], channels: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.taps = taps
        self.first = min(taps)  # levels below it are not merged
        inner = [nn.Conv2d(level.channels, channels, 1, has_bias=True, weight_init="xavier_uniform") for level in levels[self.first :]]
        self.inner = nn.CellList([*(nn.Identity() for _ in range(self.first)), *inner])
        self.layer = nn.CellList([BiasedConv3x3(channels, channels, "xavier_uniform") for _ in levels])

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Merge top-down; the extra pooled level comes last."""
        merged: tuple[Tensor, ...] = (self.inner[-1](maps[-1]),)
        for level in range(len(maps) - 2, self.first - 1, -1):
            height, width = maps[level].shape[2:]
            merged = (self.inner[level](maps[level]) + upsample(merged[0], height, width), *merged)
        outputs: tuple[Tensor, ...] = ()
        for level in range(len(self.taps)):
            outputs = (*outputs, self.layer[level](merged[self.taps[level] - self.first]))
        last = outputs[-1]
        return (*outputs, p.slice_strided(last, (0, 0, 0, 0), last.shape, (1, 1, 2, 2)))
