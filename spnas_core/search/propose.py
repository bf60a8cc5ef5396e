"""Proposing: pure functions of the ledger, the settings and the seed.

Only the rounds before its own decide what a round proposes, in the order (stage, round, index); so the same children come out
whatever the order in which candidates finished, and a killed search goes on to the same end with no state of its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from spnas_core.arch import Arch, ArchError, parse
from spnas_core.cost import Cost, backbone_cost, stage_macs
from spnas_core.errors import UserError
from spnas_core.necks import taps_of, with_taps
from spnas_core.necks.fpn import Fpn
from spnas_core.search.ledger import (
    SEARCH_STAGES,
    Ledger,
    SearchStage,
    Trial,
    ranked,
    ranked_best,
    reignitions,
    winner,
)
from spnas_core.search.mutation import mutate
from spnas_core.settings.base import Limit, Taps
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run
from spnas_core.settings.search import MEASURED, Budget

CostOf = Callable[[Arch, Detector], Cost]
DRAWS = 200  # tries per candidate, before a round is given fewer candidates


class Proposal(NamedTuple):
    """A child, the trial whose weights it inherits, and the settings of its detector."""

    arch: Arch
    parent: Trial
    detector: Detector


@lru_cache(maxsize=4096)
def candidate_cost(arch: Arch, detector: Detector, classes: int) -> Cost:
    """Cost of the whole detector of `detector` with the backbone `arch`, in inference at its image size; `classes` without background."""
    size, neck = detector.image_size, detector.neck
    backbone = backbone_cost(arch, size, detector.base_width, detector.stem, detector.share_weights)
    maps = [output.size for output in neck.outputs(arch, size)]
    return backbone + neck.cost(arch, size, detector.base_width) + detector.head.cost(neck.channels, maps, classes)


def _inside(value: float, limit: Limit) -> bool:
    low, high = limit
    return (low is None or value >= low) and (high is None or value <= high)


def over_budget(measured: Mapping[str, float], budget: Budget) -> str | None:
    """Say which measured value is outside of `budget`, if one is."""
    for name in MEASURED:
        if not _inside(measured[name], limit := getattr(budget, name)):
            return f"{name}: expected {limit[0] or 0:g} to {limit[1] or math.inf:g}, got {measured[name]:.4g}"
    return None


def within(cost: Cost, budget: Budget, lower: bool = True) -> bool:
    """Whether `cost` lies in `budget`; without `lower` only the upper limits count."""
    pairs = ((cost.params / 1e6, budget.params_m), (cost.macs / 1e9, budget.gmacs))
    return all(_inside(value, limit if lower else (None, limit[1])) for value, limit in pairs)


def _generator(seed: int, stage: SearchStage, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, SEARCH_STAGES.index(stage), number])))


def propose_serial(ledger: Ledger, settings: Run, number: int, cost_of: CostOf) -> list[Proposal]:
    """Children for serial round `number` (from 1), from all rounds before it.

    Parents are the `max_optimal` best, drawn with weight 1 / (1 + Pareto rank); right after a reignition it is the reignited net alone, so
    that the search does go on from the new weights. Children are new to the ledger and to each other, in
    the space and within the budget; fewer than asked for where too few are found. UserError where no trial can be a parent.
    """
    serial = settings.serial
    finished = [trial for trial in ledger if trial.stage == "fine_tune" or (trial.stage == "serial" and trial.round < number)]
    parents = ranked_best(finished, serial.max_optimal, settings.objectives)
    reignited = reignitions(finished, serial.n_stuck, serial.max_reignite, settings.objectives)
    if number - 1 in reignited:
        parents = [(0, reignited[number - 1])]
    if not parents:
        raise UserError(f"serial round {number}: expected a finished trial to start from, got none")
    weights = np.array([1 / (1 + rank) for rank, _ in parents])
    rng = _generator(settings.seed, "serial", number)
    known = {str(parse(trial.arch)) for trial in finished}
    found: list[Proposal] = []
    for _ in range(DRAWS * serial.candidates):
        parent = parents[int(rng.choice(len(parents), p=weights / weights.sum()))][1]
        try:
            child = mutate(parse(parent.arch), rng, serial.mutation, settings.space)
        except ArchError:  # a space so tight that this parent has no child; another may have one
            continue
        detector = parent.detector(settings.detector)
        if str(child) not in known and within(cost_of(child, detector), settings.budget):
            known.add(str(child))
            found.append(Proposal(child, parent, detector))
            if len(found) == serial.candidates:
                break
    return found


def _grow(start: Arch, detector: Detector, rng: np.random.Generator, settings: Run, cost_of: CostOf) -> Arch:
    """Add copies to `start`, one at a time, to a stage drawn by 1 / MACs, up to a drawn total or the upper limits of the budget."""
    most = settings.parallel.max_parallel
    rarity = 1 / np.array(stage_macs(start, settings.detector.image_size, settings.detector.base_width), dtype=np.float64)
    copies = np.zeros(len(start.stages), dtype=np.int64)
    grown = start
    for _ in range(int(rng.integers(1, most * len(copies) + 1))):
        chances = np.where(copies < most, rarity, 0.0)
        copies[rng.choice(len(copies), p=chances / chances.sum())] += 1
        larger = start.with_parallel(tuple(map(int, copies)))
        if not within(cost_of(larger, detector), settings.budget, lower=False):
            break
        grown = larger
    return grown


def _likeness(arch: Arch, taps: Taps | None) -> tuple[str, Taps]:
    """Give what two candidates share that are the same net."""
    return str(arch), Fpn(taps=taps).reads(arch)


def propose_parallel(parents: Sequence[Trial], settings: Run, cost_of: CostOf, ledger: Ledger = ()) -> list[Proposal]:
    """Children of the parallel search, dealt out to `parents` in turn: the serial part of a parent with copies beside its stages.

    Where the settings list taps of the pyramid, each child draws its own, all equally likely; else it has those of its parent.
    Children are new to `ledger` and to each other, and within the budget; fewer than asked for where too few are found.
    """
    if not parents:
        raise UserError("parallel search: expected a serial net to start from, got none")
    rng = _generator(settings.seed, "parallel", 0)
    known = {_likeness(parse(trial.arch), trial.taps) for trial in (*parents, *ledger)}
    known |= {_likeness(parse(trial.arch).serial(), trial.taps) for trial in parents}
    found: list[Proposal] = []
    for draw in range(DRAWS * settings.parallel.candidates):
        parent = parents[draw % len(parents)]
        detector = parent.detector(settings.detector)
        if choice := settings.parallel.taps:
            detector = detector.model_copy(update={"neck": with_taps(detector.neck, choice[int(rng.integers(len(choice)))])})
        child = _grow(parse(parent.arch).serial(), detector, rng, settings, cost_of)
        likeness = _likeness(child, taps_of(detector.neck))
        if likeness not in known and within(cost_of(child, detector), settings.budget):
            known.add(likeness)
            found.append(Proposal(child, parent, detector))
            if len(found) == settings.parallel.candidates:
                break
    return found


def chosen_net(ledger: Ledger, settings: Run) -> tuple[Trial, list[str]]:
    """Choose the net that is trained to the end, as in the paper the best parallel one, and say so where another was ahead."""
    objectives, score = settings.objectives, settings.objectives[0]
    first, candidates = winner(ledger, objectives), [trial for trial in ledger if trial.stage == "parallel"]
    stage = "start" if first.stage == "fine_tune" else first.stage
    if not ranked(candidates, objectives):
        return first, [f"No parallel net was trained with success: the final net is the best of all, the {stage} net {first.arch}."]
    chosen = winner(candidates, objectives)
    if first.value(score) <= chosen.value(score):
        return chosen, []
    ahead = f"After the short trainings the {stage} net {first.arch} was ahead of the best parallel net"
    figures = f"{score} {100 * first.value(score):.1f} against {100 * chosen.value(score):.1f}"
    return chosen, [f"{ahead} ({figures}); as in the paper, the parallel net is the final one."]
