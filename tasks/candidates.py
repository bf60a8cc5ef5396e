"""Train candidates, and enter how they ended into the ledger."""

from collections.abc import Iterable, Mapping, Sequence

from spnas_core import metrics
from spnas_core.config import MEASURED
from spnas_core.errors import JobError
from spnas_core.job import TrainJob
from spnas_core.jobs.progress import log_line
from spnas_core.ledger import Stage, Trial, survivors
from spnas_core.plan import Plan, short
from spnas_core.search import over_budget
from spnas_core.settings import Budget, Detector, Halving
from spnas_core.stages import enter
from tasks.jobs import Ended, Site, run_jobs

Work = Sequence[tuple[TrainJob, Trial | None]]  # a candidate's training, and the trial that it inherits from
Measured = Mapping[str, float]


def measure(plan: Plan, site: Site, nets: Iterable[tuple[str, Detector]]) -> list[Measured | JobError]:
    """Latency and memory of each net where the settings ask for them, else nothing: measured one by one, so that none disturbs another."""
    if not plan.settings.measures:
        return [{} for _ in nets]
    ended = [run_jobs(site, [(f"benchmark {short(arch)}", plan.benchmark(arch, detector))])[0] for arch, detector in nets]
    return [one if isinstance(one, JobError) else {name: float(one.metrics[name]) for name in MEASURED} for one in ended]


def train_candidates(plan: Plan, site: Site, stage: Stage, number: int, work: Work, halving: Halving | None) -> list[Trial]:
    """Train the candidates of round `number`; one that fails is a failed trial, and so is one over a measured limit, untrained.

    With `halving`, the worse ones stop at its rungs.
    """
    measured = measure(plan, site, [(job.arch, job.detector) for job, _ in work])
    labels = [f"{stage} r{number} c{index + 1} {short(job.arch)}" for index, (job, _) in enumerate(work)]

    def end(index: int, job: TrainJob, ended: Ended) -> Trial:
        rung = f"after {job.stop} epochs " if job.stop else ""
        log_line(f"{labels[index]}: {rung}{_perfs(ended)}")
        costs, parent = measured[index], work[index][1]
        return enter(stage, number, index, parent.digest if parent else None, job, ended, {} if isinstance(costs, JobError) else costs)

    standing = {index: job for index, (job, _) in enumerate(work)}
    refused = {index: error for index, costs in enumerate(measured) if (error := _refusal(costs, plan.settings.budget))}
    trials = [end(index, standing.pop(index), error) for index, error in refused.items()]
    for rung in (*(halving.rungs if halving else ()), None):
        standing = {index: job.model_copy(update={"stop": rung}) for index, job in standing.items()}
        ended = run_jobs(site, [(labels[index], job) for index, job in standing.items()])
        at_rung = [end(index, job, one) for (index, job), one in zip(standing.items(), ended, strict=True)]
        on = {one.index: one.digest for one in survivors(at_rung, halving.keep, plan.settings.objectives)} if halving and rung else {}
        trials += [one for one in at_rung if one.index not in on]
        standing = {index: standing[index].model_copy(update={"resume": on[index]}) for index in sorted(on)}
    return sorted(trials, key=lambda one: one.index)


def _refusal(measured: Measured | JobError, budget: Budget) -> JobError | None:
    """Say why an architecture is not trained, if it is not: its measurement failed, or is over a limit."""
    if isinstance(measured, JobError) or not measured:
        return measured or None
    reason = over_budget(measured, budget)
    return JobError("over_budget", reason) if reason else None


def _perfs(end: Ended) -> str:
    """Return the scores of a training, or how it failed, with the last lines of its log."""
    if isinstance(end, JobError):
        return f"failed, {end}"
    return metrics.log_line(metrics.Scores({name: float(end.metrics[name]) for name in metrics.STATS}, {}))
