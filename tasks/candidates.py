"""Train candidates, and enter how they ended into the ledger."""

from collections.abc import Sequence

from spnas_core import metrics
from spnas_core.job import Job
from spnas_core.ledger import Stage, Trial
from spnas_core.plan import short
from spnas_core.progress import log_line
from spnas_core.stages import enter
from tasks.jobs import Site, run_jobs


def train_candidates(site: Site, stage: Stage, number: int, work: Sequence[tuple[Job, Trial | None]]) -> list[Trial]:
    """Train the candidates of round `number`, each with the trial that it inherits from; one that fails is a failed trial."""
    labels = [f"{stage} r{number} c{index + 1} {short(job.arch)}" for index, (job, _) in enumerate(work)]
    ended = run_jobs(site, zip(labels, (job for job, _ in work), strict=True))
    trials = [
        enter(stage, number, index, parent.digest if parent else None, job, end)
        for index, ((job, parent), end) in enumerate(zip(work, ended, strict=True))
    ]
    for label, one in zip(labels, trials, strict=True):
        log_line(f"{label}: {_perfs(one)}")
    return trials


def _perfs(one: Trial) -> str:
    if one.metrics is None or one.failure:
        return f"failed: {one.failure}"
    return metrics.log_line(metrics.Scores({name: float(one.metrics[name]) for name in metrics.STATS}, {}))
