"""Use of residual blocks, as the gammas of the last norms of their branches tell it.

An inserted block starts with gamma 0 (`inherit.py`), so its mean |gamma| after a training tells how much of the block the net has come to
use. Source: BN-NAS (Chen et al., ICCV 2021), section 3.2: mean over channels of |gamma| of the last norm.
"""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from spnas_core.arch import Arch, blocks
from spnas_core.weights.lineage import lineage
from spnas_core.weights.tensor_names import Arrays, block_name

UNUSED = 0.1  # share of the neighbours' gamma below which an inserted block counts as unused


class BlockUse(NamedTuple):
    """Use of one inserted block: its stage and its position in it, from 1; the share of its mean |gamma| of that of its neighbours."""

    stage: int
    position: int
    share: float

    @property
    def is_unused(self) -> bool:
        """Whether the net hardly uses it."""
        return self.share < UNUSED

    @property
    def words(self) -> str:
        """One line for people."""
        return f"block {self.position} of stage {self.stage}: used {100 * self.share:.0f} % as much as its neighbours"


def last_norm(arch: Arch) -> str:
    """Name, within a block, of the last norm of its residual branch."""
    return "bn2" if arch.block_type.expansion == 1 else "bn3"


def block_gammas(arch: Arch, weights: Arrays) -> tuple[float, ...]:
    """Mean |gamma| of every block of the main stages, by the weights of a net."""
    names = (block_name(index, f"{last_norm(arch)}.gamma") for index in range(len(arch.digits)))
    return tuple(round(float(np.abs(weights[name]).mean(dtype=np.float64)), 6) for name in names)


def inserted_uses(parent: Arch, child: Arch, gammas: Sequence[float], leaves_out: bool = False) -> tuple[BlockUse, ...]:
    """Use of the blocks that `child` has and `parent` has not; `gammas` are those of `child` after its training.

    Neighbours are the inherited blocks of the same stage, of which the median counts; a stage without any says nothing, and neither does
    a block with a projection, which cannot start as the identity. `leaves_out`: see `lineage`. ArchError if `child` cannot descend
    from `parent`.
    """
    line, found = lineage(parent, child, leaves_out), []
    parts = blocks(child)
    for block, source in zip(parts, line, strict=True):
        own = [one.index for one in parts if one.stage == block.stage]
        known = [gammas[index] for index in own if line[index] is not None]
        if source is None and not block.projection and known and median(known):
            found.append(BlockUse(block.stage + 1, own.index(block.index) + 1, gammas[block.index] / median(known)))
    return tuple(found)
