"""Features of a net by which its latency is predicted: its work of each kind, what it moves, how many layers it has.

Work alone does not say the time: a 3x3 convolution does more in a second than a 1x1 one, early layers are bound by the maps that they
write, late ones by the weights that they read, and small ones by what it takes to start them.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from spnas_core.arch import Arch, Block, blocks, levels
from spnas_core.cost import Size, half, stage_sizes
from spnas_core.search.costs import neck_and_head_cost
from spnas_core.settings.detector import Detector

FEATURES = ("net", "3x3", "1x1", "grouped", "maps", "weights", "layers", "neck and head")


class _Layer(NamedTuple):
    """One convolution: `inputs` of one group, and its output's size in cells."""

    inputs: int
    outputs: int
    kernel: int
    groups: int
    out: Size


@lru_cache(maxsize=1 << 14)
def net_features(arch: Arch, detector: Detector, classes: int) -> dict[str, float]:
    """Features by name (FEATURES), for one image: 1; 10^9 MACs of convolutions by kind; 10^6 elements written and weights read; layers.

    `neck and head`: 10^9 MACs of both.
    """
    found = dict.fromkeys(FEATURES, 0.0) | {"net": 1.0}
    for one in _layers(arch, detector):
        weights, cells = one.inputs * one.outputs * one.kernel**2, one.out[0] * one.out[1]
        kind = "1x1" if one.kernel == 1 else "3x3" if one.groups == 1 else "grouped"
        found[kind] += 1e-9 * weights * cells
        found["maps"] += 1e-6 * one.outputs * cells
        found["weights"] += 1e-6 * weights
        found["layers"] += 1
    return found | {"neck and head": 1e-9 * neck_and_head_cost(arch, detector, classes).macs}


def _layers(arch: Arch, detector: Detector) -> Iterator[_Layer]:
    """Yield all convolutions of the backbone, those of copies as often as they run."""
    size, width = detector.image_size, detector.base_width
    first = half(size)
    if detector.stem == "7x7":
        yield _Layer(3, width, 7, 1, first)
    else:
        yield _Layer(3, width // 2, 3, 1, first)
        yield _Layer(width // 2, width, 3, 1, half(first))
    sizes, ends, inputs = stage_sizes(arch, size), levels(arch, width), width
    for stage, copies in enumerate(arch.parallel):
        for block in blocks(arch, width):
            if block.stage == stage:
                for _ in range(1 + copies):
                    yield from _block_layers(arch, block, sizes)
        yield from (_Layer(ends[stage].channels, inputs, 1, 1, sizes[stage]) for _ in range(copies))
        inputs = ends[stage].channels


def _block_layers(arch: Arch, block: Block, sizes: tuple[Size, ...]) -> Iterator[_Layer]:
    after = sizes[block.stage]
    before = sizes[block.stage - 1] if block.stride == 2 else after
    for name, (outputs, inputs, kernel, _) in block.layers(arch.block_type).items():
        groups = arch.block_type.groups if (name, kernel) == ("conv2", 3) and arch.block_type.expansion > 1 else 1
        yield _Layer(inputs, outputs, kernel, groups, before if (name, kernel) == ("conv1", 1) else after)
