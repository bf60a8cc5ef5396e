"""Blocks left out of a trained net that hardly uses them.

A block without projection whose last norm has gamma and beta 0 is exactly the identity, since its input comes out of a ReLU; so a net is
nearly the same without a block where both are small. The first block of a stage always stays: it has the stride, and a connection of a
parallel copy may make its input negative.
"""

from dataclasses import replace

from spnas_core.arch import MIN_BLOCKS, Arch, blocks
from spnas_core.weights.gammas import last_norm
from spnas_core.weights.tensor_names import AFFINE, BLOCKS, COPIES, Arrays, block_name, copied_block_name


def unused_blocks(arch: Arch, weights: Arrays, below: float, least: int = MIN_BLOCKS) -> tuple[int, ...]:
    """Choose the blocks to leave out, by index: those whose branch is smaller than the share `below` of the largest of their stage.

    The size of a branch is the mean of |gamma| + |beta| of its last norm, and the largest of a block and its copies, where these have
    weights of their own. At least `least` blocks stay; the smallest go first.
    """
    parts = blocks(arch)
    sizes = [max(_size(weights, f"{name}{last_norm(arch)}") for name in _names(arch, weights, block.index)) for block in parts]
    shares: dict[int, float] = {}
    for block in parts:
        stage = [one.index for one in parts if one.stage == block.stage]
        if block.index != stage[0] and not block.projection:
            largest = max(sizes[index] for index in stage)
            shares[block.index] = sizes[block.index] / largest if largest else 0.0
    small = sorted((index for index, share in shares.items() if share < below), key=lambda index: (shares[index], index))
    return tuple(sorted(small[: max(0, len(parts) - least)]))


def without_blocks(arch: Arch, weights: Arrays, left_out: tuple[int, ...]) -> tuple[Arch, Arrays]:
    """Architecture and weights of the net without the blocks `left_out`; of the others all tensors stay as they are."""
    parts = blocks(arch)
    kept = [block for block in parts if block.index not in left_out]
    stages = ["".join(arch.digits[block.index] for block in kept if block.stage == stage) for stage in range(len(arch.stages))]
    moved = {block_name(block.index): block_name(number) for number, block in enumerate(kept)}
    for stage, copies in enumerate(arch.parallel):
        old = [block.index for block in parts if block.stage == stage]
        new = [index for index in old if index not in left_out]
        moved |= {copied_block_name(stage, c, old.index(i)): copied_block_name(stage, c, new.index(i)) for c in range(copies) for i in new}
    found: Arrays = {}
    for name, array in weights.items():
        if not name.startswith((BLOCKS, COPIES)):
            found[name] = array
        elif (place := _place(name)) in moved:
            found[moved[place] + name.removeprefix(place)] = array
    return replace(arch, stages=tuple(stages)), found


def _place(name: str) -> str:
    """Name prefix of the block that a tensor belongs to."""
    return ".".join(name.split(".")[: 3 if name.startswith(BLOCKS) else 5]) + "."


def _names(arch: Arch, weights: Arrays, index: int) -> list[str]:
    """Name prefixes of a block and of its copies with weights of their own."""
    stage = blocks(arch)[index].stage
    position = index - sum(map(len, arch.stages[:stage]))
    copies = [copied_block_name(stage, copy, position) for copy in range(arch.parallel[stage])]
    return [block_name(index), *(name for name in copies if f"{name}{last_norm(arch)}.gamma" in weights)]


def _size(weights: Arrays, norm: str) -> float:
    gamma, beta = (abs(weights[norm + part]).mean() for part in AFFINE)
    return float(gamma + beta)
