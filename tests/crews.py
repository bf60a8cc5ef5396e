"""A crew whose jobs end as a test says, for the decisions of a run without any process."""

from collections.abc import Callable, Sequence
from typing import Any

from spnas_core import job as jobs
from spnas_core.errors import JobError
from spnas_core.job import Job
from spnas_core.run.crew import Ended, Label, Work
from spnas_core.run.plan import Plan, RoundStage
from spnas_core.run.record import StageRecord
from spnas_core.store.manifest import Manifest


def ended(job: Job, metrics: dict[str, Any]) -> Manifest:
    """What a job leaves that had these metrics."""
    return Manifest(kind=job.kind, digest=jobs.digest(job), job={}, files={}, metrics=metrics, versions={}, seconds=1.0)


class ScriptedCrew:
    """Jobs end as `answer` says; `asked` are they, group by group, `records` those of the rounds, `lines` the log."""

    def __init__(self, answer: Callable[[Label, Job], dict[str, Any] | JobError]) -> None:
        self.answer = answer
        self.asked: list[list[Work]] = []
        self.records: list[StageRecord] = []
        self.lines: list[str] = []

    def do(self, work: Sequence[Work]) -> list[Ended]:
        self.asked.append(list(work))
        found = [(job, self.answer(label, job)) for label, job in work]
        return [one if isinstance(one, JobError) else ended(job, one) for job, one in found]

    def newest_round(self, plan: Plan, start: StageRecord, stage: RoundStage = "serial") -> tuple[int, StageRecord]:
        return 0, start

    def leave(self, plan: Plan, record: StageRecord, seconds: float) -> None:
        self.records.append(record)

    def tell(self, line: Callable[[], str]) -> None:
        self.lines.append(line())
