"""Train candidates, and enter how they ended into the ledger."""

from collections.abc import Sequence

from spnas_core import metrics
from spnas_core.errors import JobError
from spnas_core.job import Job
from spnas_core.ledger import Stage, Trial
from spnas_core.plan import short
from spnas_core.progress import log_line
from spnas_core.stages import enter
from tasks.jobs import Ended, Site, run_jobs


def train_candidates(site: Site, stage: Stage, number: int, work: Sequence[tuple[Job, Trial | None]]) -> list[Trial]:
    """Train the candidates of round `number`, each with the trial that it inherits from; one that fails is a failed trial."""
    labels = [f"{stage} r{number} c{index + 1} {short(job.arch)}" for index, (job, _) in enumerate(work)]
    ended = run_jobs(site, zip(labels, (job for job, _ in work), strict=True))
    trials = [
        enter(stage, number, index, parent.digest if parent else None, job, end)
        for index, ((job, parent), end) in enumerate(zip(work, ended, strict=True))
    ]
    for label, end in zip(labels, ended, strict=True):
        log_line(f"{label}: {_perfs(end)}")
    return trials


def _perfs(end: Ended) -> str:
    """Return the scores of a training, or how it failed, with the last lines of its log."""
    if isinstance(end, JobError):
        return f"failed, {end}"
    return metrics.log_line(metrics.Scores({name: float(end.metrics[name]) for name in metrics.STATS}, {}))
