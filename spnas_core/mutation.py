"""Operators of the serial search: swap, expand, add stage (SP-NAS, CVPR 2020, section 3.2; limits as in the authors' release).

Pure functions of an architecture and a `numpy.random.Generator`. The digits of the parent never move; only `-` moves and `1` appears.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from spnas_core.arch import Arch, ArchError, check_space
from spnas_core.config import Mutation, Space

ATTEMPTS = 1000  # of one child; only a space without any neighbour of the parent exhausts them


def swap(arch: Arch, rng: np.random.Generator, max_step: int = 3) -> Arch:
    """Move every ``-`` by a step drawn from [-m, m), m = min(max_step, longer of its two stages).

    All are drawn at once, from the parent's lengths, and drawn again until no stage is empty; so a step of 0 for all is possible.
    The parallel part is dropped.
    """
    lengths = [len(stage) for stage in arch.stages]
    if len(lengths) == 1:
        return arch.serial()
    ends = np.cumsum(lengths)
    reach = np.minimum(max_step, np.maximum(lengths[:-1], lengths[1:]))
    while True:
        moved = [0, *(ends[:-1] + rng.integers(-reach, reach)), ends[-1]]
        if all(a < b for a, b in pairwise(moved)):
            stages = tuple(arch.digits[a:b] for a, b in pairwise(moved))
            return replace(arch, stages=stages).serial()


def expand(arch: Arch, rng: np.random.Generator) -> Arch:
    """Insert a ``1`` at two random places of the text, on either side of a ``-`` too, but never before the first block.

    (A block before the first would change the input channels of the first, whose weights could not be inherited then.) The
    parallel part is dropped.
    """
    text = arch.serial_text
    for _ in range(2):
        place = int(rng.integers(1, len(text) + 1))
        text = text[:place] + "1" + text[place:]
    return replace(arch, stages=tuple(text.split("-"))).serial()


def add_stage(arch: Arch) -> Arch:
    """Append ``-1``; the parallel part is dropped."""
    return replace(arch, stages=(*arch.stages, "1")).serial()


def operation(arch: Arch, rng: np.random.Generator, settings: Mutation, space: Space) -> Arch:
    """One operation on `arch`, drawn with the probabilities of `settings` among those that stay in the space."""
    blocks, stages = len(arch.digits), len(arch.stages)
    if stages < space.max_stages and blocks < space.max_blocks and rng.random() < settings.add_stage:
        return add_stage(arch)
    can_swap, can_expand = stages > 1, blocks + 2 <= space.max_blocks
    if can_swap and (not can_expand or rng.random() < settings.swap):
        return swap(arch, rng, settings.max_step)
    return expand(arch, rng) if can_expand else arch


def mutate(parent: Arch, rng: np.random.Generator, settings: Mutation, space: Space) -> Arch:
    """Child of `num_mutate` operations on the serial part of `parent`: another net than the parent, and in the space.

    ArchError where the space holds no such child, or not the parent.
    """
    start = parent.serial()
    check_space(start, space.min_blocks, space.max_blocks, space.max_stages)
    for _ in range(ATTEMPTS):
        child = start
        for _ in range(settings.num_mutate):
            child = operation(child, rng, settings, space)
        if child != start:
            return check_space(child, space.min_blocks, space.max_blocks, space.max_stages)
    raise ArchError(f"architecture {str(parent)!r}: expected a child in the space, found none in {ATTEMPTS} draws")
