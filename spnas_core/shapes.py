"""Shape of every tensor of a detector, from architecture and settings alone: names and shapes are those of the net that `models` builds."""

from spnas_core import arch as architecture
from spnas_core.arch import Arch, Block, BlockType
from spnas_core.config import Detector

Shapes = dict[str, tuple[int, ...]]
BINS = 7  # side of a region's pooled features


def detector_shapes(arch: Arch, settings: Detector, classes: int) -> Shapes:
    """Tensors of Faster R-CNN with `classes` classes (background not counted)."""
    width, hidden, ratios = settings.fpn_channels, settings.head_channels, len(settings.anchor_ratios)
    layers: Shapes = {
        "rpn.conv": (width, width, 3, 3),
        "rpn.score": (ratios, width, 1, 1),
        "rpn.delta": (4 * ratios, width, 1, 1),
        "head.fc1": (hidden, width * BINS * BINS),
        "head.fc2": (hidden, hidden),
        "head.score": (classes + 1, hidden),
        "head.delta": (4 * (classes + 1), hidden),
    }
    for stage, level in enumerate(architecture.levels(arch, settings.base_width)):
        layers |= {f"neck.inner.{stage}": (width, level.channels, 1, 1), f"neck.layer.{stage}": (width, width, 3, 3)}
    shapes = backbone_shapes(arch, settings)
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def backbone_shapes(arch: Arch, settings: Detector) -> Shapes:
    """Tensors of the backbone: stem, blocks, and connections and copies where `arch` has a parallel part."""
    width, plan = settings.base_width, architecture.blocks(arch, settings.base_width)
    if settings.stem == "7x7":
        shapes = _normed("backbone.stem.", "conv", "bn", (width, 3, 7, 7))
    else:
        shapes = _normed("backbone.stem.", "conv1", "bn1", (width // 2, 3, 3, 3))
        shapes |= _normed("backbone.stem.", "conv2", "bn2", (width, width // 2, 3, 3))
    for block in plan:
        shapes |= _block(f"backbone.blocks.{block.index}.", block, arch.block_type)
    for stage, copies in enumerate(arch.parallel):
        members = [block for block in plan if block.stage == stage]
        for number in range(min(copies, 1) if settings.share_weights else copies):
            ends = (members[0].in_channels, members[-1].out_channels, 1, 1)
            shapes |= _normed(f"backbone.connect.{stage}.{number}.", "conv", "bn", ends)
            for position, block in enumerate([] if settings.share_weights else members):
                shapes |= _block(f"backbone.copies.{stage}.{number}.{position}.", block, arch.block_type)
    return shapes


def _block(prefix: str, block: Block, kind: BlockType) -> Shapes:
    inputs, inner, out = block.in_channels, block.inner_channels, block.out_channels
    if kind.expansion == 1:
        convolutions = [(out, inputs, 3, 3), (out, out, 3, 3)]
    else:
        convolutions = [(inner, inputs, 1, 1), (inner, inner // kind.groups, 3, 3), (out, inner, 1, 1)]
    shapes: Shapes = {}
    for number, shape in enumerate(convolutions, start=1):
        shapes |= _normed(prefix, f"conv{number}", f"bn{number}", shape)
    return shapes | (_normed(f"{prefix}shortcut.", "conv", "bn", (out, inputs, 1, 1)) if block.projection else {})


def _normed(prefix: str, conv: str, norm: str, shape: tuple[int, ...]) -> Shapes:
    """Shapes of a convolution without bias and of its norm."""
    return {f"{prefix}{conv}.weight": shape} | {
        f"{prefix}{norm}.{part}": shape[:1] for part in ("gamma", "beta", "moving_mean", "moving_variance")
    }
