"""Evolution among the paths of a supernet: what the next generation scores, and the best of all; functions of the scores so far.

Parents win a tournament in a population that forgets its oldest (regularized evolution, Real et al., AAAI 2019, arXiv 1802.01548); children
are mutants and uniform crossovers (DetNAS, NeurIPS 2019). A generation may have the fewer draws, the less its parents differ (K = lambda *
H(p) of FP-NAS, CVPR 2021, for a distribution that there is learnt and here is that of the population).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from spnas_core.arch import Arch
from spnas_core.search.pareto import Point, pareto_rank
from spnas_core.search.paths import Bands, change_genes, cross, draw_member, gene_entropy
from spnas_core.settings.search import DEVICE_LATENCY, MEASURED, SCORES, Objectives
from spnas_core.settings.supernet import Evolution

CHILD_DRAWS = 10  # draws per path, as in DetNAS, before others fill the generation, and again before it stays smaller


class ScoredPath(NamedTuple):
    """A member with its scores as a path, and its counted costs."""

    arch: Arch
    values: Mapping[str, float]

    def point(self, objectives: Objectives) -> Point:
        """Objectives that need no measurement, as a point of `pareto`."""
        first, *others = (name for name in objectives if name not in MEASURED and not name.startswith(DEVICE_LATENCY))
        return (self.values[first], *(-self.values[name] if name in SCORES else self.values[name] for name in others))


def propose_paths(
    bands: Bands, scored: Sequence[ScoredPath], settings: Evolution, objectives: Objectives, seed: int, fits: Callable[[Arch], bool]
) -> list[Arch]:
    """Members for the next generation, new to `scored` and to each other, and for which `fits` holds; fewer where few are left.

    The first generation is the start net and draws spread evenly over bands of cost.
    """
    family, known = bands.family, {path.arch for path in scored}
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, len(scored)])))
    population = [path for path in scored if path.values[objectives[0]] >= 0][-settings.population :]
    ranks = pareto_rank([path.point(objectives) for path in population])
    count = settings.draws
    if population and settings.entropy is not None:
        count = max(1, min(count, math.ceil(settings.entropy * gene_entropy(family, [path.arch for path in population]))))

    def parent() -> Arch:
        drawn = rng.choice(len(population), min(settings.tournament, len(population)), replace=False)
        return population[min(drawn, key=lambda i: (ranks[i], -population[i].values[objectives[0]], i))].arch

    def child() -> Arch:
        if not population:
            return bands.draw(rng)
        if rng.random() < settings.crossover:
            return cross(family, parent(), parent(), rng)
        return change_genes(family, parent(), rng, settings.mutation)

    found: list[Arch] = [family.start] if not scored and fits(family.start) else []
    for draw in (child, lambda: draw_member(family, rng)):
        for _ in range(CHILD_DRAWS * count):
            if len(found) == count:
                break
            arch = draw()
            if arch not in known and arch not in found and fits(arch):
                found.append(arch)
    return found


def best_paths(scored: Sequence[ScoredPath], count: int, objectives: Objectives, start: Arch) -> list[ScoredPath]:
    """Return the `count` best by Pareto rank, then by the first objective, without the start net, which is trained already."""
    standing = [path for path in scored if path.values[objectives[0]] >= 0]
    ranks = pareto_rank([path.point(objectives) for path in standing])
    order = sorted(zip(ranks, standing, strict=True), key=lambda pair: (pair[0], -pair[1].values[objectives[0]], str(pair[1].arch)))
    return [path for _, path in order if path.arch != start][:count]
