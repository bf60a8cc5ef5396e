"""Train candidates, and enter how they ended into the ledger."""

from collections.abc import Sequence

from spnas_core import metrics
from spnas_core.config import Halving, Objectives
from spnas_core.errors import JobError
from spnas_core.job import TrainJob
from spnas_core.ledger import Stage, Trial, survivors
from spnas_core.plan import short
from spnas_core.progress import log_line
from spnas_core.stages import enter
from tasks.jobs import Ended, Site, run_jobs

Work = Sequence[tuple[TrainJob, Trial | None]]  # a candidate's training, and the trial that it inherits from


def train_candidates(site: Site, stage: Stage, number: int, work: Work, halving: Halving | None, objectives: Objectives) -> list[Trial]:
    """Train the candidates of round `number`; one that fails is a failed trial. With `halving`, the worse ones stop at its rungs."""
    trials: list[Trial] = []
    standing = dict(enumerate(work))
    for rung in (*(halving.rungs if halving else ()), None):
        jobs = {index: job.model_copy(update={"stop": rung}) for index, (job, _) in standing.items()}
        at_rung = _train(site, stage, number, jobs, {index: parent for index, (_, parent) in standing.items()})
        on = {one.index: one for one in survivors(at_rung, halving.keep, objectives)} if halving and rung else {}
        trials += [one for one in at_rung if one.index not in on]
        standing = {i: (job.model_copy(update={"resume": on[i].digest}), parent) for i, (job, parent) in standing.items() if i in on}
    return sorted(trials, key=lambda one: one.index)


def _train(site: Site, stage: Stage, number: int, jobs: dict[int, TrainJob], parents: dict[int, Trial | None]) -> list[Trial]:
    labels = {index: f"{stage} r{number} c{index + 1} {short(job.arch)}" for index, job in jobs.items()}
    ended = run_jobs(site, [(labels[index], job) for index, job in jobs.items()])
    trials = []
    for (index, job), end in zip(jobs.items(), ended, strict=True):
        parent = parents[index]
        trials.append(enter(stage, number, index, parent.digest if parent else None, job, end))
        rung = f"after {job.stop} epochs " if job.stop else ""
        log_line(f"{labels[index]}: {rung}{_perfs(end)}")
    return trials


def _perfs(end: Ended) -> str:
    """Return the scores of a training, or how it failed, with the last lines of its log."""
    if isinstance(end, JobError):
        return f"failed, {end}"
    return metrics.log_line(metrics.Scores({name: float(end.metrics[name]) for name in metrics.STATS}, {}))
