"""The structural search: its proposals, and the families of the structures that the serial search goes on with.

As SM-NAS (Yao et al., AAAI 2020, section 3): what costs and scores most, the detector as a combination of parts, is searched first, as a
Pareto front; then the backbones of some of its nets. Not as there: children start from the weights of their parents, and the second search
has the operators of SP-NAS.
"""

from collections.abc import Sequence
from dataclasses import replace

from spnas_core.search.costs import CostOf
from spnas_core.search.course import Course
from spnas_core.search.ledger import Ledger, Trial, best, spread_best
from spnas_core.search.mutation import mutate
from spnas_core.search.net import Net
from spnas_core.search.propose import Proposal, children_of, course_of, generator, weighted
from spnas_core.settings.run import Run

SHARED = ("fine_tune", "structures")  # stages before the families part


def propose_structures(ledger: Ledger, settings: Run, number: int, cost_of: CostOf) -> list[Proposal]:
    """Children for round `number` (from 1) of the structural search, from all rounds before it.

    Parents are the `max_optimal` best by Pareto rank, of the last rank those that add most hyper-volume, drawn with weight 1 / (1 + rank).
    """
    rules = settings.structures
    assert rules
    rng = generator(settings.seed, "structures", number)
    known = {trial.net.identity for trial in ledger}
    before = [trial for trial in ledger if trial.stage in SHARED and trial.round < number]
    draw_parent = weighted(spread_best(before, rules.max_optimal, settings.objectives), rng, f"structures round {number}")

    def child(parent: Net) -> Net:
        return mutate(parent, rng, rules.mutation, settings.space, settings.detector)

    return children_of(draw_parent, child, known, rules.candidates, settings.budget, cost_of)


def chosen_structures(ledger: Ledger, settings: Run) -> list[Trial]:
    """Structures that the serial search goes on with, spread over the front, the best in the first objective first."""
    assert settings.structures
    trials = [trial for trial in ledger if trial.stage in SHARED]
    found = [trial for _, trial in spread_best(trials, settings.structures.chosen, settings.objectives)]
    return sorted(found, key=lambda trial: (-trial.value(settings.objectives[0]), trial.digest))


def families(ledger: Ledger, settings: Run) -> list[list[Trial]]:
    """Trials of a ledger from which each of the serial searches goes on: all, or each chosen structure with its descendants."""
    if not settings.structures:
        return [list(ledger)]
    found = [[root] for root in chosen_structures(ledger, settings)]
    for trial in ledger:
        if trial.stage not in SHARED:
            for members in found:
                if trial.parent in {one.digest for one in members}:
                    members.append(trial)
    return found


def courses(ledger: Ledger, settings: Run) -> list[Course]:
    """Courses of the serial searches, one for each family; a structure is what its search starts from."""
    if not settings.structures:
        return [course_of(ledger, settings)]
    return [course_of([replace(root, round=0), *members], settings) for root, *members in families(ledger, settings)]


def parallel_parents(ledger: Ledger, origins: Ledger, settings: Run) -> list[Trial]:
    """Nets that get parallel copies: the best of each family, as they are in `ledger`; `origins` are the same trials as they were tried."""
    digests = [
        one.digest for members in families(origins, settings) for one in best(members, settings.parallel.parents, settings.objectives)
    ]
    return [trial for digest in digests for trial in ledger if trial.digest == digest]


def finalists(ledger: Ledger, chosen: Trial, settings: Run) -> list[Trial]:
    """Nets, spread over the front, that are trained to the end beside the `chosen` one, the cheapest first."""
    if not settings.structures:
        return []
    count = settings.structures.finals
    found: Sequence[Trial] = [trial for _, trial in spread_best(ledger, count + 1, settings.objectives) if trial.digest != chosen.digest]
    return sorted(found[:count], key=lambda trial: (trial.value("macs"), trial.digest))
