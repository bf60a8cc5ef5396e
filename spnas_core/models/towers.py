"""Towers of one-stage heads: 3x3 convolutions with the same weights on every level, each followed by a norm, or none, and ReLU.

The norm is one for all levels, of groups, or each level has a batch norm of its own: its maps have other statistics than those of others.

Shape shorthand: B images, C channels, H and W rows and columns of one level, G groups.
Sources: torchvision `models/detection/retinanet.py` and `fcos.py`; Wu and He, "Group Normalization", ECCV 2018; mmdetection
`models/dense_heads/retina_sepbn_head.py`.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Constant, Normal

from spnas_core.models import primitives as p
from spnas_core.models.blocks import LEAST_EPSILON, Norm
from spnas_core.models.convolution import BiasedConv3x3, PlainConv3x3

PRIOR_SCORE = -math.log((1 - 0.01) / 0.01)  # before the sigmoid: every class at every place begins with a probability of 0.01
NORM_EPSILON = 1e-5


class GroupNorm(nn.Cell):
    """Normalise (B, C, H, W) by mean and variance of each image's G groups of channels, then scale and shift each channel.

    The normalisation is one `LayerNorm` over rows of a group's elements, and scaling and shifting one `BatchNorm` of mean 0 and variance 1,
    which has an operator for its gradients.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.gamma = Parameter(ops.ones((channels,), ms.float32), name="gamma")
        self.beta = Parameter(ops.zeros((channels,), ms.float32), name="beta")
        self.normalise = ops.LayerNorm(1, 1, NORM_EPSILON)
        self.scale = ops.BatchNorm(is_training=False, epsilon=LEAST_EPSILON)

    def construct(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        batch, channels, height, width = x.shape
        count = channels // self.groups * height * width
        rows = p.reshape(x, (batch * self.groups, count))
        y = p.reshape(self.normalise(rows, _constants(count, 1), _constants(count, 0))[0], x.shape)
        return self.scale(y, self.gamma, self.beta, _constants(channels, 0), _constants(channels, 1))[0]


@ops.constexpr  # type: ignore[untyped-decorator]
def _constants(count: int, value: int) -> Tensor:
    """`count` times `value`."""
    return Tensor(np.full(count, value, np.float32))


class TowerLayer(nn.Cell):
    """One convolution, its norm, if `groups` are not 0, and ReLU."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv = BiasedConv3x3(channels, channels, Normal(0.01), "zeros")
        self.norm = GroupNorm(channels, groups) if groups else None

    def construct(self, x: Tensor, level: int) -> Tensor:
        """Map (B, C, H, W) to the same shape, of every level alike."""
        y = self.conv(x)
        if self.norm is not None:
            y = self.norm(y)
        return p.relu(y)


class LevelLayer(nn.Cell):
    """One convolution, the norm of the level, always trained, and ReLU."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.conv = PlainConv3x3(channels, channels, Normal(0.01))
        self.norms = nn.CellList([Norm(channels, NORM_EPSILON, frozen=False) for _ in range(levels)])

    def construct(self, x: Tensor, level: int) -> Tensor:
        """Map (B, C, H, W) of the level with this number to the same shape."""
        return p.relu(self.norms[level](self.conv(x)))


class Tower(nn.SequentialCell):
    """Layers one after the other."""

    def construct(self, x: Tensor, level: int) -> Tensor:
        """Map (B, C, H, W) of the level with this number to the same shape."""
        for layer in self.cell_list:
            x = layer(x, level)
        return x


def tower(channels: int, depth: int, groups: int, levels: int) -> Tower:
    """Tower of `depth` layers on maps of `channels`: with a norm of each of so many levels, or of `groups`; without norms if both are 0."""
    return Tower([LevelLayer(channels, levels) if levels else TowerLayer(channels, groups) for _ in range(depth)])


def prediction(channels: int, outputs: int, first: float = 0.0) -> BiasedConv3x3:
    """Last convolution of a tower, to `outputs` numbers at each place, which are about `first` before the training."""
    return BiasedConv3x3(channels, outputs, Normal(0.01), Constant(first))
