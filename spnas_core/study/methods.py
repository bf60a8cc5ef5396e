"""Studies of the search: their records, equal training budgets, and the test for a difference.

Budget: all epochs that a method trains until its net is chosen, whatever the cost of the net; an epoch of reignition counts as one, though
it takes less time. The settings determine the budget of SP-NAS; with each seed the other methods get the same budget.
Tie: the 95 % confidence interval of the mean difference over the seeds (paired, Student's t) contains 0.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field
from scipy import stats

from spnas_core.data.images import Doubles
from spnas_core.job import TrainJob
from spnas_core.search.ledger import Ledger
from spnas_core.settings.base import Settings
from spnas_core.settings.run import Run
from spnas_core.settings.task import Score, TaskName

SimpleMethod = Literal["start", "scratch", "random"]
SIMPLE_METHODS: tuple[SimpleMethod, ...] = get_args(SimpleMethod)
Method = Literal[SimpleMethod, "spnas"]
METHODS: dict[Method, str] = {
    "start": "start net, trained longer",
    "scratch": "random nets from scratch",
    "random": "random search, inherited",
    "spnas": "SP-NAS",
}
RESAMPLES = 2000
ARRIVES: dict[TaskName, Score] = {"detection": "AP50", "segmentation": "mIoU"}  # what a race of trainings is to come to


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def tie(self) -> bool:
        """Whether the interval contains 0."""
        return self.low <= 0 <= self.high

    @property
    def verdict(self) -> str:
        """Verdict of the comparison: `tie`, `better` or `worse`."""
        return "tie" if self.tie else "better" if self.mean > 0 else "worse"


class StudyEntry(Settings):
    """Entry of a study's record; `artifacts` (KIND/DIGEST) are all trainings that it derives from."""

    arch: str
    artifacts: tuple[str, ...]


class Outcome(StudyEntry):
    """Result of one method with one seed; `val` and `test` are scores of the chosen net after the final training, fractions.

    The final training is the last of `artifacts`. `behind`: how far the net is behind SP-NAS's of the same seed in the task's score, over
    the images of test; `all_behind`: the mean of that over the seeds. SP-NAS has neither, nor have records of earlier versions.
    """

    method: Method
    seed: int
    nets: int
    failed: int
    epochs: int
    minutes: float
    params: int
    macs: int
    val: dict[str, float]
    test: dict[str, float]
    behind: Difference | None = None
    all_behind: Difference | None = None


class Forecast(StudyEntry):
    """Val score, AP or mIoU, of one net after its short training, as in the search, and after the full one that continues it; fractions.

    `short` is that at the end of the training, `short50` the task's second score there (AP50, or pixel accuracy), `estimate` what the
    search ranks by (its first objective, and what the settings make of that); `long` is a mean where there are several seeds. Earlier
    versions had only `short` and `long`.
    """

    short: float
    long: float
    short50: float | None = None
    estimate: float | None = None
    macs: int = 0
    net: str = ""
    path: dict[str, float] = Field(default={}, description="scores as a path of a supernet, where it was one")
    opinions: dict[str, float | None] = Field(default={}, description="second opinions on it, see search/opinions.py; none in old records")

    @property
    def ranked_by(self) -> float:
        """Score that the search ranks it by."""
        return self.short if self.estimate is None else self.estimate


class Arrival(StudyEntry):
    """Training time of one child to the score (`ARRIVES`) of its short training: on inherited weights, and from scratch.

    Epochs and seconds (see `training_seconds`) are those of the first evaluation that reached `target`. If no training from scratch did
    (`reached` is false), they are those of the longest one: a lower bound.
    """

    target: float
    inherited_epochs: int
    inherited_seconds: float
    scratch_epochs: int
    scratch_seconds: float
    scratch_length: int
    reached: bool


def deal(total: int, least: int) -> tuple[int, ...]:
    """Split `total` epochs into as many trainings of at least `least` epochs as possible; lengths differ by at most one epoch.

    One training if `total` is less than `least`, none if it is 0.
    """
    count = max(1, total // least) if total > 0 else 0
    return tuple(total // count + (number < total % count) for number in range(count))


def epochs_of(jobs: Iterable[TrainJob]) -> int:
    """Sum of the epochs of trainings, failed ones included."""
    return sum(job.recipe.epochs for job in jobs)


def search_epochs(ledger: Ledger, settings: Run, reignitions: int) -> int:
    """Epochs that SP-NAS spent on a ledger: of each trial up to its rung if it stopped there, else its full recipe, even if it failed.

    Further seeds and folds count, and so does each control, once, and the training of a supernet.
    """
    planned = {"fine_tune": settings.fine_tune, "serial": settings.serial.recipe, "parallel": settings.parallel.recipe}
    controls = {digest: planned[trial.stage].epochs for trial in ledger for digest in trial.controls}
    more = sum((len(trial.repeats) + len(trial.folds)) * planned[trial.stage].epochs for trial in ledger)
    spent = more + sum(trial.rung or planned[trial.stage].epochs for trial in ledger)
    supernet = settings.serial.supernet.recipe.epochs if settings.serial.evaluator == "supernet" else 0
    return spent + sum(controls.values()) + reignitions * settings.reignite.epochs + supernet


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Difference of two methods' scores, (S,) each, ours[i] and theirs[i] of the same seed; S is at least 2. Source: Student's paired t."""
    values = np.subtract(ours, theirs)
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    mean = float(values.mean())
    return Difference(mean, mean - half, mean + half)


def bootstrap_interval(statistic: Callable[[Doubles], float], values: Doubles, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap percentile interval of a statistic of the rows of `values`; resamples where it is nan are left out, nan if all are."""
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(RESAMPLES)])
    known = drawn[~np.isnan(drawn)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def arrival(history: Iterable[dict[str, Any]], target: float, score: Score = "AP50") -> tuple[int, float] | None:
    """Epochs and `training_seconds` at the first evaluation of a training whose `score` reached `target`, else None."""
    return next(((record["epoch"], training_seconds(record)) for record in history if record.get(score, -1.0) >= target), None)


def training_seconds(record: Mapping[str, Any]) -> float:
    """Seconds of a training up to a record of its history: waiting for data, and steps.

    Compiling is excluded: the graph does not depend on the origin of the weights, so the first training caches it for the other.
    """
    return float(record["timing"]["data"] + record["timing"]["steps"])
