"""Members of a family drawn evenly over their costs, changed and mixed; and a member as the inputs of a supernet: pure functions."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from spnas_core.arch import Arch, BlockType
from spnas_core.search.family import Family

MEMBER_DRAWS = 500  # draws of one member; DetNAS draws as often for a band of FLOPs
Switches = npt.NDArray[np.float32]
MacsOf = Callable[[Arch], int]


def draw_member(family: Family, rng: np.random.Generator, lean: float | None = None) -> Arch:
    """Member drawn at random; all values of a gene are equally likely without `lean`, else the larger the more it is near 1 (from 0).

    With a `lean` that is itself uniform, members of small and of large costs are drawn nearly as often as others.
    """
    for _ in range(MEMBER_DRAWS):
        if lean is None:
            values = [int(domain[int(rng.integers(len(domain)))]) for domain in family.domains]
        else:
            values = [int(domain[int(rng.binomial(len(domain) - 1, lean))]) for domain in family.domains]
        if found := family.member(family.split(values)):
            return found
    return family.start


class Bands:
    """Bands of equal width between the costs of the smallest and the largest members found; members are drawn evenly over them.

    As DetNAS draws evenly over bins of FLOPs (Supernet-ImageNet/train.py of its release), with at most `MEMBER_DRAWS` draws for one.
    """

    def __init__(self, family: Family, macs_of: MacsOf, count: int) -> None:
        self.family, self.macs_of = family, macs_of
        self.smallest, self.largest = (_extreme(family, macs_of, sign) for sign in (-1, 1))
        self.edges = np.linspace(macs_of(self.smallest), macs_of(self.largest), count + 1)

    def band(self, arch: Arch) -> int:
        """Band of a member, from 0."""
        return int(np.clip(np.searchsorted(self.edges, self.macs_of(arch), side="right") - 1, 0, len(self.edges) - 2))

    def draw(self, rng: np.random.Generator) -> Arch:
        """Draw a band, all equally likely, and a member of it; where none is found, the last member drawn."""
        count = len(self.edges) - 1
        band = int(rng.integers(count))
        found = self.family.start
        for _ in range(MEMBER_DRAWS // 10):
            found = draw_member(self.family, rng, float(np.clip((band + rng.uniform(-1, 2)) / count, 0.0, 1.0)))
            if self.band(found) == band:
                break
        return found


def _extreme(family: Family, macs_of: MacsOf, sign: int) -> Arch:
    """Member from which no change of a single gene leads to one with more MACs (`sign` 1) or fewer (-1)."""
    best = family.start
    while True:
        genes = family.genes(best)
        assert genes
        found = max((*family.neighbours(genes), best), key=lambda arch: sign * macs_of(arch))
        if sign * macs_of(found) <= sign * macs_of(best):
            return best
        best = found


def change_genes(family: Family, arch: Arch, rng: np.random.Generator, chance: float) -> Arch:
    """Mutant of a member: each gene is drawn anew with this chance, and at least one has another value (DetNAS: 0.1)."""
    genes = family.genes(arch)
    assert genes
    values = np.array([*genes.depths, *genes.shifts, *genes.inner])
    for _ in range(MEMBER_DRAWS):
        drawn = np.array([domain[int(rng.integers(len(domain)))] for domain in family.domains])
        found = family.member(family.split([int(one) for one in np.where(rng.random(len(values)) < chance, drawn, values)]))
        if found and found != arch:
            return found
    return draw_member(family, rng)


def cross(family: Family, one: Arch, other: Arch, rng: np.random.Generator) -> Arch:
    """Child of two members: each gene from either, equally likely (uniform crossover, as DetNAS)."""
    pair = [family.genes(arch) for arch in (one, other)]
    values = [np.array([*genes.depths, *genes.shifts, *genes.inner]) for genes in pair if genes]
    for _ in range(MEMBER_DRAWS):
        chosen = np.where(rng.random(len(values[0])) < 0.5, *values)
        if found := family.member(family.split([int(value) for value in chosen])):
            return found
    return one


def gene_entropy(family: Family, archs: list[Arch]) -> float:
    """Sum over the genes of the entropy of their values among some members, nats (H(p) of FP-NAS, with independent genes)."""
    total = 0.0
    rows = [(*genes.depths, *genes.shifts, *genes.inner) for arch in archs if (genes := family.genes(arch))]
    for column in zip(*rows, strict=True):
        shares = np.unique(column, return_counts=True)[1] / len(rows)
        total -= float((shares * np.log(shares)).sum())
    return total


def kept_channels(family: Family, run: int, eighths: int, width: int) -> npt.NDArray[np.int64]:
    """Inner channels of a block of `run` that a stage with this inner width uses, of those of the supernet: the first of each group."""
    kind: BlockType = family.start.block_type
    most, own = (kind.inner(width << run, value) // kind.groups for value in (family.widths[-1], eighths))
    return (np.arange(kind.groups)[:, None] * most + np.arange(own)).ravel()


def widths(family: Family) -> tuple[tuple[int, int], ...]:
    """Pairs (stage, run) for which a supernet needs a mask of inner channels, in their order."""
    return tuple(sorted({(place.stage, family.slots[place.slot].run) for place in family.places}))


def switches(family: Family, arch: Arch, width: int) -> tuple[Switches, Switches]:
    """Make a supernet a member by inputs of 0 and 1: one per place and per end, and the masks of inner channels one after another."""
    path = set(family.path(arch))
    genes = family.genes(arch)
    assert genes
    runs = {place.stage: family.slots[place.slot].run for place in family.path(arch)}  # of the last of each stage
    gates = [place in path for place in family.places] + [runs[end.stage] == end.run for end in family.ends]
    masks = []
    for stage, run in widths(family):
        mask = np.zeros(family.start.block_type.inner(width << run, family.widths[-1]), np.float32)
        mask[kept_channels(family, run, genes.inner[stage], width)] = 1.0
        masks.append(mask)
    return np.array(gates, np.float32), np.concatenate(masks)
