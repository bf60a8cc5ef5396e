"""Parameters and multiply-accumulates (MACs), counted from the architecture alone.

Parameters are the trained ones (gamma and beta of a norm, not its statistics). MACs are those of convolutions and linear layers, for
one image; norms, additions, pooling and resizing count nothing. Sizes are (height, width), px; every halving rounds up, as a
convolution or pooling of stride 2 with torchvision's padding does: ``(h + 2p - k) // 2 + 1 == ceil(h / 2)`` for k = 2p + 1.
"""

from dataclasses import dataclass
from typing import Literal

from spnas_core.arch import Arch, Block, blocks, levels, tapped

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


def _conv(inputs: int, outputs: int, kernel: int, out: Size, norm: bool = True) -> Cost:
    """Convolution with its norm (gamma, beta), or with a bias; `inputs` are those of one group, `out` is its output size in cells."""
    weights = inputs * outputs * kernel * kernel
    return Cost(weights + outputs * (2 if norm else 1), weights * out[0] * out[1])


def _linear(inputs: int, outputs: int) -> Cost:
    return Cost((inputs + 1) * outputs, inputs * outputs)


def _stem(size: Size, base_width: int, stem: Stem) -> Cost:
    first = half(size)
    if stem == "7x7":
        return _conv(3, base_width, 7, first)
    return _conv(3, base_width // 2, 3, first) + _conv(base_width // 2, base_width, 3, half(first))


def _block(arch: Arch, block: Block, before: Size, after: Size) -> Cost:
    total = Cost()
    for name, (outputs, inputs, kernel, _) in block.layers(arch.block_type).items():  # the first 3x3 has the stride
        total += _conv(inputs, outputs, kernel, before if (name, kernel) == ("conv1", 1) else after)
    return total


def _stages(arch: Arch, size: Size, base_width: int) -> tuple[Cost, ...]:
    """Cost of every stage without its copies."""
    sizes = stage_sizes(arch, size)
    found = [Cost()] * len(sizes)
    for block in blocks(arch, base_width):
        after = sizes[block.stage]
        before = sizes[block.stage - 1] if block.stride == 2 else after
        found[block.stage] += _block(arch, block, before, after)
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
        connection = _conv(level.channels, inputs, 1, out)
        params = connection.params if share_weights else copies * (stage.params + connection.params)
        total += stage
        if copies:
            total += Cost(params, copies * (stage.macs + connection.macs))
        inputs = level.channels
    return total


def pyramid_sizes(arch: Arch, size: Size, taps: tuple[int, ...] | None = None) -> tuple[Size, ...]:
    """Size of every output of the pyramid, in cells, the extra pooled one not counted (see `arch.tapped`)."""
    sizes = stage_sizes(arch, size)
    return tuple(sizes[tap] for tap in tapped(arch, taps))


def neck_cost(arch: Arch, size: Size, base_width: int, fpn_channels: int, taps: tuple[int, ...] | None = None) -> Cost:
    """Cost of the feature pyramid: a 1x1 convolution with bias (inner) per merged level, a 3x3 one (layer) per output."""
    total, first = Cost(), min(tapped(arch, taps))
    for level, out in list(zip(levels(arch, base_width), stage_sizes(arch, size), strict=True))[first:]:
        total += _conv(level.channels, fpn_channels, 1, out, norm=False)
    for out in pyramid_sizes(arch, size, taps):
        total += _conv(fpn_channels, fpn_channels, 3, out, norm=False)
    return total


def rpn_cost(arch: Arch, size: Size, fpn_channels: int, anchors: int, taps: tuple[int, ...] | None = None) -> Cost:
    """Cost of the region proposals: one set of weights on every output of the pyramid and on the extra pooled one; `anchors` per cell."""
    sizes = pyramid_sizes(arch, size, taps)
    cells = sum(height * width for height, width in (*sizes, half(sizes[-1])))
    once = _conv(fpn_channels, fpn_channels, 3, (1, 1), norm=False) + _conv(fpn_channels, 5 * anchors, 1, (1, 1), norm=False)
    return Cost(once.params, once.macs * cells)


def head_cost(classes: int, fpn_channels: int, head_channels: int, proposals: int, cascade: bool = False) -> Cost:
    """Cost of the box head on `proposals` regions, or of a cascade's three with one box for all; `classes` without the background."""
    heads, boxes = (CASCADE_STAGES, 1) if cascade else (1, classes + 1)
    once = _linear(fpn_channels * POOLED * POOLED, head_channels) + _linear(head_channels, head_channels)
    once += _linear(head_channels, classes + 1) + _linear(head_channels, 4 * boxes)
    return Cost(heads * once.params, heads * once.macs * proposals)


def detector_cost(
    arch: Arch,
    *,
    size: Size,
    classes: int,
    base_width: int = 64,
    stem: Stem = "7x7",
    share_weights: bool = True,
    fpn_channels: int = 256,
    taps: tuple[int, ...] | None = None,
    head_channels: int = 1024,
    anchors: int = 3,
    proposals: int = 1000,
    cascade: bool = False,
) -> Cost:
    """Cost of the whole detector in inference: backbone, neck, region proposals and box head.

    `classes` without the background, `anchors` per cell, `proposals` per image.
    """
    backbone = backbone_cost(arch, size, base_width, stem, share_weights)
    neck, rpn = neck_cost(arch, size, base_width, fpn_channels, taps), rpn_cost(arch, size, fpn_channels, anchors, taps)
    return backbone + neck + rpn + head_cost(classes, fpn_channels, head_channels, proposals, cascade)
