"""The cell of `necks/nas_fpn.py`: merging cells over P3 to P7, stacked.

Shape shorthand: B images, C channels of the pyramid, H_l and W_l rows and columns of level l.
"""

from collections import OrderedDict
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeUniform, initializer

from spnas_core.arch import Arch, levels
from spnas_core.models import primitives as p
from spnas_core.models.backbone import upsample
from spnas_core.models.blocks import Norm, Shortcut
from spnas_core.models.convolution import PlainConv3x3
from spnas_core.necks.cells import EPSILON, LEVELS
from spnas_core.necks.nas_fpn import INPUTS, Cell, NasFpn, merges, output_nodes


class CellEnd(nn.Cell):
    """What follows a merger: ReLU, 3x3 convolution, norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = PlainConv3x3(channels, channels)
        self.bn = Norm(channels, EPSILON, frozen=False)

    def construct(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.bn(self.conv(p.relu(x)))


def _named(channels: int, cell: Cell) -> nn.Cell:
    """End of a cell, whose text stands in the names of its tensors."""
    return nn.SequentialCell(OrderedDict([(cell.text, CellEnd(channels))]))


class MergingPyramid(nn.Cell):
    """Stage outputs (B, C_s, H_s, W_s), the first of stride 4, to the five maps (B, C, H_l, W_l) of P3 to P7."""

    def __init__(self, arch: Arch, settings: NasFpn, base_width: int) -> None:
        super().__init__()
        channels, stages, cells = settings.channels, levels(arch, base_width)[1:], settings.graph
        settings.laterals(arch)  # the stages fit
        self.given = len(stages)
        laterals = [Shortcut(level.channels, channels, 1, EPSILON, frozen=False) for level in stages]
        extra = [Shortcut(channels, channels, 1, EPSILON, frozen=False) for _ in LEVELS[self.given :]]
        self.lateral = nn.CellList([nn.Identity(), *laterals])  # numbered as the stages
        self.extra = nn.CellList([*(nn.Identity() for _ in stages), *extra])  # and as the inputs of the cells
        self.stacks = nn.CellList([nn.CellList([_named(channels, cell) for cell in cells]) for _ in range(settings.stacks)])
        self.merges: tuple[tuple[Any, ...], ...] = tuple(map(tuple, merges(cells)))  # plain ones, for the graph compiler
        self.outputs = output_nodes(cells)
        self.pool = nn.MaxPool2d(2, 2, pad_mode="same")
        self.mean = ops.ReduceMean(keep_dims=True)
        for parameter in self.get_parameters():
            if parameter.name.endswith("conv.weight"):  # caffe2's Xavier, as in mmdetection
                parameter.set_data(initializer(HeUniform(1.0), parameter.shape, parameter.dtype))

    def resize(self, x: Tensor, level: int, target: int, inputs: tuple[Tensor, ...]) -> Tensor:
        """Bring a map of one level to the size of another: maxima of 2x2 downwards, nearest neighbours upwards, level by level."""
        for _ in range(level, target):
            x = self.pool(x)
        for finer in range(level - 1, target - 1, -1):
            height, width = inputs[finer - LEVELS[0]].shape[2:]
            x = upsample(x, height, width)
        return x

    def attend(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Add `coarse`, gated by the mean of `fine` over space."""
        gate = p.sigmoid(self.mean(p.cast(fine, ms.float32), (2, 3)))
        return fine + p.cast(gate, fine.dtype) * coarse

    def stack(self, number: int, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run the cells of one stack on P3 to P7."""
        nodes = inputs
        node_levels: tuple[int, ...] = LEVELS
        for place in range(len(self.merges)):
            level, attention, fine, coarse, joined = self.merges[place]
            first = self.resize(nodes[fine], node_levels[fine], level, inputs)
            second = self.resize(nodes[coarse], node_levels[coarse], level, inputs)
            x = self.attend(first, second) if attention else first + second
            for node in joined:
                x = x + nodes[node]
            nodes = (*nodes, self.stacks[number][place](x))
            node_levels = (*node_levels, level)
        found: tuple[Tensor, ...] = ()
        for node in self.outputs:
            found = (*found, nodes[node])
        return found

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map the stages' outputs to P3 to P7."""
        inputs: tuple[Tensor, ...] = ()
        for stage in range(1, self.given + 1):
            inputs = (*inputs, self.lateral[stage](maps[stage]))
        for number in range(self.given, INPUTS):
            inputs = (*inputs, self.pool(self.extra[number](inputs[-1])))
        for number in range(len(self.stacks)):
            inputs = self.stack(number, inputs)
        return inputs
