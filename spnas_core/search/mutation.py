"""Operators of the serial search: swap, expand, add stage (SP-NAS, CVPR 2020, section 3.2; limits as in the authors' release).

Pure functions of an architecture and a `numpy.random.Generator`. By these the digits of the parent never move; only `-` moves and `1`
appears. Two more are ours: one changes the block type, where the space has several, and one moves a `2`, which is off by default.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np

from spnas_core.arch import Arch, ArchError, BlockType, check_space
from spnas_core.settings.search import Mutation, Space

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


def change_type(arch: Arch, rng: np.random.Generator, types: Sequence[str]) -> Arch:
    """Take another one of `types`, all equally likely; the parallel part is dropped."""
    others = [text for text in types if text != arch.block_type.text]
    return replace(arch, block_type=BlockType(others[int(rng.integers(len(others)))])).serial()


def move_double(arch: Arch, rng: np.random.Generator) -> Arch:
    """Let a ``2`` and a ``1`` beside it in the flat sequence change places, all such pairs equally likely; each ``-`` stays at its place.

    The net is returned as it is where it has no such pair. The parallel part is dropped.
    """
    pairs = [place for place, (a, b) in enumerate(pairwise(arch.digits)) if a != b]
    if not pairs:
        return arch.serial()
    place = pairs[int(rng.integers(len(pairs)))]
    digits = arch.digits[:place] + arch.digits[place + 1] + arch.digits[place] + arch.digits[place + 2 :]
    ends = [0, *accumulate(map(len, arch.stages))]
    return replace(arch, stages=tuple(digits[a:b] for a, b in pairwise(ends))).serial()


def operation(arch: Arch, rng: np.random.Generator, settings: Mutation, space: Space) -> Arch:
    """One operation on `arch`, drawn with the probabilities of `settings` among those that stay in the space.

    Add stage, change type and move double have theirs outright, where they are possible; swap and expand share the rest.
    """
    blocks, stages = len(arch.digits), len(arch.stages)
    rare: list[tuple[float, Callable[[], Arch]]] = []
    if stages < space.max_stages and blocks < space.max_blocks:
        rare.append((settings.add_stage, lambda: add_stage(arch)))
    if set(space.block_types) - {arch.block_type.text}:
        rare.append((settings.change_type, lambda: change_type(arch, rng, space.block_types)))
    if settings.move_double:
        rare.append((settings.move_double, lambda: move_double(arch, rng)))
    draw = rng.random() if rare else 1.0
    for chance, operator in rare:
        if draw < chance:
            return operator()
        draw -= chance
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
