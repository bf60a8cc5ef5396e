"""The cell of `necks/nas_fcos.py`: two-input cells over C2 to C5.

Shape shorthand: B images, C channels of the neck, H_l and W_l rows and columns of level l.
"""

import math
from collections import OrderedDict

import mindspore as ms
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import HeUniform, Uniform, initializer

from spnas_core.arch import Arch, levels
from spnas_core.cost import Size, stage_sizes
from spnas_core.models import primitives as p
from spnas_core.models.blocks import Conv, Norm, Shortcut
from spnas_core.models.resize import BilinearResize
from spnas_core.necks.cells import EPSILON, LEVELS, level_size
from spnas_core.necks.nas_fcos import ENDS, OPERATIONS, STAGE_INPUTS, Branch, Fusion, NasFcos, fusion_ends, fusion_levels

SLOPE = math.sqrt(5)  # of HeUniform: PyTorch's default, as in the authors' program


class FusionInput(nn.Cell):
    """Input of a cell: its operation, the larger size, under a concatenation norm and ReLU, and a factor of each channel.

    The factors of a concatenation are the weights of its 1x1 convolution, whose groups have one channel of each input.
    """

    def __init__(self, channels: int, operation: str, concatenates: bool, source: Size, target: Size) -> None:
        super().__init__()
        kernel = OPERATIONS[operation]
        self.convolves, self.concatenates = kernel is not None, concatenates
        if kernel is not None:
            self.depth = Conv(channels, channels, kernel.kernel, groups=channels, dilation=kernel.dilation)
            self.conv = Conv(channels, channels, 1)
            self.bn = Norm(channels, EPSILON, frozen=False)
        if concatenates:
            self.norm = Norm(channels, EPSILON, frozen=False)
        self.resize = BilinearResize(source, target)
        start = Uniform(math.sqrt(0.5)) if concatenates else "ones"  # PyTorch's default for two weights
        self.factor = Parameter(initializer(start, (channels,), ms.float32), name="factor")

    def construct(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, H, W)."""
        if self.convolves:
            x = p.relu(self.bn(self.conv.plain(self.depth.plain(x))))
        x = self.resize(x)
        if self.concatenates:
            x = p.relu(self.norm(x))
        return x * p.cast(p.reshape(self.factor, (1, -1, 1, 1)), x.dtype)


class FusionCell(nn.Cell):
    """Two-input cell, `sizes` those of its inputs."""

    def __init__(self, channels: int, cell: Fusion, sizes: tuple[Size, Size]) -> None:
        super().__init__()
        target = max(sizes)

        def branch(one: Branch, size: Size) -> FusionInput:
            return FusionInput(channels, one.operation, cell.concatenates, size, target)

        self.first, self.second = branch(cell.first, sizes[0]), branch(cell.second, sizes[1])

    def construct(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        """Map (B, C, h, w) of each input to (B, C, H, W)."""
        return self.first(pair[0]) + self.second(pair[1])


class FusionEnd(nn.Cell):
    """Output: a map with other ones added, brought to the size of its level; `sizes` are those of all of them."""

    def __init__(self, sizes: list[Size], target: Size) -> None:
        super().__init__()
        self.added = nn.CellList([BilinearResize(size, sizes[0]) for size in sizes])
        self.resize = BilinearResize(sizes[0], target)

    def construct(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Map (B, C, h, w) of each to (B, C, H_l, W_l)."""
        x = maps[0]
        for number in range(1, len(maps)):
            x = x + self.added[number](maps[number])
        return self.resize(x)


class FusionPyramid(nn.Cell):
    """Stage outputs (B, C_s, H_s, W_s), the first of stride 4, to the five maps (B, C, H_l, W_l) of P3 to P7; `size`: of the input, px."""

    def __init__(self, arch: Arch, settings: NasFcos, base_width: int, size: Size) -> None:
        super().__init__()
        channels, cells, read = settings.channels, settings.graph, settings.adapts(arch)
        stages, sizes = stage_sizes(arch, size), [level_size(level, size) for level in fusion_levels(cells)]
        self.is_read = tuple(stage in read for stage in range(len(stages)))
        self.adapt = nn.CellList(
            [
                Shortcut(level.channels, channels, 1, EPSILON, frozen=False) if stage in read else nn.Identity()
                for stage, level in enumerate(levels(arch, base_width))
            ]
        )
        self.beyond = nn.CellList([BilinearResize(stage, sizes[STAGE_INPUTS - 1]) for stage in stages])
        self.pool = nn.MaxPool2d(2, 2, pad_mode="same")
        self.reads = tuple((cell.first.node, cell.second.node) for cell in cells)
        pairs = zip(cells, self.reads, strict=True)
        self.fusions = nn.CellList(
            [
                nn.SequentialCell(OrderedDict([(cell.text, FusionCell(channels, cell, (sizes[first], sizes[second])))]))
                for cell, (first, second) in pairs
            ]
        )
        self.last, self.joined = fusion_ends(cells)
        self.ends = nn.CellList(
            [
                FusionEnd([sizes[node], *(sizes[other] for other in self.joined)], level_size(level, size))
                for node, level in zip(self.last, LEVELS[:ENDS], strict=True)
            ]
        )
        how = {"pad_mode": "pad", "padding": 1, "has_bias": True, "bias_init": "zeros"}
        self.above = nn.CellList([nn.Conv2d(channels, channels, 3, 2, weight_init=HeUniform(1.0), **how) for _ in LEVELS[ENDS:]])
        for parameter in (*self.adapt.get_parameters(), *self.fusions.get_parameters()):
            if parameter.name.endswith("weight"):
                parameter.set_data(initializer(HeUniform(SLOPE), parameter.shape, parameter.dtype))

    def inputs(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map the stages' outputs to C2 to C5; one that no cell reads stays a stage's output."""
        nodes: tuple[Tensor, ...] = ()
        for stage in range(min(len(self.is_read), STAGE_INPUTS)):
            nodes = (*nodes, p.relu(self.adapt[stage](maps[stage])) if self.is_read[stage] else maps[stage])
        for stage in range(STAGE_INPUTS, len(self.is_read)):
            nodes = (*nodes[:-1], nodes[-1] + self.beyond[stage](p.relu(self.adapt[stage](maps[stage]))))
        for _ in range(len(self.is_read), STAGE_INPUTS):
            nodes = (*nodes, self.pool(nodes[-1]))
        return nodes

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map the stages' outputs to P3 to P7."""
        nodes = self.inputs(maps)
        for place in range(len(self.reads)):
            first, second = self.reads[place]
            nodes = (*nodes, self.fusions[place]((nodes[first], nodes[second])))
        joined: tuple[Tensor, ...] = ()
        for node in self.joined:
            joined = (*joined, nodes[node])
        outputs: tuple[Tensor, ...] = ()
        for number in range(len(self.last)):
            outputs = (*outputs, self.ends[number]((nodes[self.last[number]], *joined)))
        above = self.above[0](outputs[-1])
        return (*outputs, above, self.above[1](p.relu(above)))
