"""Status of a run, from its store alone: ended and running jobs, their progress, the best net, failures, time left.

A job runs while a process holds its claim (store/claims.py); its progress lies beside its log (jobs/progress_file.py). All else follows
from the replay of the run (run/replay.py).
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from spnas_core.arch import parse
from spnas_core.data.loader import steps_per_epoch
from spnas_core.errors import JobError, UserError
from spnas_core.job import Job, TrainJob, digest
from spnas_core.jobs import progress_file
from spnas_core.monitor.forecast import graph_blocks, image_gmacs, job_seconds
from spnas_core.monitor.speed import Line, Speed, fit_line, makespan
from spnas_core.run.crew import Ended
from spnas_core.run.plan import Plan
from spnas_core.run.register import names_of_runs, plan_of, read_run
from spnas_core.run.replay import Known, Replay, Step, known_results, replays, where_time_went
from spnas_core.search.ledger import ranked, winner
from spnas_core.store.artifacts import Store
from spnas_core.store.claims import is_over
from spnas_core.store.manifest import Manifest

JobState = Literal["done", "failed", "running", "waiting"]
RunState = Literal["finished", "running", "failed", "not running", "unknown"]
STATUS_PLAYS = 4


@dataclass(frozen=True)
class JobStatus:
    """One job: its label and state, its last progress (jobs/progress_file.py), and the seconds since that was written."""

    stage: str
    round: int
    label: str
    state: JobState
    progress: dict[str, Any] = field(default_factory=dict)
    silent: float = 0.0


@dataclass(frozen=True)
class Status:
    """One run: `jobs` is the present group, `done` of about `total` jobs have ended; times in seconds, AP as a fraction.

    `timing`: seconds of the ended jobs by stage and phase (jobs/timing.py). `left` is None where nothing has ended yet, and
    where a job failed without which the run cannot go on.
    """

    name: str
    state: RunState
    stage: str = ""
    round: int = 0
    rounds: int = 0
    done: int = 0
    total: int = 0
    jobs: tuple[JobStatus, ...] = ()
    best: dict[str, Any] | None = None
    failures: tuple[str, ...] = ()
    spent: float = 0.0
    left: float | None = None
    timing: dict[str, dict[str, float]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Status as a JSON document."""
        return asdict(self)


class Watcher:
    """Observer of one run of a store: each look reads only what has changed since the last.

    `plays`: how often the rounds to come are played for the time left; one is enough for what has happened.
    """

    def __init__(self, store: Store, name: str, plays: int = STATUS_PLAYS) -> None:
        self.plan = plan_of(read_run(store, name), store)
        self._plays = plays
        self._held: dict[str, Ended] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._replays: list[Replay] = []

    def replay(self) -> Replay:
        """Replay of the run, with the results that are known now."""
        return self._play()[0]

    def steps(self) -> tuple[Step, ...]:
        """Return the steps of the replay that are sure to be asked for."""
        return tuple(step for step in self.replay().steps if step.sure)

    def _play(self) -> list[Replay]:
        """Replays of the run; they are played anew only after a job has ended or a failed one has started again."""
        known = self._known(known_results(self.plan, self._held))
        sure = [step for one in self._replays[:1] for step in one.steps if step.sure]
        open_steps = [step for step in sure if step.key not in self._held]
        changed = [(known(step.job) is None) != (step.ended is None) for step in open_steps]  # all of them: how far they are is noted
        if any(changed) or not self._replays:
            self._replays = replays(self.plan, known, self._plays)
        return self._replays

    def look(self) -> Status:
        """Take the present status."""
        plan, now = self.plan, time.time()
        replays = self._play()
        first = replays[0]
        sure = [step for step in first.steps if step.sure]
        group = next((group for group in first.groups if any(step.ended is None for step in group)), first.groups[-1])
        jobs = tuple(self._job(step, now) for step in group)
        broken = any(isinstance(step.ended, JobError) and step.label.ends_run for step in sure)
        finished = plan.store.manifest(f"stage/{plan.keys['full_train']}") is not None
        ended = [step for step in sure if step.ended is not None]
        heard = any(one.state == "running" for one in jobs) or self._silent(jobs, ended, now) < plan.settings.lease_seconds
        state: RunState = "finished" if finished else "failed" if broken and not heard else "running" if heard else "not running"
        speed = _speed(plan, ended) if state in ("running", "not running") else None
        return Status(
            name=plan.settings.name,
            state=state,
            stage=group[0].stage,
            round=group[0].label.round,
            rounds=plan.rounds(stage) if (stage := group[0].stage) in ("structures", "serial") else 0,
            done=len(ended),
            total=len(first.steps),
            jobs=jobs if not finished else (),
            best=_best(plan, first),
            failures=tuple(f"{step.label}: {step.ended.reason}" for step in ended if isinstance(step.ended, JobError)),
            spent=sum(step.ended.seconds for step in ended if isinstance(step.ended, Manifest)),
            left=0.0 if finished else sum(_left(plan, one, speed, jobs) for one in replays) / len(replays) if speed else None,
            timing=where_time_went(ended),
        )

    def _silent(self, jobs: Sequence[JobStatus], ended: Sequence[Step], now: float) -> float:
        """Seconds since some job of the run was last heard of."""
        last = [one.progress["at"] for one in jobs if "at" in one.progress]
        last += [progress_file.read_progress(self.plan.store, step.job.kind, step.key).get("at", 0.0) for step in ended[-1:]]
        return now - max(last, default=0.0)

    def _known(self, stored: Known) -> Known:
        """Extend `stored` by the failures of jobs that no process runs any more."""

        def known(job: Job) -> Ended | None:
            if found := stored(job):
                return found
            key = digest(job)
            self._progress[key] = progress_file.read_progress(self.plan.store, job.kind, key)
            if self._progress[key].get("event") == "failed" and not self._alive(job.kind, key):
                return JobError(self._progress[key].get("reason", "crashed"), str(self._progress[key].get("message", "")))
            return None

        return known

    def _alive(self, kind: str, key: str) -> bool:
        number, content = self.plan.store.claim(kind, key).newest()
        return number > 0 and not is_over(content)

    def _job(self, step: Step, now: float) -> JobStatus:
        progress = self._progress.get(step.key, {})
        state: JobState = "waiting"
        if step.ended is not None:
            state = "failed" if isinstance(step.ended, JobError) else "done"
        elif self._alive(step.job.kind, step.key):
            state = "running"
        return JobStatus(step.stage, step.label.round, str(step.label), state, progress, max(0.0, now - progress.get("at", now)))


def all_runs(store: Store) -> list[Status]:
    """Status of every run of a store, by name; a run whose record is unreadable for this version is ``unknown``, with the reason."""

    def look(name: str) -> Status:
        try:
            return Watcher(store, name).look()
        except UserError as error:
            return Status(name, "unknown", failures=(str(error),))

    return [look(name) for name in names_of_runs(store)]


def _best(plan: Plan, found: Replay) -> dict[str, Any] | None:
    """Best net so far; the final net as soon as its full training has ended."""
    for step in found.steps:
        if (step.label.role, step.label.net) == ("full_train", "final") and isinstance(step.ended, Manifest):
            return {
                "label": str(step.label),
                "arch": step.job.arch,
                **{name: step.ended.metrics[name] for name in (*plan.settings.work.scores, "params", "macs")},
            }
    there = {step.key for step in found.steps if isinstance(step.ended, Manifest)}
    score = plan.settings.objectives[:1]  # costs may not be measured yet
    trials = ranked([trial for trial in found.ledger if trial.digest in there], score)
    if not trials:
        return None
    best = winner(trials, score)
    label = f"{best.stage} r{best.round} c{best.index + 1}" if best.round else best.stage
    return {"label": label, "arch": best.arch, **{name: best.value(name) for name in (*plan.settings.work.scores, "params", "macs")}}


def _speed(plan: Plan, ended: Sequence[Step]) -> Speed | None:
    """Speed of the ended trainings of a run; None where there is none."""
    step, compiled, image, start = [], [], [], []
    devices = plan.settings.devices_per_job
    for one in ended:
        job, found = one.job, one.ended
        if not isinstance(job, TrainJob) or not isinstance(found, Manifest) or "timing" not in found.metrics:
            continue
        spent, arch = found.metrics["timing"], parse(job.arch)
        epochs, work = job.stop_after_epochs or job.recipe.epochs, image_gmacs(plan, arch, job.detector)
        scored = max(1, epochs // job.recipe.eval_epochs) if job.recipe.eval_epochs else 1
        steps = epochs * steps_per_epoch(plan.counts.train, job.recipe.batch)
        step.append((job.recipe.batch * work / devices, (spent["steps"] + spent["data"]) / steps))
        compiled.append((float(graph_blocks(arch)), spent["compile"]))
        image.append((work, devices * spent["evaluation"] / scored / max(1, plan.counts.val)))
        start.append(max(0.0, found.seconds - sum(spent.values())))
    if not step:
        return None
    nothing = Line(0.0, 0.0)
    return Speed(sum(start) / len(start), fit_line(compiled), fit_line(step), nothing, fit_line(image), nothing, 0.0, nothing)


def _left(plan: Plan, found: Replay, speed: Speed, jobs: Sequence[JobStatus]) -> float:
    """Seconds until the last job of a replay ends."""
    running = {one.label: one for one in jobs if one.state == "running"}

    def seconds(step: Step) -> float:
        whole = job_seconds(plan, step.job, step.epochs, speed)
        one = running.get(str(step.label))
        if one is None or "seconds_left" not in one.progress:
            return whole
        scoring = plan.counts.val * speed.image.at(image_gmacs(plan, parse(step.job.arch), step.job.detector))
        return max(0.0, float(one.progress["seconds_left"]) + scoring - one.silent)

    places = len(plan.settings.device_groups)
    return sum(makespan([seconds(step) for step in group if step.ended is None], places) for group in found.groups)
