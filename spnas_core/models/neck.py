"""Feature pyramid network over any number of levels, plus one extra level, every second pixel of the last.

Source: Lin et al., CVPR 2017; torchvision `ops/feature_pyramid_network.py` with `LastLevelMaxPool`.
"""

from mindspore import Tensor, nn

from spnas_core.arch import Level
from spnas_core.models import primitives as p
from spnas_core.models.backbone import upsample


class Pyramid(nn.Cell):
    """Stage outputs (B, C_l, H_l, W_l) to L + 1 maps (B, channels, H_l, W_l)."""

    def __init__(self, levels: tuple[Level, ...], channels: int) -> None:
        super().__init__()
        self.inner = nn.CellList([nn.Conv2d(level.channels, channels, 1, has_bias=True, weight_init="xavier_uniform") for level in levels])
        self.layer = nn.CellList(
            [nn.Conv2d(channels, channels, 3, pad_mode="pad", padding=1, has_bias=True, weight_init="xavier_uniform") for _ in levels]
        )

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Merge top-down; the extra pooled level comes last."""
        top = self.inner[-1](maps[-1])
        outputs: tuple[Tensor, ...] = (self.layer[-1](top),)
        for level in range(len(maps) - 2, -1, -1):
            height, width = maps[level].shape[2:]
            top = self.inner[level](maps[level]) + upsample(top, height, width)
            outputs = (self.layer[level](top), *outputs)
        last = outputs[-1]
        return (*outputs, p.slice_strided(last, (0, 0, 0, 0), last.shape, (1, 1, 2, 2)))
