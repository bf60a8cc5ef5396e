"""Entropy of a backbone by a closed formula, from its architecture alone: the score of MAE-DET, without any forward pass or data.

A convolution adds half the logarithm of its fan-in (its inputs, those of one group, times the cells of its kernel); projections, norms and
copies add nothing. The score of a stage is what all convolutions up to its end add up to, and the logarithm of its channels; the score of
a net is the weighted sum of its stages' scores.

MAE-DET has five stages, the stem is the first, with the weights 0, 0, 1, 1, 6. Here a net has any number: the last stage has the weight
6, the two before it have 1, all others 0. So a net of four stages has MAE-DET's own score, and an added stage always raises it.

Source: MAE-DET (Sun et al., ICML 2022), section 3; https://github.com/alibaba/lightweight-neural-architecture-search,
tinynas/scores/compute_madnas.py and the blocks of tinynas/models/blocks_cnn_2d.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from spnas_core.arch import Arch, blocks, levels
from spnas_core.cost import Stem

STAGE_WEIGHTS = (1.0, 1.0, 6.0)  # of the last stages; of all others 0


class StageFans(NamedTuple):
    """One stage: the fan-ins of its convolutions, and its output channels."""

    fan_ins: tuple[int, ...]
    channels: int


def entropy(stages: Sequence[StageFans]) -> float:
    """Entropy of a net with these stages, the stem first."""
    weights = [0.0] * max(0, len(stages) - len(STAGE_WEIGHTS)) + list(STAGE_WEIGHTS[-len(stages) :])
    total = so_far = 0.0
    for stage, weight in zip(stages, weights, strict=True):
        so_far += sum(0.5 * math.log(fan) for fan in stage.fan_ins)
        total += weight * (so_far + math.log(stage.channels))
    return total


@lru_cache(maxsize=1 << 14)
def backbone_entropy(arch: Arch, base_width: int = 64, stem: Stem = "7x7") -> float:
    """Entropy of a backbone; a net with parallel copies has that of its serial part."""
    fans: list[list[int]] = [[] for _ in arch.stages]
    for block in blocks(arch, base_width):
        shapes = block.layers(arch.block_type).items()
        fans[block.stage] += [inputs * height * width for name, (_, inputs, height, width) in shapes if name != "shortcut"]
    first = StageFans((3 * 7 * 7,) if stem == "7x7" else (3 * 3 * 3, base_width // 2 * 3 * 3), base_width)
    return entropy([first, *(StageFans(tuple(f), one.channels) for f, one in zip(fans, levels(arch, base_width), strict=True))])
