"""The cell of `necks/fpn.py`: a feature pyramid over any number of levels, plus extra levels: one of every second pixel, or convolutions.

In Vega's ParallelFPN outputs that read one level share its 3x3 convolution too, and so are one map; here each output has its own.
"""

from mindspore import Tensor, nn

from spnas_core.arch import Level
from spnas_core.models import primitives as p
from spnas_core.models.backbone import upsample
from spnas_core.models.convolution import BiasedConv3x3


class Pyramid(nn.Cell):
    """Stage outputs (B, C_l, H_l, W_l) to maps (B, channels, H_t, W_t), t = `taps[l]` the merged level that output l reads, and extra ones.

    The outputs are those of the last stages, as many as `taps`. `above`: what the extra levels are, as `Fpn.extra_levels` says;
    `extra`: input channels of their convolutions.
    """

    def __init__(
        self, levels: tuple[Level, ...], channels: int, taps: tuple[int, ...], extra: tuple[int, ...] = (), above: str = "pool"
    ) -> None:
        super().__init__()
        self.taps = taps
        self.above = above
        self.lowest = len(levels) - len(taps)  # stages below it have no output
        self.first = min(taps)  # levels below it are not merged
        inner = [nn.Conv2d(level.channels, channels, 1, has_bias=True, weight_init="xavier_uniform") for level in levels[self.first :]]
        self.inner = nn.CellList([*(nn.Identity() for _ in range(self.first)), *inner])
        layer = [BiasedConv3x3(channels, channels, "xavier_uniform") for _ in taps]
        self.layer = nn.CellList([*(nn.Identity() for _ in range(self.lowest)), *layer])
        if extra:
            how = {"pad_mode": "pad", "padding": 1, "has_bias": True, "weight_init": "xavier_uniform", "bias_init": "zeros"}
            self.extra = nn.CellList([nn.Conv2d(inputs, channels, 3, 2, **how) for inputs in extra])

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Merge top-down; the extra levels come last."""
        merged: tuple[Tensor, ...] = (self.inner[-1](maps[-1]),)
        for level in range(len(maps) - 2, self.first - 1, -1):
            height, width = maps[level].shape[2:]
            merged = (self.inner[level](maps[level]) + upsample(merged[0], height, width), *merged)
        outputs: tuple[Tensor, ...] = ()
        for level in range(len(self.taps)):
            outputs = (*outputs, self.layer[self.lowest + level](merged[self.taps[level] - self.first]))
        last = outputs[-1]
        if self.above == "pool":
            return (*outputs, p.slice_strided(last, (0, 0, 0, 0), last.shape, (1, 1, 2, 2)))
        if self.above == "none":
            return outputs
        above = self.extra[0](maps[-1] if self.above == "c5" else last)
        return (*outputs, above, self.extra[1](p.relu(above)))
