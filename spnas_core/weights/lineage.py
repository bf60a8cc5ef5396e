"""Alignment of a child architecture's blocks with those of its parent, derived from the two architectures alone."""

from dataclasses import replace
from functools import lru_cache

from spnas_core.arch import Arch, ArchError, Block, blocks

_Value = tuple[int, int, int, int]


@lru_cache(maxsize=1 << 12)  # a report asks twice for each trial
def lineage(parent: Arch, child: Arch, leaves_out: bool = False) -> tuple[int | None, ...]:
    """Index of the parent's block whose weights each block of `child` inherits, or None if the block is new.

    As many blocks of the parent as the child has room for appear, each once, in order. Among all such alignments, this one has most blocks
    of equal channels, then of equal stride, then of equal stage, then the new or the lost blocks last; so it keeps as much of the function
    as possible. If no ``2`` has moved, all of the parent's blocks keep their channels (another block type is compared as if the parent
    had it). ArchError if the operators of the search cannot lead from parent to child.

    `leaves_out`: the search may have taken blocks out and put others in, so equal channels come before the number of blocks; else a child
    with one taken out and two put in would find room for all, and have most of them at places with other channels.
    """
    ours, theirs = blocks(replace(parent, block_type=child.block_type)), blocks(child)
    if len(child.stages) < len(parent.stages) or child.digits.count("2") != parent.digits.count("2"):
        raise ArchError(f"architecture {str(child)!r}: expected a descendant of {str(parent)!r} by the operators of the search")
    best: dict[tuple[int, int], _Value] = {}  # value of the best alignment of ours[i:] with theirs[j:]

    def value(i: int, j: int) -> _Value:
        return best.get((i, j), (0, 0, 0, 0))

    def matched(i: int, j: int) -> _Value:
        a, b, (count, channels, stride, stage) = ours[i], theirs[j], value(i + 1, j + 1)
        same = _channels(a) == _channels(b)
        first, second = (same, 1) if leaves_out else (1, same)
        return count + first, channels + second, stride + (a.stride == b.stride), stage + (a.stage == b.stage)

    for i in reversed(range(len(ours))):
        for j in reversed(range(len(theirs))):
            best[i, j] = max(value(i, j + 1), value(i + 1, j), matched(i, j))
    found: list[int | None] = [None] * len(theirs)
    i = j = 0
    while i < len(ours) and j < len(theirs):
        if matched(i, j) == value(i, j):
            found[j] = i
            i, j = i + 1, j + 1
        elif value(i, j + 1) == value(i, j):
            j += 1
        else:
            i += 1
    return tuple(found)


def _channels(block: Block) -> tuple[int, int]:
    return block.in_channels, block.out_channels
