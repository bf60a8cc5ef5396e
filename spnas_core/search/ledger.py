"""Ledger of a run: its finished trials, and the pure functions of them: ranks, the best, the winner, reignitions.

A trial is ranked on the objectives of the run: the first is AP or AP50, and decides wherever there can be but one winner. Ranked are
the trials that were trained to the end of their training; one that failed, or that stopped at a rung, never is, but its architecture
is not proposed again.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spnas_core.errors import UserError
from spnas_core.job import Weights
from spnas_core.search.net import NetText
from spnas_core.search.pareto import Point, first_ranks, hypervolumes, spread
from spnas_core.settings.run import Run
from spnas_core.settings.search import OBJECTIVES, SCORES, Objectives

SearchStage = Literal["fine_tune", "structures", "serial", "parallel"]
SEARCH_STAGES: tuple[SearchStage, ...] = ("fine_tune", "structures", "serial", "parallel")  # in their order


@dataclass(frozen=True)
class Trial:
    """Tried candidate: its net, its place in the search, and its metrics or the reason of its failure.

    `digest` names its train artifact, `parent` that of its parent; `metrics` are those of the manifest (AP as a fraction, "macs",
    "params"). `rung`: the epochs after which it was stopped, or failed, in successive halving; None for a training to its end. `weights`:
    those that its children inherit; `score`: the metric by which its task shows a net; both None for a failed trial.

    `estimate`: the scores that it is ranked by, where those are not the scores of its own training at the end. `repeats`: train artifacts
    of the same net with further seeds; `controls`: of its parent trained on, one for each seed; `folds`: of the same net
    on each fold, empty where one failed; the estimate is made of all of them.
    """

    net: NetText
    stage: SearchStage
    round: int
    index: int
    parent: str | None
    digest: str
    metrics: dict[str, Any] | None = field(default=None, hash=False)
    failure: str | None = None
    rung: int | None = None
    weights: Weights | None = None
    score: float | None = None
    estimate: dict[str, float] | None = field(default=None, hash=False)
    repeats: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()

    @property
    def arch(self) -> str:
        """Text of its backbone."""
        return str(self.net.arch)

    @property
    def trainings(self) -> tuple[str, ...]:
        """Digests of its training and of those that its estimate is made of."""
        return (self.digest, *self.repeats, *self.controls, *filter(None, self.folds))

    def value(self, name: str) -> float:
        """Metric `name`, of a score the estimate where there is one; nan for a failed trial."""
        return float({**self.metrics, **(self.estimate or {})}[name]) if self.metrics and self.failure is None else math.nan

    def point(self, objectives: Objectives) -> Point:
        """Return the objectives as a point of `pareto`: the first and costs as they are, any other score with a minus."""
        first, *others = objectives
        return (self.value(first), *(-self.value(name) if name in SCORES else self.value(name) for name in others))


Ledger = Sequence[Trial]


def ranked(ledger: Iterable[Trial], objectives: Objectives = OBJECTIVES) -> list[Trial]:
    """Return the trials trained to their end that have all objectives (an AP of -1 is none), in the order of the search."""
    found = [trial for trial in ledger if trial.rung is None and all(trial.value(name) >= 0 for name in objectives)]
    return sorted(found, key=lambda t: (_place(t.stage, t.round), t.index, t.digest))


def has_scores(trial: Trial, objectives: Objectives) -> bool:
    """Whether a trial has a score above 0 in every score among the objectives: else it dominates nothing of the box of `volumes`."""
    return all(trial.value(name) > 0 for name in objectives if name in SCORES)


def pareto_front(ledger: Ledger, objectives: Objectives = OBJECTIVES) -> list[Trial]:
    """Return the trials that no other beats in the objectives, cheapest first."""
    trials = ranked(ledger, objectives)
    front = [trial for trial, rank in zip(trials, first_ranks(_points(trials, objectives), 1), strict=True) if not rank]
    return sorted(front, key=lambda t: (t.value("macs"), t.digest))


def ranked_best(ledger: Ledger, n: int, objectives: Objectives = OBJECTIVES) -> list[tuple[int, Trial]]:
    """Return the `n` best trials with their Pareto ranks; of equal rank by the first objective, then by digest."""
    trials = ranked(ledger, objectives)
    return first_best(trials, _points(trials, objectives), n, objectives)


def first_best(
    trials: Sequence[Trial], points: Sequence[Point] | npt.NDArray[np.float64], n: int, objectives: Objectives
) -> list[tuple[int, Trial]]:
    """Return the `n` best of ranked trials, given with their points, as `ranked_best` does."""
    pairs = [(rank, trial) for rank, trial in zip(first_ranks(points, n), trials, strict=True) if rank >= 0]
    return sorted(pairs, key=lambda pair: (pair[0], -pair[1].value(objectives[0]), pair[1].digest))[:n]


def spread_best(ledger: Ledger, n: int, objectives: Objectives) -> list[tuple[int, Trial]]:
    """Return `n` trials of the first Pareto ranks, with these; of the last rank that counts those that add most hyper-volume."""
    trials = sorted(ranked(ledger, objectives), key=lambda t: (-t.value(objectives[0]), t.digest))
    points, reference = _in_one_box(trials, objectives)
    ranks, found = first_ranks(points, n), list[int]()
    for rank in range(max(ranks, default=-1) + 1):
        members = [place for place, one in enumerate(ranks) if one == rank]
        kept = [points[place] for place in found]
        found += [members[place] for place in spread([points[place] for place in members], n - len(found), reference, kept)]
    return [(ranks[place], trials[place]) for place in found]


def _in_one_box(trials: Sequence[Trial], objectives: Objectives) -> tuple[list[Point], Point]:
    """Points of ranked trials, each cost as a share of 1.1 times the highest, and the corner of the box: a score of 0, costs 1."""
    highest = {name: max((trial.value(name) for trial in trials), default=0.0) for name in objectives}
    scales = [1.0 if name in SCORES else 1.1 * highest[name] or 1.0 for name in objectives]
    points = [tuple(value / scale for value, scale in zip(trial.point(objectives), scales, strict=True)) for trial in trials]
    return list(points), tuple(0.0 if name in SCORES else 1.0 for name in objectives)


def _points(trials: Sequence[Trial], objectives: Objectives) -> list[Point]:
    return [trial.point(objectives) for trial in trials]


def best(ledger: Ledger, n: int, objectives: Objectives = OBJECTIVES) -> list[Trial]:
    """Return the `n` best trials by Pareto rank, then by the first objective, then by digest."""
    return [trial for _, trial in ranked_best(ledger, n, objectives)]


def survivors(trials: Ledger, keep: float, objectives: Objectives = OBJECTIVES) -> list[Trial]:
    """Return the trials of one round that pass a rung: the best by `best`, the share `keep` of all, rounded up.

    They compete only with each other, since they have equal epochs; a failed trial never passes.
    """
    standing = {trial.digest: trial for trial in trials}
    found = best([replace(trial, rung=None) for trial in trials], math.ceil(keep * len(trials)), objectives)
    return [standing[trial.digest] for trial in found]


def winner(ledger: Ledger, objectives: Objectives = OBJECTIVES) -> Trial:
    """Return the trial best in the first objective; of equal ones that with fewest MACs, then by digest. UserError where none is ranked."""
    trials = ranked(ledger, objectives)
    if not trials:
        raise UserError(f"expected at least one trial with an {objectives[0]}, got none: every candidate failed")
    return min(trials, key=lambda t: (-t.value(objectives[0]), t.value("macs"), t.digest))


def volumes(ledger: Ledger, objectives: Objectives = OBJECTIVES) -> dict[tuple[SearchStage, int], float]:
    """Hyper-volume of all trials so far after each round of `ledger`, in the order of the search, as a share of one box.

    The box reaches from a score of 0 to 1 and, for each cost, from 0 to 1.1 times the highest of these trials; so the numbers of one ledger
    can be compared with each other, and those of two ledgers cannot.
    """
    trials = ranked(ledger, objectives)
    points, reference = _in_one_box(trials, objectives)
    groups: dict[tuple[SearchStage, int], list[Point]] = {
        place: [] for place in sorted({(trial.stage, trial.round) for trial in ledger}, key=lambda one: _place(*one))
    }
    for trial, point in zip(trials, points, strict=True):
        groups[trial.stage, trial.round].append(point)
    return dict(zip(groups, hypervolumes(groups.values(), reference), strict=True))


def _place(stage: SearchStage, number: int) -> tuple[int, int]:
    return SEARCH_STAGES.index(stage), number


def chosen_net(ledger: Ledger, settings: Run) -> tuple[Trial, list[str]]:
    """Choose the net for the full training, as in the paper the best parallel one; the notes say where another was ahead.

    Or as `settings.final` says: the best of all, or the cheapest whose score is hardly below the start net's.
    """
    objectives, score = settings.objectives, settings.objectives[0]
    first, candidates = winner(ledger, objectives), [trial for trial in ledger if trial.stage == "parallel"]
    if settings.final.choose == "best":
        return first, []
    if settings.final.choose == "cheapest":
        return _cheapest(ledger, settings), []
    stage = "start" if first.stage == "fine_tune" else first.stage
    if not ranked(candidates, objectives):
        return first, [f"No parallel net was trained with success: the final net is the best of all, the {stage} net {first.arch}."]
    chosen = winner(candidates, objectives)
    if first.value(score) <= chosen.value(score):
        return chosen, []
    ahead = f"After the short trainings the {stage} net {first.arch} was ahead of the best parallel net"
    figures = f"{score} {100 * first.value(score):.1f} against {100 * chosen.value(score):.1f}"
    return chosen, [f"{ahead} ({figures}); as in the paper, the parallel net is the final one."]


def _cheapest(ledger: Ledger, settings: Run) -> Trial:
    """Return the trial with the lowest second objective of those that are hardly worse than the start net; the best where none is."""
    objectives = settings.objectives
    trials = ranked(ledger, objectives)
    start = [trial.value(objectives[0]) for trial in trials if trial.stage == "fine_tune"]
    least = max(start, default=0.0) - settings.final.margin
    enough = [trial for trial in trials if trial.value(objectives[0]) >= least]
    return min(enough, key=lambda t: (t.value(objectives[1]), -t.value(objectives[0]), t.digest)) if enough else winner(ledger, objectives)


def epochs_behind(ledger: Ledger, trial: Trial, settings: Run, reignited: Collection[str] = ()) -> int:
    """Epochs of a trial and its ancestors after the start net's training; of an ancestor in `reignited` (digests) also its reignition's.

    A finalist of a supernet has the supernet's epochs behind it too.
    """
    structures = settings.structures.recipe.epochs if settings.structures else 0
    of_stage = {"structures": structures, "serial": settings.serial.recipe.epochs, "parallel": settings.parallel.recipe.epochs}
    by_digest, total = {one.digest: one for one in ledger}, 0
    here: Trial | None = trial
    while here is not None and here.stage != "fine_tune":
        total += here.rung or of_stage[here.stage]
        if here.parent is None and settings.serial.evaluator == "supernet":
            total += settings.serial.supernet.recipe.epochs
        here = by_digest.get(here.parent or "")
        if here is not None and here.digest in reignited:
            total += settings.reignite.epochs
    return total
