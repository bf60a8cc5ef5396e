"""Family of nets around a start net: what a supernet holds, and the members that are its paths.

A member differs from the start net in the depth of its stages, in the places of its ``-``, and in the inner width of its stages. All
blocks that any member has are the **slots** of one flat sequence. A stage of the start net is a **segment** of slots; a member has the
first few of each, and its own stages end up to `shift` blocks before or after the ends of its segments. Channels follow from the ``2``
before a slot (its **run**), resolution from the stage that it lies in, so one slot may stand at several **places**.

The idea is that of DetNAS (Chen et al., NeurIPS 2019, arXiv 1903.10979) and once-for-all (Cai et al., ICLR 2020); the family is ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise, product
from typing import NamedTuple

from spnas_core.arch import MAX_BLOCKS, MIN_BLOCKS, WHOLE, Arch, parse
from spnas_core.errors import UserError
from spnas_core.settings.supernet import FamilySpace


class Genes(NamedTuple):
    """One member: blocks per segment, blocks by which each ``-`` is moved to the right, inner width of each stage in eighths."""

    depths: tuple[int, ...]
    shifts: tuple[int, ...]
    inner: tuple[int, ...]


class Slot(NamedTuple):
    """Block of the union: its segment, its place there, its digit, and how many ``2`` stand before its output."""

    segment: int
    offset: int
    digit: str
    run: int

    @property
    def source(self) -> int:
        """Run of its input; -1 for the stem."""
        return -1 if self.segment == self.offset == 0 else self.run - (self.digit == "2")


class Place(NamedTuple):
    """A slot in a stage of some member; `first`: with stride 2, as the first block of this stage."""

    stage: int
    slot: int
    first: bool


class End(NamedTuple):
    """A stage, and the run in which it ends in some member."""

    stage: int
    run: int


@dataclass(frozen=True)
class Family:
    """Nets around the serial net `start`: each stage `fewer` blocks shorter to `more` blocks longer, each ``-`` moved by up to `shift`.

    `inner`: widths that each stage may have, in eighths. Blocks are taken off or put on at the end of a stage, and never before its last
    ``2``. Every stage keeps a block of its own segment.
    """

    start: Arch
    fewer: int = 1
    more: int = 1
    shift: int = 1
    inner: tuple[int, ...] = (WHOLE,)
    min_blocks: int = MIN_BLOCKS
    max_blocks: int = MAX_BLOCKS

    def __post_init__(self) -> None:
        """Refuse a family without its start net; UserError."""
        if self.genes(self.start) is None:
            own = self.start.inner or (WHOLE,)
            raise UserError(
                f"supernet: expected a family with the start net {self.start}, a serial net of {self.min_blocks} to {self.max_blocks} "
                f"blocks with inner widths in {list(self.inner)}, got one of {len(self.start.digits)} blocks with {list(own)}"
            )

    @cached_property
    def depths(self) -> tuple[range, ...]:
        """Numbers of blocks that each segment may have."""
        return tuple(
            range(max(stage.rfind("2") + 1, 1, len(stage) - self.fewer), len(stage) + self.more + 1) for stage in self.start.stages
        )

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Inner widths in order."""
        return tuple(sorted(set(self.inner)))

    @cached_property
    def domains(self) -> tuple[Sequence[int], ...]:
        """Values that each gene may have, least cost first: depths, then shifts, then inner widths."""
        moves = [range(-self.shift, self.shift + 1)] * (len(self.depths) - 1)
        return (*self.depths, *moves, *[self.widths] * len(self.depths))

    def split(self, values: Sequence[int]) -> Genes:
        """Genes from their values in the order of `domains`."""
        count = len(self.depths)
        return Genes(tuple(values[:count]), tuple(values[count : 2 * count - 1]), tuple(values[2 * count - 1 :]))

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """Digits of the segments at their longest."""
        return tuple(stage + "1" * self.more for stage in self.start.stages)

    def member(self, genes: Genes) -> Arch | None:
        """Net of these genes; None where a stage keeps no block of its own, or the net has too few or too many blocks."""
        if not self._leaves_all(genes.depths, genes.shifts) or not self.min_blocks <= sum(genes.depths) <= self.max_blocks:
            return None
        return self._arch(genes)

    def _arch(self, genes: Genes) -> Arch:
        digits = "".join(segment[:depth] for segment, depth in zip(self.segments, genes.depths, strict=True))
        ends = [end + shift for end, shift in zip(accumulate(genes.depths), (*genes.shifts, 0), strict=True)]
        stages = tuple(digits[a:b] for a, b in pairwise((0, *ends)))
        return Arch(self.start.block_type, stages, (0,) * len(stages), genes.inner)

    def _leaves_all(self, depths: Sequence[int], shifts: Sequence[int]) -> bool:
        """Whether each stage has a block of its own segment."""
        lefts, rights = (0, *shifts), (*shifts, 0)
        return all(max(0, left) < min(depth, depth + right) for depth, left, right in zip(depths, lefts, rights, strict=True))

    def genes(self, arch: Arch) -> Genes | None:
        """Genes of a member, those with the least shifts where several give it; None for any other net."""
        return _genes_of(self, arch)

    def find_genes(self, arch: Arch) -> Genes | None:
        """Genes of a member, found anew."""
        start, inner = self.start, tuple(arch.eighths(stage) for stage in range(len(arch.stages)))
        if any(arch.parallel) or arch.block_type != start.block_type or len(arch.stages) != len(start.stages):
            return None
        if not set(inner) <= set(self.inner):
            return None
        ends = list(accumulate(map(len, arch.stages)))
        moves = product(range(-self.shift, self.shift + 1), repeat=len(ends) - 1)
        for shifts in sorted(moves, key=lambda those: (sum(map(abs, those)), those)):
            homes = [0, *(end - shift for end, shift in zip(ends, (*shifts, 0), strict=True))]
            found = Genes(tuple(b - a for a, b in pairwise(homes)), shifts, inner)
            if all(depth in allowed for depth, allowed in zip(found.depths, self.depths, strict=True)) and self.member(found) == arch:
                return found
        return None

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """All slots in order."""
        found: list[Slot] = []
        for number, segment in enumerate(self.segments):
            for offset, digit in enumerate(segment):
                found.append(Slot(number, offset, digit, (found[-1].run if found else 0) + (digit == "2")))
        return tuple(found)

    @cached_property
    def union(self) -> Arch:
        """Net of all slots at their largest width, with every ``-`` as far to the right as it may come.

        Its blocks are the slots, with their channels, and its stages have the most channels that they have in any member.
        """
        depths = tuple(map(len, self.segments))
        return self._arch(Genes(depths, tuple(min(self.shift, depth - 1) for depth in depths[1:]), (self.widths[-1],) * len(depths)))

    @cached_property
    def _uses(self) -> tuple[tuple[Place, ...], tuple[End, ...]]:
        """Places and ends that any genes lead to, in order: of a stage by slot, as the first block before all others."""
        places, ends, index = set[Place](), set[End](), {(slot.segment, slot.offset): i for i, slot in enumerate(self.slots)}
        last, moves = len(self.depths) - 1, range(-self.shift, self.shift + 1)
        for number, allowed in enumerate(self.depths):
            for depth, left, right in product(allowed, moves if number else (0,), moves if number < last else (0,)):
                if max(0, left) >= min(depth, depth + right):
                    continue
                for offset in range(depth):
                    slot, moved = index[number, offset], number - (offset < left) + (offset >= depth + right)
                    first = offset == depth + right or (offset == left and number > 0)
                    places.add(Place(moved, slot, first))
                    if offset == left - 1 or (offset == depth + right - 1 and right <= 0):
                        ends.add(End(moved, self.slots[slot].run))
        return tuple(sorted(places, key=lambda one: (one.stage, one.slot, not one.first))), tuple(sorted(ends))

    @property
    def places(self) -> tuple[Place, ...]:
        """All places, in the order in which a supernet computes them."""
        return self._uses[0]

    @property
    def ends(self) -> tuple[End, ...]:
        """Runs in which each stage may end."""
        return self._uses[1]

    def path(self, arch: Arch) -> tuple[Place, ...]:
        """Places of the blocks of a member, in order; UserError for another net."""
        genes = self.genes(arch)
        if genes is None:
            raise UserError(f"supernet: expected a net of the family around {self.start}, got {arch}")
        homes = [0, *accumulate(map(len, self.segments))]
        slots = [home + offset for home, depth in zip(homes, genes.depths, strict=False) for offset in range(depth)]
        stages = [(stage, bool(stage and not place)) for stage, digits in enumerate(arch.stages) for place in range(len(digits))]
        return tuple(Place(stage, slot, first) for slot, (stage, first) in zip(slots, stages, strict=True))

    def neighbours(self, genes: Genes) -> Iterator[Arch]:
        """Members that differ from one in a single gene."""
        values = [*genes.depths, *genes.shifts, *genes.inner]
        for place, domain in enumerate(self.domains):
            for value in domain:
                if value != values[place] and (found := self.member(self.split([*values[:place], value, *values[place + 1 :]]))):
                    yield found


@lru_cache(maxsize=64)
def family_of(start: str, space: FamilySpace, blocks: tuple[int, int]) -> Family:
    """Family that settings describe, of nets with so many `blocks` at least and at most; the same object for the same settings."""
    return Family(parse(start), space.fewer, space.more, space.shift, tuple(sorted(set(space.inner))), *blocks)


@lru_cache(maxsize=1 << 14)
def _genes_of(family: Family, arch: Arch) -> Genes | None:
    return family.find_genes(arch)
