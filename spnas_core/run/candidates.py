"""One round of candidates: measured where the settings ask for it, trained briefly, entered into the ledger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from spnas_core.errors import JobError
from spnas_core.job import TrainJob, Weights
from spnas_core.metrics import Scores, scores_line
from spnas_core.run.crew import Crew, Ended, Label, Work, do
from spnas_core.run.estimates import Control, control_work, with_estimates
from spnas_core.run.folds import with_folds
from spnas_core.run.plan import Plan
from spnas_core.run.record import ended_trial
from spnas_core.search.costs import over_budget
from spnas_core.search.ledger import SearchStage, Trial, survivors
from spnas_core.search.net import Net, net_of
from spnas_core.search.propose import Proposal
from spnas_core.settings.search import Budget, Candidates, Halving
from spnas_core.settings.task import task_of_metrics

Measured = Mapping[str, float]


class Round(NamedTuple):
    """A round of the search: its stage and its number, from 1."""

    stage: SearchStage
    number: int


# Scores the children of one round; `reignited` are the reignited backbones by the digest of the trial that they came from.
Evaluator = Callable[[Plan, Crew, Round, Sequence[Proposal], Mapping[str, Weights]], list[Trial]]


def train_each(plan: Plan, crew: Crew, place: Round, children: Sequence[Proposal], reignited: Mapping[str, Weights]) -> list[Trial]:
    """Train every child on inherited weights by the recipe of its stage; with halving, the worse ones stop early.

    Where the settings ask for it, parents are trained on beside them, and the best get further seeds (estimates.py).
    """
    settings: Candidates = getattr(plan.settings, place.stage)
    work = [plan.short_training(settings.recipe, child, reignited) for child in children]
    parents = {child.parent.digest: child.parent for child in children} if settings.control else {}
    controls = [Control(one, plan.short_training(settings.recipe, Proposal(one.net, one), reignited)[0]) for one in parents.values()]
    trials, ended = _train(plan, crew, place, work, settings.halving, control_work(place.stage, place.number, controls))
    jobs = {index: job for index, (job, _) in enumerate(work)}
    trials = with_estimates(plan, crew, trials, jobs, controls, ended, settings.race)
    return with_folds(plan, crew, trials, {index: child.parent for index, child in enumerate(children)}, settings.recipe)


def train_jobs(
    plan: Plan, crew: Crew, place: Round, work: Sequence[tuple[TrainJob, Trial | None]], halving: Halving | None = None
) -> list[Trial]:
    """Do the trainings of one round, each given with the trial that it inherits from; returns its trials in the order of `work`.

    A training that fails is a failed trial, and so is one over a measured limit, untrained. With `halving`, the worse ones stop at its
    rungs.
    """
    return _train(plan, crew, place, work, halving, [])[0]


def _train(
    plan: Plan, crew: Crew, place: Round, work: Sequence[tuple[TrainJob, Trial | None]], halving: Halving | None, beside: Sequence[Work]
) -> tuple[list[Trial], list[Ended]]:
    """Do the trainings of one round as `train_jobs`, and the jobs `beside` them, whose ends come with the trials."""
    labels = [Label(place.stage, "candidate", job.arch, place.number, index, ends_run=False) for index, (job, _) in enumerate(work)]
    measured = measure(
        plan, crew, [(label, net_of(job.arch, job.detector, plan.settings.detector)) for label, (job, _) in zip(labels, work, strict=True)]
    )

    def trial(index: int, job: TrainJob, ended: Ended) -> Trial:
        crew.tell(lambda: f"{labels[index]}: {f'after {job.stop_after_epochs} epochs ' if job.stop_after_epochs else ''}{_scores(ended)}")
        costs, parent = measured[index], work[index][1]
        digest = parent.digest if parent else None
        return ended_trial(plan, place.stage, place.number, index, digest, job, ended, {} if isinstance(costs, JobError) else costs)

    standing = {index: job for index, (job, _) in enumerate(work)}
    refused = {index: error for index, costs in enumerate(measured) if (error := _refusal(costs, plan.settings.budget))}
    trials = [trial(index, standing.pop(index), error) for index, error in refused.items()]
    ended_beside: list[Ended] = []
    for rung in (*(halving.rungs if halving else ()), None):
        standing = {index: job.model_copy(update={"stop_after_epochs": rung}) for index, job in standing.items()}
        others = [] if ended_beside else beside
        ended = do(crew, [*others, *((labels[index], job) for index, job in standing.items())])
        ended_beside, ended = [*ended_beside, *ended[: len(others)]], ended[len(others) :]
        at_rung = [trial(index, job, one) for (index, job), one in zip(standing.items(), ended, strict=True)]
        on = {one.index: one.digest for one in survivors(at_rung, halving.keep, plan.settings.objectives)} if halving and rung else {}
        trials += [one for one in at_rung if one.index not in on]
        standing = {index: standing[index].model_copy(update={"resume_from": on[index]}) for index in sorted(on)}
    return sorted(trials, key=lambda one: one.index), ended_beside


def measure(plan: Plan, crew: Crew, nets: Sequence[tuple[Label, Net]]) -> list[Measured | JobError]:
    """Latency (ms) and memory (MB) of nets where the settings ask for them, else nothing: one by one, so that none disturbs another.

    Each net comes with the label of its training. Latency on other devices is not measured here: their clocks say it.
    """
    if not plan.settings.measures:
        return [plan.clock_latencies(net) for _, net in nets]
    ended = [do(crew, [(replace(label, role="benchmark"), plan.benchmark(net))])[0] for label, net in nets]
    measured = iter(plan.measured(*(one for one in ended if not isinstance(one, JobError))))
    clocks = [plan.clock_latencies(net) for _, net in nets]
    return [one if isinstance(one, JobError) else next(measured) | there for one, there in zip(ended, clocks, strict=True)]


def _refusal(measured: Measured | JobError, budget: Budget) -> JobError | None:
    """Say why an architecture is not trained, if it is not: its measurement failed, or is over a limit."""
    if isinstance(measured, JobError):
        return measured
    reason = over_budget(measured, budget) if measured else None
    return JobError("over_budget", reason) if reason else None


def _scores(ended: Ended) -> str:
    """Scores of a training as text, or how it failed, with the last lines of its log."""
    if isinstance(ended, JobError):
        return f"failed, {ended}"
    return scores_line(Scores({name: float(ended.metrics[name]) for name in task_of_metrics(ended.metrics).stats}, {}))
