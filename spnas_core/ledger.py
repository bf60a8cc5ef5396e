"""The ledger: every finished trial of a run, and what follows from it alone (ranks, the best, the winner, when to reignite).

A trial is ranked on (AP up, cost down); one that failed is never ranked, but its architecture is not proposed again.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from spnas_core.config import Detector, Taps
from spnas_core.errors import UserError
from spnas_core.pareto import hypervolume, pareto_rank

Stage = Literal["fine_tune", "serial", "parallel"]
STAGES: tuple[Stage, ...] = ("fine_tune", "serial", "parallel")


@dataclass(frozen=True)
class Trial:
    """One candidate that was tried: its architecture (text), where it stood in the search, and its metrics or why it failed.

    `parent` and `digest` name train artifacts; `metrics` are those of its manifest (AP as a fraction, "macs", "params"). `taps` are those
    of its pyramid.
    """

    arch: str
    stage: Stage
    round: int
    index: int
    parent: str | None
    digest: str
    metrics: dict[str, Any] | None = field(default=None, hash=False)
    failure: str | None = None
    taps: Taps | None = None

    @property
    def ap(self) -> float:
        """AP of the validation split, a fraction; nan where there is none."""
        return float(self.metrics["AP"]) if self.metrics and self.failure is None else math.nan

    def detector(self, settings: Detector) -> Detector:
        """Give the settings of its detector, those of the run being `settings`."""
        return settings.model_copy(update={"taps": self.taps})


Ledger = Sequence[Trial]


def ranked(ledger: Iterable[Trial]) -> list[Trial]:
    """Return the trials that have an AP, in the order of the search."""
    return sorted((trial for trial in ledger if trial.ap >= 0), key=lambda t: (STAGES.index(t.stage), t.round, t.index, t.digest))


def _ranks(trials: Sequence[Trial], cost: str) -> list[int]:
    return pareto_rank([(trial.ap, float((trial.metrics or {})[cost])) for trial in trials])


def pareto_front(ledger: Ledger, cost: str = "macs") -> list[Trial]:
    """Return the trials that no other beats on (AP up, `cost` down), cheapest first."""
    trials = ranked(ledger)
    front = [trial for trial, rank in zip(trials, _ranks(trials, cost), strict=True) if not rank]
    return sorted(front, key=lambda t: ((t.metrics or {})[cost], t.digest))


def ranked_best(ledger: Ledger, n: int, cost: str = "macs") -> list[tuple[int, Trial]]:
    """Return the `n` best trials with their Pareto ranks on (AP up, `cost` down); of equal rank by AP, then by digest."""
    trials = ranked(ledger)
    order = sorted(zip(_ranks(trials, cost), trials, strict=True), key=lambda pair: (pair[0], -pair[1].ap, pair[1].digest))
    return order[:n]


def best(ledger: Ledger, n: int, cost: str = "macs") -> list[Trial]:
    """Return the `n` best trials by Pareto rank on (AP up, `cost` down), then by AP, then by digest."""
    return [trial for _, trial in ranked_best(ledger, n, cost)]


def winner(ledger: Ledger) -> Trial:
    """Return the trial of highest AP; of equal ones that with fewest MACs, then by digest. UserError where none has an AP."""
    trials = ranked(ledger)
    if not trials:
        raise UserError("expected at least one trial with an AP, got none: every candidate failed")
    return min(trials, key=lambda t: (-t.ap, (t.metrics or {})["macs"], t.digest))


def stuck(ledger: Ledger, n_stuck: int, since: int = 0, cost: str = "macs") -> bool:
    """Whether the last `n_stuck` serial rounds, all after round `since`, gained no hyper-volume of (AP up from 0, `cost` down)."""
    trials = [trial for trial in ledger if trial.stage != "parallel"]
    last = max((trial.round for trial in trials), default=0)
    points = [(trial.round, (trial.ap, float((trial.metrics or {})[cost]))) for trial in ranked(trials)]
    if last - since < n_stuck or not points:
        return False
    reference = (0.0, 1.1 * max(point[1] for _, point in points) + 1.0)
    before = hypervolume([point for number, point in points if number <= last - n_stuck], reference)
    return hypervolume([point for _, point in points], reference) <= before


def reignitions(ledger: Ledger, n_stuck: int, max_reignite: int, cost: str = "macs") -> tuple[int, ...]:
    """Return the serial rounds after which the search reignites, at most `max_reignite`; the finished rounds alone say it."""
    last = max((trial.round for trial in ledger if trial.stage == "serial"), default=0)
    found: list[int] = []
    for number in range(1, last + 1):
        finished = [trial for trial in ledger if trial.stage != "parallel" and trial.round <= number]
        if len(found) < max_reignite and stuck(finished, n_stuck, found[-1] if found else 0, cost):
            found.append(number)
    return tuple(found)
