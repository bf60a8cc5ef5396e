"""The replay of a run: every job that it asks for, in that order, with how each ended, as far as that is known.

A run is a function of its settings and of the results of its jobs. So what it has done, does and will do follows from the store alone: the
stages (stages.py) are played with a crew that does nothing, but answers from the store, and makes a result up where it has none. Jobs asked
for before the first made-up result are sure; the others show one way that the run may take.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from spnas_core.errors import JobError
from spnas_core.job import BenchmarkJob, Job, PathsJob, ReigniteJob, SupernetJob, TrainJob, digest
from spnas_core.jobs import timing
from spnas_core.run.crew import Ended, Label, Work
from spnas_core.run.plan import Plan, RoundStage
from spnas_core.run.record import StageRecord, newest_round, read_stage
from spnas_core.run.stages import STAGES
from spnas_core.search.ledger import Trial
from spnas_core.search.net import net_of
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import StageName
from spnas_core.settings.search import MEASURED
from spnas_core.store.manifest import Manifest

Known = Callable[[Job], Ended | None]
SPREAD = 0.05  # standard deviation of made-up scores between nets of one size
PER_DOUBLING = 0.03  # by which they rise when MACs double


@dataclass(frozen=True, eq=False)
class Step:
    """One job of a run, how it ended, if that is known, and whether it is `sure` to be asked for; `epochs` are those that it adds.

    `key` is the digest of the job.
    """

    label: Label
    job: Job
    key: str
    ended: Ended | None
    sure: bool
    epochs: int = 0

    @property
    def stage(self) -> StageName:
        """The stage that asks for it."""
        return self.label.stage


class _Round(NamedTuple):
    """Round of a stage up to which all results are known, its record, and the number of groups that lead to it."""

    number: int
    record: StageRecord
    groups: int


class _Sure(NamedTuple):
    """Last round of each stage up to which all results are known; `whole`: all are known."""

    rounds: Mapping[RoundStage, _Round] = MappingProxyType({})
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Replay:
    """Groups of steps, and the ledger at the end; the steps of one group run at once, as devices are free, and end before the next group.

    Where a job failed without which the run cannot go on, its group is the last. `sure`: what all replays with the same results share.
    """

    groups: tuple[tuple[Step, ...], ...]
    ledger: tuple[Trial, ...]
    sure: "_Sure"

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in their order."""
        return tuple(step for group in self.groups for step in group)


def known_results(plan: Plan, held: dict[str, Ended] | None = None) -> Known:
    """Look results up in the store of a plan: a failure where the record of a finished round has it, else the artifact, once for each.

    What is found is kept in `held` too, where it is not looked for again.
    """
    failures = _failures(plan)
    seen: dict[str, Ended | None] = dict(held or {})

    def known(job: Job) -> Ended | None:
        key = digest(job)
        if key not in seen:
            found = failures.get(key) or plan.store.manifest(f"{job.kind}/{key}")
            seen[key] = ended = None if isinstance(found, str) else found
            if held is not None and ended:
                held[key] = ended
        return seen[key]

    return known


def _failures(plan: Plan) -> dict[str, JobError]:
    """Failures in the newest record of a run, by the digest of the job that failed.

    A trial that failed without a measurement of its net, where the settings ask for one, was never trained: the measurement failed.
    """
    nothing = StageRecord(name="fine_tune", key="", ledger=())
    _, newest = newest_round(plan, newest_round(plan, nothing, "structures")[1])
    if isinstance(plan.store.manifest(f"stage/{plan.keys['parallel']}"), Manifest):
        newest = read_stage(plan.store, plan.keys["parallel"])
    found: dict[str, JobError] = {}
    for trial in newest.ledger:
        if trial.failure:
            error = JobError(trial.failure, "")  # type: ignore[arg-type]
            (benchmark,) = plan.benchmarks([trial]) or ("",)
            measured = not benchmark or isinstance(plan.store.manifest(f"benchmark/{benchmark}"), Manifest)
            found[trial.digest if measured else benchmark] = error
    return found


def replays(plan: Plan, known: Known, count: int) -> list[Replay]:
    """Play the stages `count` times, each time with other made-up results; what is known already is played once."""
    first = replay(plan, known)
    return [first, *(first if first.sure.whole else replay(plan, known, play, first) for play in range(1, count))]


def replay(plan: Plan, known: Known, play: int = 0, before: Replay | None = None) -> Replay:
    """Play the stages; `play` draws what is made up: the larger a net, the better it scores, but for some noise.

    `before`: another replay of the plan with the same known results, whose rounds without anything made up are not played again.
    """
    crew = _ReplayCrew(plan, known, play, before)
    try:
        for name in plan.settings.stages:
            crew.record = STAGES[name](plan, crew, crew.record)
    except JobError:
        pass  # the run ends there
    return Replay(tuple(crew.groups), crew.record.ledger if crew.record else (), crew.sure._replace(whole=crew.all_known))


def where_time_went(steps: Sequence[Step]) -> dict[str, dict[str, float]]:
    """Seconds of the ended jobs, by stage and phase."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(step.stage for step in steps):
        ended = [step.ended for step in steps if step.stage == name and isinstance(step.ended, Manifest)]
        if ended:
            found[name] = timing.total_seconds(timing.parts(one.kind, one.seconds, one.metrics) for one in ended)
    return found


class _ReplayCrew:
    """A crew that does nothing: it notes the jobs, and answers with what is known or made up."""

    def __init__(self, plan: Plan, known: Known, play: int, before: Replay | None) -> None:
        self.plan, self.known, self.play, self.before = plan, known, play, before
        self.groups: list[tuple[Step, ...]] = []
        self.record: StageRecord | None = None
        self.all_known, self.sure = True, _Sure()
        self._epochs: dict[str, int] = {}  # of the trainings asked for so far, by digest

    def do(self, work: Sequence[Work]) -> list[Ended]:
        """Note a group of jobs; returns their results, made up where they are not known."""
        found, keys = [self.known(job) for _, job in work], [digest(job) for _, job in work]
        jobs = zip(work, keys, found, strict=True)
        steps = [Step(label, job, key, ended, self.all_known, self._added(job, key)) for (label, job), key, ended in jobs]
        self.groups.append(tuple(steps))
        self.all_known = self.all_known and None not in found
        return [step.ended or self._made_up(step) for step in steps]

    def newest_round(self, plan: Plan, start: StageRecord, stage: RoundStage = "serial") -> tuple[int, StageRecord]:
        """Play all rounds, since the replay lists their jobs, but those that the replay before this one played with the same results."""
        if not self.before or not (last := self.before.sure.rounds.get(stage)):
            return 0, start
        self.sure = self.sure._replace(rounds={**self.sure.rounds, stage: last})
        self.groups = list(self.before.groups[: last.groups])
        return last.number, last.record

    def leave(self, plan: Plan, record: StageRecord, seconds: float) -> None:
        """Keep the ledger of the round."""
        self.record = record
        if self.all_known:
            stage: RoundStage = "structures" if record.name == "structures" else "serial"
            last = _Round(plan.rounds(stage), record, len(self.groups))
            self.sure = self.sure._replace(rounds={**self.sure.rounds, stage: last})

    def tell(self, line: Callable[[], str]) -> None:
        """Have no log."""

    def _added(self, job: Job, key: str) -> int:
        """Epochs that a job adds to those of the rung from which it goes on."""
        if isinstance(job, ReigniteJob | SupernetJob):
            return job.recipe.epochs
        if not isinstance(job, TrainJob):
            return 0
        whole = self._epochs[key] = job.stop_after_epochs or job.recipe.epochs
        return whole - self._epochs.get(job.resume_from or "", 0)

    def _made_up(self, step: Step) -> Manifest:
        """Make up the result of a job that has not ended."""
        job, key, plan = step.job, step.key, self.plan
        metrics: dict[str, Any] = {"top1": 0.5, **dict.fromkeys(MEASURED, 1.0)}
        if isinstance(job, TrainJob):
            cost = plan.cost_of(net_of(job.arch, job.detector, plan.settings.detector))
            metrics |= {
                **dict.fromkeys(plan.settings.work.stats, self._score(job.arch, job.detector, key)),
                "params": cost.params,
                "macs": cost.macs,
            }
        if isinstance(job, PathsJob):
            metrics["scores"] = {
                one: dict.fromkeys(plan.settings.work.scores, self._score(one, job.detector, hashlib.sha256(one.encode()).hexdigest()))
                for one in job.members
            }
        if plan.settings.measures:
            metrics |= {name: _inside(getattr(plan.settings.budget, name)) for name in MEASURED}
        if plan.settings.structures and isinstance(job, BenchmarkJob):  # made up, they are those of more or less expensive nets
            gmacs = plan.cost_of(net_of(job.arch, job.detector, plan.settings.detector)).macs / 1e9
            metrics |= {name: gmacs for name in MEASURED if getattr(plan.settings.budget, name) == (None, None)}
        return Manifest(kind=job.kind, digest=key, job={}, files={}, metrics=metrics, versions={}, seconds=0.0)

    def _score(self, arch: str, detector: Detector, key: str) -> float:
        """Make up the score of a net, with the noise that a key (hex) draws."""
        run = self.plan.settings
        own, start = (self.plan.cost_of(net_of(*one, run.detector)).macs for one in ((arch, detector), (run.arch, run.detector)))
        noise = np.random.default_rng((self.play, int(key[:8], 16))).normal(0, SPREAD)
        return float(np.clip(0.5 + PER_DOUBLING * np.log2(own / start) + noise, 0.01, 0.99))


def _inside(limit: tuple[float | None, float | None]) -> float:
    """Give a value that a limit lets pass."""
    return next((value for value in limit if value is not None), 1.0)
