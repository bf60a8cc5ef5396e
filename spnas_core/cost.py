"""Parameters and multiply-accumulates (MACs), counted from the architecture alone.

Parameters are the trained ones (gamma and beta of a norm, not its statistics). MACs are those of convolutions and linear layers, for
one image; norms, additions, pooling and resizing count nothing. Sizes are (height, width), px; every halving rounds up, as a
convolution or pooling of stride 2 with torchvision's padding does: ``(h + 2p - k) // 2 + 1 == ceil(h / 2)`` for k = 2p + 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from spnas_core.arch import Arch, Block, BlockType, blocks, levels

Size = tuple[int, int]
Stem = Literal["7x7", "3x3"]
POOLED = 7  # side of a region's features, in cells
CASCADE_STAGES = 3


@dataclass(frozen=True)
class Cost:
    """Trained parameters, and multiply-accumulates for one image."""

    params: int = 0
    macs: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.macs + other.macs)


def half(size: Size) -> Size:
    """Size after a layer of stride 2."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def stage_sizes(arch: Arch, size: Size) -> tuple[Size, ...]:
    """Output size of every stage, in cells, for a network input of `size` px."""
    current, found = half(half(size)), []
    for _ in arch.stages:
        found.append(current)
        current = half(current)
    return tuple(found)


def conv_cost(inputs: int, outputs: int, kernel: int, out: Size, norm: bool = True) -> Cost:
    """Convolution with its norm (gamma, beta), or with a bias; `inputs` are those of one group, `out` is its output size in cells."""
    weights = inputs * outputs * kernel * kernel
    return Cost(weights + outputs * (2 if norm else 1), weights * out[0] * out[1])


def _linear(inputs: int, outputs: int) -> Cost:
    return Cost((inputs + 1) * outputs, inputs * outputs)


def _stem(size: Size, base_width: int, stem: Stem) -> Cost:
    first = half(size)
    if stem == "7x7":
        return conv_cost(3, base_width, 7, first)
    return conv_cost(3, base_width // 2, 3, first) + conv_cost(base_width // 2, base_width, 3, half(first))


@lru_cache(maxsize=1 << 14)  # few blocks make up all candidates
def _block(kind: BlockType, channels: tuple[int, int, int], stride: int, before: Size, after: Size) -> Cost:
    """Cost of a block with these input, inner and output channels."""
    total = Cost()
    for name, (outputs, inputs, kernel, _) in Block(0, 0, *channels, stride).layers(kind).items():  # the first 3x3 has the stride
        total += conv_cost(inputs, outputs, kernel, before if (name, kernel) == ("conv1", 1) else after)
    return total


def _stages(arch: Arch, size: Size, base_width: int) -> tuple[Cost, ...]:
    """Cost of every stage without its copies."""
    sizes = stage_sizes(arch, size)
    found = [Cost()] * len(sizes)
    for block in blocks(arch, base_width):
        after = sizes[block.stage]
        before = sizes[block.stage - 1] if block.stride == 2 else after
        found[block.stage] += _block(
            arch.block_type, (block.in_channels, block.inner_channels, block.out_channels), block.stride, before, after
        )
    return tuple(found)


def stage_macs(arch: Arch, size: Size, base_width: int = 64) -> tuple[int, ...]:
    """MACs of every stage without its copies; the parallel search draws stages with probability proportional to 1 / MACs."""
    return tuple(cost.macs for cost in _stages(arch, size, base_width))


def backbone_cost(arch: Arch, size: Size, base_width: int = 64, stem: Stem = "7x7", share_weights: bool = True) -> Cost:
    """Cost of stem, stages, parallel copies and their connections (1x1 convolution + norm, stage output -> stage input channels).

    A copy that shares the main stage's weights costs its MACs again, but no parameters, and all copies of a stage then share one
    connection, as in the authors' release. Otherwise each copy has its own weights and its own connection.
    """
    total = _stem(size, base_width, stem)
    inputs = base_width
    rows = zip(_stages(arch, size, base_width), levels(arch, base_width), stage_sizes(arch, size), arch.parallel, strict=True)
    for stage, level, out, copies in rows:
        connection = conv_cost(level.channels, inputs, 1, out)
        params = connection.params if share_weights else copies * (stage.params + connection.params)
        total += stage
        if copies:
            total += Cost(params, copies * (stage.macs + connection.macs))
        inputs = level.channels
    return total


def rpn_cost(channels: int, anchors: int, sizes: Sequence[Size]) -> Cost:
    """Cost of the region proposals: one set of weights on maps of `channels` and these sizes, in cells; `anchors` per cell."""
    cells = sum(height * width for height, width in sizes)
    once = conv_cost(channels, channels, 3, (1, 1), norm=False) + conv_cost(channels, 5 * anchors, 1, (1, 1), norm=False)
    return Cost(once.params, once.macs * cells)


def dense_head_cost(channels: int, depth: int, others: int, outputs: tuple[int, int], sizes: Sequence[Size]) -> Cost:
    """Cost of a one-stage head: two towers of `depth` 3x3 convolutions, and one more of each tower for its `outputs` at each cell.

    One set of weights works on maps of `channels` and these sizes, in cells. `others`: parameters of a channel of a tower's convolution
    besides its weights, its bias and those of norms.
    """
    cells = sum(height * width for height, width in sizes)
    weights = 2 * depth * 9 * channels * channels
    once = Cost(weights + 2 * depth * channels * others, weights)
    for width in outputs:
        once += conv_cost(channels, width, 3, (1, 1), norm=False)
    return Cost(once.params, once.macs * cells)


def head_cost(classes: int, channels: int, head_channels: int, proposals: int, cascade: bool = False) -> Cost:
    """Cost of the box head on `proposals` regions of maps of `channels`, or of a cascade's three with one box for all.

    `classes` without the background.
    """
    heads, boxes = (CASCADE_STAGES, 1) if cascade else (1, classes + 1)
    once = _linear(channels * POOLED * POOLED, head_channels) + _linear(head_channels, head_channels)
    once += _linear(head_channels, classes + 1) + _linear(head_channels, 4 * boxes)
    return Cost(heads * once.params, heads * once.macs * proposals)
