"""The crew of a run: who does its jobs, and the label that says what each job is for.

The stages (stages.py) decide which jobs come next; a crew does them. Prefect's crew (tasks/jobs.py) runs them, the replay's (replay.py)
only notes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from spnas_core.errors import JobError
from spnas_core.job import Job
from spnas_core.run.plan import FinalNet, Plan, RoundStage, ScoredSplit, short
from spnas_core.run.record import StageRecord
from spnas_core.settings.run import StageName
from spnas_core.store.manifest import Manifest

Ended = Manifest | JobError
JobRole = Literal[
    "fine_tune", "candidate", "control", "repeat", "fold", "pilot", "benchmark", "reignite", "full_train", "evaluate", "supernet", "paths"
]  # fmt: skip


@dataclass(frozen=True)
class Label:
    """What a job is for: the stage and the serial round (of paths, the generation) that ask for it, its role there, and its architecture.

    `index`: of a candidate, from 0; `seed`: the number of a further seed, from 1, or of a fold, from 0. `net`: which of the nets that
    are trained to the end. `split`: what an evaluation scores. `ends_run`: whether the run cannot go on without this job.
    """

    stage: StageName
    role: JobRole
    arch: str
    round: int = 0
    index: int = 0
    seed: int = 0
    net: FinalNet | None = None
    split: ScoredSplit | None = None
    ends_run: bool = True

    def __str__(self) -> str:
        """One line for people: `serial r1 c2 b_111-2111-211111-211`."""
        again = f" seed {self.seed + 1}" if self.seed else ""
        if self.role == "fold":
            return f"{self.stage} r{self.round} c{self.index + 1} {short(self.arch)} fold {self.seed + 1}"
        if self.role in ("candidate", "repeat"):
            return f"{self.stage} r{self.round} c{self.index + 1} {short(self.arch)}{again}"
        if self.role == "pilot":
            return f"pilot c{self.index + 1} {short(self.arch)}"
        if self.role == "control":
            return f"{self.stage} r{self.round} control {short(self.arch)}{again}"
        if self.role == "paths":
            return f"{self.stage} g{self.round} paths"
        return " ".join(filter(None, (self.role, self.net, self.split or short(self.arch))))


Work = tuple[Label, Job]


class Crew(Protocol):
    """Who does the jobs of a run."""

    def do(self, work: Sequence[Work]) -> list[Ended]:
        """Do jobs that may go on at the same time; returns, in their order, each one's manifest or its typed failure."""

    def newest_round(self, plan: Plan, start: StageRecord, stage: RoundStage = "serial") -> tuple[int, StageRecord]:
        """Last round of a stage that need not be done again, and its record; 0 and `start` where there is none."""

    def leave(self, plan: Plan, record: StageRecord, seconds: float) -> None:
        """Take the record of a finished round, which took `seconds`."""

    def tell(self, line: Callable[[], str]) -> None:
        """Take a line about the run for its log; the line is made only where there is a log."""


def do(crew: Crew, work: Sequence[Work]) -> list[Ended]:
    """Have a crew do `work`; JobError, after all jobs have ended, for the first failure without which the run cannot go on."""
    ended = crew.do(work) if work else []
    for (label, _), one in zip(work, ended, strict=True):
        if label.ends_run:
            succeeded(label, one)
    return ended


def succeeded(label: object, ended: Ended) -> Manifest:
    """Return the result of a job that must not fail; its failure is raised as a JobError that names the job."""
    if isinstance(ended, JobError):
        raise JobError(ended.reason, f"{label}: {ended.message}") from ended
    return ended


def manifests(ended: Sequence[Ended]) -> list[Manifest]:
    """Results of jobs that have all succeeded."""
    return [one for one in ended if isinstance(one, Manifest)]
