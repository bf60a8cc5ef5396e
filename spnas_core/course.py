"""The course of a run: every job that its flow asks for, in that order, with what is known of how it ended.

A run is a function of its settings and of what its jobs give. So what it has done, does and will do follows from the store alone:
the flow's decisions (flows/spnas.py) are made here again, without doing anything, from the results that are there, and where one is
not there yet from one that is made up. What is asked for before the first made-up result is sure, the rest one way that the run may go.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from spnas_core import timing
from spnas_core.arch import parse
from spnas_core.config import MEASURED, STAGE_NAMES, StageName
from spnas_core.errors import JobError
from spnas_core.job import Job, ReigniteJob, TrainJob, Weights, digest
from spnas_core.ledger import Stage, Trial, best, reignitions, survivors
from spnas_core.metrics import STATS
from spnas_core.plan import Plan, Split, short
from spnas_core.search import chosen_net, over_budget, propose_parallel, propose_serial
from spnas_core.settings import Candidates
from spnas_core.stages import Stage as Record
from spnas_core.stages import enter, newest_round, read_stage
from spnas_core.store.manifest import Manifest

Ended = Manifest | JobError
Known = Callable[[Job], Ended | None]
SPREAD = 0.05  # standard deviation of made-up scores between nets of one size
PER_DOUBLING = 0.03  # by which they rise when MACs double


@dataclass(frozen=True, eq=False)
class Step:
    """One job of a run, how it ended, if that is known, and whether it is `sure` to be asked for; `epochs` are those that it adds."""

    stage: StageName
    round: int
    label: str
    job: Job
    ended: Ended | None
    sure: bool
    epochs: int = 0


@dataclass(frozen=True, eq=False)
class Course:
    """Groups of steps: those of one go on at the same time, as devices are free, and all end before the next begins."""

    groups: tuple[tuple[Step, ...], ...]
    ledger: tuple[Trial, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in their order."""
        return tuple(step for group in self.groups for step in group)


def what_is_known(plan: Plan, held: dict[str, Ended] | None = None) -> Known:
    """Look results up in the store of a plan: a failure where the record of a finished round has it, else the artifact, once for each.

    What is found is kept in `held` too, where it is not looked for again.
    """
    failures: dict[str, JobError] = {}
    _, newest = newest_round(plan, Record(name="fine_tune", key="", ledger=()))
    if isinstance(plan.store.manifest(f"stage/{plan.keys['parallel']}"), Manifest):
        newest = read_stage(plan.store, plan.keys["parallel"])
    for trial in newest.ledger:
        if trial.failure:
            failures[trial.digest] = JobError(trial.failure, "")  # type: ignore[arg-type]
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


def course(plan: Plan, known: Known, play: int = 0) -> Course:
    """Give the course of a run; `play` draws what is made up: the larger a net, the better it scores, but for some noise."""
    return _Player(plan, known, play).course()


def where_time_went(steps: Sequence[Step]) -> dict[str, dict[str, float]]:
    """Seconds of the ended jobs, by stage and phase."""
    found: dict[str, dict[str, float]] = {}
    for name in STAGE_NAMES:
        ended = [step.ended for step in steps if step.stage == name and isinstance(step.ended, Manifest)]
        if ended:
            found[name] = timing.total(timing.parts(one.kind, one.seconds, one.metrics) for one in ended)
    return found


class _Player:
    """A flow that does nothing but note what it would do."""

    def __init__(self, plan: Plan, known: Known, play: int) -> None:
        self.plan, self.known, self.play = plan, known, play
        self.groups: list[tuple[Step, ...]] = []
        self.sure = True
        self.ledger: tuple[Trial, ...] = ()
        self.reignited: dict[str, Weights] = {}

    def course(self) -> Course:
        """Play the five stages."""
        plan, settings = self.plan, self.plan.settings
        start = plan.train(settings.arch, settings.detector, settings.fine_tune)
        (ended,) = self.run("fine_tune", 0, [(f"fine_tune {short(start.arch)}", start)])
        self.ledger = (enter("fine_tune", 0, 0, None, start, ended),)
        if not isinstance(ended, JobError):  # else the run ends here
            self.serial()
            self.reignite("reignite", 0, best(self.ledger, settings.parallel.parents, settings.objectives))
            self.parallel()
            self.full_train()
        return Course(tuple(self.groups), self.ledger)

    def run(self, stage: StageName, number: int, work: Sequence[tuple[str, Job]], before: int = 0) -> list[Ended]:
        """Note a group of jobs, of which so many epochs are done `before`; their results, made up where they are not known."""
        found = [self.known(job) for _, job in work]
        epochs = [_epochs(job) - before for _, job in work]
        steps = zip(work, found, epochs, strict=True)
        self.groups.append(tuple(Step(stage, number, label, job, ended, self.sure, count) for (label, job), ended, count in steps))
        self.sure = self.sure and None not in found
        return [ended or self.made_up(job) for (_, job), ended in zip(work, found, strict=True)]

    def serial(self) -> None:
        run, settings = self.plan.settings, self.plan.settings.serial
        (costs,) = self.measure("serial", 0, [self.ledger[0]])
        self.ledger = (replace(self.ledger[0], metrics={**(self.ledger[0].metrics or {}), **costs}),)
        for number in range(1, settings.rounds + 1):
            reignited = reignitions(self.ledger, settings.n_stuck, settings.max_reignite, run.objectives)
            if number - 1 in reignited:
                self.reignite("serial", number, [reignited[number - 1]])
            children = propose_serial(self.parents(), run, number, self.plan.cost_of)
            self.candidates(
                "serial", number, settings, [self.plan.short_training(settings.recipe, one, self.reignited) for one in children]
            )

    def parallel(self) -> None:
        run, settings = self.plan.settings, self.plan.settings.parallel
        children = propose_parallel(best(self.parents(), settings.parents, run.objectives), run, self.plan.cost_of, ledger=self.ledger)
        self.candidates("parallel", 1, settings, [self.plan.short_training(settings.recipe, one, self.reignited) for one in children])

    def full_train(self) -> None:
        plan = self.plan
        jobs = plan.full_trainings(chosen_net(self.ledger, plan.settings)[0], self.ledger[0])
        ended = dict(
            zip(jobs, self.run("full_train", 0, [(f"full_train {k} {short(job.arch)}", job) for k, job in jobs.items()]), strict=True)
        )
        trained = [name for name, one in ended.items() if isinstance(one, Manifest)]
        wanted: list[tuple[str, Split]] = [("final", "val"), *((name, "test") for name in trained if plan.test)]
        scored = [
            (f"evaluate {name} {split}", plan.evaluate(jobs[name], digest(jobs[name]), split)) for name, split in wanted if name in trained
        ]
        if scored:
            self.run("full_train", 0, scored)

    def parents(self) -> tuple[Trial, ...]:
        """Return the ledger as its children take after it (stages.py)."""
        stem = self.plan.settings.reignite.stem
        return tuple(replace(one, stem=stem) if stem and one.digest in self.reignited else one for one in self.ledger)

    def reignite(self, stage: StageName, number: int, trials: Sequence[Trial]) -> None:
        work = [(f"reignite {short(trial.arch)}", self.plan.reignite(trial)) for trial in trials]
        self.run(stage, number, work)
        for trial, (_, job) in zip(trials, work, strict=True):
            self.reignited[trial.digest] = Weights(kind="reignite", digest=digest(job), arch=trial.arch)

    def measure(self, stage: StageName, number: int, nets: Sequence[Trial | TrainJob]) -> list[dict[str, float]]:
        """Measure nets one by one, where the settings ask for it."""
        plan = self.plan
        found: list[dict[str, float]] = []
        for net in nets if plan.settings.measures else ():
            detector = net.detector if isinstance(net, TrainJob) else net.detector(plan.settings.detector)
            (ended,) = self.run(stage, number, [(f"benchmark {short(net.arch)}", plan.benchmark(net.arch, detector))])
            found.append({} if isinstance(ended, JobError) else {name: float(ended.metrics[name]) for name in MEASURED})
        return found if plan.settings.measures else [{} for _ in nets]

    def candidates(self, stage: Stage, number: int, settings: Candidates, work: Sequence[tuple[TrainJob, Trial]]) -> None:
        """Train a round as tasks/candidates.py does, and enter how its trials ended."""
        plan, halving = self.plan, settings.halving
        costs = self.measure(stage, number, [job for job, _ in work])
        trials, standing = [], {index: job for index, (job, _) in enumerate(work)}

        def end(index: int, job: TrainJob, ended: Ended) -> Trial:
            return enter(stage, number, index, work[index][1].digest, job, ended, costs[index])

        if plan.settings.measures:
            refused = [index for index, one in enumerate(costs) if not one or over_budget(one, plan.settings.budget)]
            trials += [end(index, standing.pop(index), JobError("over_budget", "")) for index in refused]
        for before, rung in pairwise((0, *(halving.rungs if halving else ()), None)):
            standing = {index: job.model_copy(update={"stop": rung}) for index, job in standing.items()}
            labels = [f"{stage} r{number} c{index + 1} {short(job.arch)}" for index, job in standing.items()]
            ended = self.run(stage, number, list(zip(labels, standing.values(), strict=True)), before or 0) if standing else []
            at_rung = [end(index, job, one) for (index, job), one in zip(standing.items(), ended, strict=True)]
            on = {one.index: one.digest for one in survivors(at_rung, halving.keep, plan.settings.objectives)} if halving and rung else {}
            trials += [one for one in at_rung if one.index not in on]
            standing = {index: standing[index].model_copy(update={"resume": on[index]}) for index in sorted(on)}
        self.ledger = (*self.ledger, *sorted(trials, key=lambda one: one.index))

    def made_up(self, job: Job) -> Manifest:
        """Make up the result of a job that has not ended."""
        key, plan = digest(job), self.plan
        metrics: dict[str, Any] = {"top1": 0.5, **dict.fromkeys(MEASURED, 1.0)}
        if isinstance(job, TrainJob):
            cost, start = (plan.cost_of(parse(arch), job.detector) for arch in (job.arch, plan.settings.arch))
            noise = np.random.default_rng((self.play, int(key[:8], 16))).normal(0, SPREAD)
            score = float(np.clip(0.5 + PER_DOUBLING * np.log2(cost.macs / start.macs) + noise, 0.01, 0.99))
            metrics |= {**dict.fromkeys(STATS, score), "params": cost.params, "macs": cost.macs}
        if plan.settings.measures:
            metrics |= {name: _inside(getattr(plan.settings.budget, name)) for name in MEASURED}
        return Manifest(kind=job.kind, digest=key, job={}, files={}, metrics=metrics, versions={}, seconds=0.0)


def _inside(limit: tuple[float | None, float | None]) -> float:
    """Give a value that a limit lets pass."""
    return next((value for value in limit if value is not None), 1.0)


def _epochs(job: Job) -> int:
    if isinstance(job, TrainJob):
        return job.stop or job.recipe.epochs
    return job.recipe.epochs if isinstance(job, ReigniteJob) else 0
