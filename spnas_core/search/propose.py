"""Proposers: pure functions of the ledger, the settings and the seed.

A round's proposals depend only on earlier rounds, in the order (stage, round, index): they do not depend on the order in which candidates
finish, and a killed search continues to the same end without any state of its own.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from spnas_core.arch import ArchError
from spnas_core.cost import stage_macs
from spnas_core.errors import UserError
from spnas_core.necks import with_taps
from spnas_core.search.costs import CostOf, within
from spnas_core.search.course import Course
from spnas_core.search.ledger import Ledger, SearchStage, Trial
from spnas_core.search.mutation import mutate
from spnas_core.search.net import Net
from spnas_core.search.pareto import pareto_rank
from spnas_core.settings.run import Run
from spnas_core.settings.search import Budget

_STREAMS: dict[SearchStage, int] = {"fine_tune": 0, "serial": 1, "parallel": 2, "structures": 3}  # of random numbers
DRAWS = 200  # tries per candidate, before a round is given fewer candidates


class Proposal(NamedTuple):
    """Child to try, and the trial whose weights it inherits."""

    net: Net
    parent: Trial


def generator(seed: int, stage: SearchStage, number: int, family: int = 0) -> np.random.Generator:
    """Random numbers of a round; `family`: which of the searches that go on side by side it belongs to."""
    words = [seed, _STREAMS[stage], number, *((family,) if family else ())]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def propose_serial(ledger: Ledger, settings: Run, number: int, cost_of: CostOf) -> list[Proposal]:
    """Children for serial round `number` (from 1), from all rounds before it.

    Parents are the `max_optimal` best, drawn with weight 1 / (1 + Pareto rank), or as another proposer draws them; after a
    reignition the reignited net alone, so that the search continues from the new weights. Children are new to the ledger and to each
    other, in the space and within the budget; they may be fewer than `candidates`. UserError where no trial can be a parent.
    """
    finished = [trial for trial in ledger if trial.stage == "fine_tune" or (trial.stage == "serial" and trial.round < number)]
    return propose_next(course_of(finished, settings), settings, number, cost_of)


def course_of(ledger: Ledger, settings: Run) -> Course:
    """Course of a search with these settings."""
    return Course(ledger, settings.serial.n_stuck, settings.serial.max_reignite, settings.objectives)


def propose_next(
    course: Course,
    settings: Run,
    number: int,
    cost_of: CostOf,
    as_parent: Callable[[Trial], Trial] = lambda trial: trial,
    known: Collection[Hashable] = (),
    family: int = 0,
) -> list[Proposal]:
    """Children for serial round `number`, the next of a search, as `propose_serial`; `as_parent` gives a trial as their parent.

    `known`: identities of nets tried outside of the course; `family`: the number of the search, where several go on side by side.
    """
    serial, rng = settings.serial, generator(settings.seed, "serial", number, family)
    draw_parent = _parents(course, settings, number, rng)

    def child(parent: Net) -> Net:
        anew = serial.proposer == "random"
        return mutate(parent, rng, serial.mutation, settings.space, settings.detector, serial.parts(number), anew)

    return children_of(lambda: as_parent(draw_parent()), child, {*course.tried, *known}, serial.candidates, settings.budget, cost_of)


def children_of(
    draw_parent: Callable[[], Trial],
    child_of: Callable[[Net], Net],
    known: Collection[Hashable],
    count: int,
    budget: Budget,
    cost_of: CostOf,
) -> list[Proposal]:
    """Draw up to `count` children that are new to `known` and to each other, and within the budget."""
    seen, found = set(known), list[Proposal]()
    for _ in range(DRAWS * count):
        parent = draw_parent()
        try:
            child = child_of(parent.net)
            fits = child.identity not in seen and within(cost_of(child), budget)
        except ArchError:  # a space so tight that this parent has no child, where another may have one; or a block without channels
            continue
        if fits:
            seen.add(child.identity)
            found.append(Proposal(child, parent))
            if len(found) == count:
                break
    return found


def _parents(course: Course, settings: Run, number: int, rng: np.random.Generator) -> Callable[[], Trial]:
    """Draw of a parent for serial round `number`, as the settings' proposer does it; after a reignition the reignited net alone."""
    serial = settings.serial
    if serial.proposer == "pareto" or number - 1 in course.reignitions:
        parents = course.best(serial.max_optimal)
    else:
        population = course.last(serial.ageing.population if serial.proposer == "ageing" else len(course.tried))
        ranks = pareto_rank([trial.point(settings.objectives) for trial in population])
        parents = list(zip(ranks, population, strict=True))
    if number - 1 in course.reignitions:
        parents = [(0, course.reignitions[number - 1])]
    if not parents:
        raise UserError(f"serial round {number}: expected a finished trial to start from, got none")
    if serial.proposer == "ageing":

        def winner_of_some() -> Trial:
            places = map(int, rng.choice(len(parents), min(serial.ageing.tournament, len(parents)), replace=False))
            drawn = [parents[place] for place in places]
            return min(drawn, key=lambda one: (one[0], -one[1].value(settings.objectives[0]), one[1].digest))[1]

        return winner_of_some
    return weighted([(rank if serial.proposer == "pareto" else 0, trial) for rank, trial in parents], rng, f"serial round {number}")


def weighted(parents: Sequence[tuple[int, Trial]], rng: np.random.Generator, where: str) -> Callable[[], Trial]:
    """Draw of a parent with weight 1 / (1 + Pareto rank); UserError where there is none."""
    if not parents:
        raise UserError(f"{where}: expected a finished trial to start from, got none")
    weights = np.array([1 / (1 + rank) for rank, _ in parents])
    return lambda: parents[int(rng.choice(len(parents), p=weights / weights.sum()))][1]


def levelled(ledger: Ledger) -> list[Trial]:
    """Trials with equal metrics, all of Pareto rank 0, so that the proposers draw parents uniformly."""
    return [
        replace(trial, metrics=dict.fromkeys(trial.metrics or {}, 1.0), estimate=None) if (trial.score or -1.0) >= 0 else trial
        for trial in ledger
    ]


def propose_children(ledger: Ledger, settings: Run, number: int, count: int, cost_of: CostOf) -> list[Proposal]:
    """Propose `count` children by the operators of serial round `number`, with parents drawn uniformly from all of `ledger`.

    With the start net alone, the first ones equal the children of the search's first round, since both use the same seed.
    """
    serial = settings.serial.model_copy(update={"candidates": max(1, count), "max_optimal": len(ledger), "max_reignite": 0})
    return propose_serial(levelled(ledger), settings.model_copy(update={"serial": serial}), number, cost_of)[:count]


def grow_copies(start: Net, rng: np.random.Generator, settings: Run, cost_of: CostOf) -> Net:
    """Add copies to `start`, one at a time, to a stage drawn by 1 / MACs, up to a drawn total or the upper limits of the budget."""
    most = settings.parallel.max_parallel
    own = start.detector(settings.detector)
    rarity = 1 / np.array(stage_macs(start.arch, own.image_size, own.base_width), dtype=np.float64)
    copies = np.zeros(len(start.arch.stages), dtype=np.int64)
    grown = start
    for _ in range(int(rng.integers(1, most * len(copies) + 1))):
        chances = np.where(copies < most, rarity, 0.0)
        copies[rng.choice(len(copies), p=chances / chances.sum())] += 1
        larger = replace(start, arch=start.arch.with_parallel(tuple(map(int, copies))))
        if not within(cost_of(larger), settings.budget, lower=False):
            break
        grown = larger
    return grown


def propose_parallel(parents: Sequence[Trial], settings: Run, cost_of: CostOf, ledger: Ledger = ()) -> list[Proposal]:
    """Children of the parallel search, dealt out to `parents` in turn: the serial part of a parent with copies beside its stages.

    Where the settings list taps of the pyramid, each child draws its own, all equally likely; else it has those of its parent.
    Children are new to `ledger` and to each other, and within the budget; their number may be lower than `candidates`.
    """
    if not parents:
        raise UserError("parallel search: expected a serial net to start from, got none")
    rng = generator(settings.seed, "parallel", 0)
    known = {trial.net.identity for trial in (*parents, *ledger)}
    known |= {replace(trial.net, arch=trial.net.arch.serial()).identity for trial in parents}
    found: list[Proposal] = []
    for draw in range(DRAWS * settings.parallel.candidates):
        parent = parents[draw % len(parents)]
        start = replace(parent.net, arch=parent.net.arch.serial())
        if choice := settings.parallel.taps:
            start = replace(start, neck=with_taps(start.neck, choice[int(rng.integers(len(choice)))]))
        child = grow_copies(start, rng, settings, cost_of)
        if child.identity not in known and within(cost_of(child), settings.budget):
            known.add(child.identity)
            found.append(Proposal(child, parent))
            if len(found) == settings.parallel.candidates:
                break
    return found
