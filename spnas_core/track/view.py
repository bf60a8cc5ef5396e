"""A search as a tracker is told of it, derived from its store alone by the replay of the run."""

import contextlib
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

from spnas_core.errors import JobError
from spnas_core.job import canonical_json
from spnas_core.jobs.progress import SHOWN_OF_EPOCH
from spnas_core.jobs.progress_file import read_progress
from spnas_core.monitor.status import Watcher
from spnas_core.names import HISTORY_FILE
from spnas_core.run.crew import Label
from spnas_core.run.plan import Plan
from spnas_core.run.record import scores_of
from spnas_core.run.replay import Step
from spnas_core.run.rounds import rounds
from spnas_core.search.ledger import Trial
from spnas_core.settings.search import MEASURED
from spnas_core.settings.task import task_of_metrics
from spnas_core.store.manifest import Manifest
from spnas_core.track.parameters import search_parameters, training_parameters
from spnas_core.track.tracked import TrackedFile, TrackedRun, TrackedState

_TRAINED = ("fine_tune", "candidate", "reignite", "full_train")  # roles of jobs that are runs of their own
_Numbers = Mapping[str, float]


class _Course(NamedTuple):
    """How a training went: its curves by name and epoch, when it began and when it was last heard of."""

    curves: dict[str, dict[int, float]]
    begun: float | None
    last: float | None


class SearchView:
    """Viewer of one search that is announced in its store; each look reads only what has changed since the last."""

    def __init__(self, plan: Plan) -> None:
        self._watcher = Watcher(plan.store, plan.settings.name, plays=1)
        self._plan, self._courses = plan, dict[str, _Course]()
        self.key = _key(plan.store.url, plan.settings.name, plan.keys["full_train"])

    def look(self, state: TrackedState) -> list[TrackedRun]:
        """Return the search, which is in `state`, and its trainings that have begun, in their order."""
        replay = self._watcher.replay()
        steps = [step for step in replay.steps if step.sure]
        trials = {(trial.stage, trial.round, trial.index): trial for trial in replay.ledger}
        digests = {trial.digest: trial for trial in replay.ledger}
        groups: dict[Label, list[Step]] = defaultdict(list)  # with halving, a candidate has a job for each rung
        for step in steps:
            if step.label.role in _TRAINED:
                groups[step.label].append(step)
        told = []
        for label, rungs in groups.items():
            trial = trials.get((label.stage, label.round, label.index)) if label.role == "candidate" else None  # type: ignore[arg-type]
            parent = digests.get(trial.parent or "") if trial else None
            measured = _numbers({name: trial.metrics.get(name) for name in MEASURED}) if trial and trial.metrics else {}
            for step in steps if label.role == "full_train" else ():
                if step.label.role == "evaluate" and step.label.net == label.net:
                    measured |= {f"{step.label.split}/{name}": value for name, value in _stats(step).items()}
            if one := self._training(label, rungs, parent, measured, state):
                told.append(one)
        ended = {step.key for step in steps if step.ended is not None}
        return [self._search(state, told, steps, [trial for trial in replay.ledger if trial.digest in ended]), *told]

    def _search(self, state: TrackedState, told: Sequence[TrackedRun], steps: Sequence[Step], ledger: Sequence[Trial]) -> TrackedRun:
        plan, store = self._plan, self._plan.store
        points = {number: trial.score for number, trial in enumerate(ledger) if trial.score is not None and trial.score >= 0}
        score = plan.settings.work.score
        curves = {f"trial/{score}": points, f"trial/best {score}": dict(zip(points, accumulate(points.values(), max), strict=True))}
        files: dict[str, TrackedFile] = {}
        if state == "done":
            volumes = [one["hypervolume"] for one in rounds(ledger, plan.settings)]
            curves["round/hypervolume"] = dict(enumerate(volumes))
            folder = f"runs/{plan.settings.name}"
            files = {path: _file(partial(store.read, f"{folder}/{path}")) for path in store.files(folder)}
        return TrackedRun(
            key=self.key,
            parent="",
            name=plan.settings.name,
            state=state,
            parameters=search_parameters(plan),
            scores=_final_scores(steps) | {"trials": len(ledger), "failed": sum(1 for trial in ledger if trial.failure)},
            curves=curves,
            files=files,
            note=f"runs/{plan.settings.name} of {store.url}, data {plan.data.url}",
            begun=min((one.begun for one in told if one.begun), default=None),
            ended=max((one.ended for one in told if one.ended), default=None) if state != "running" else None,
        )

    def _training(
        self, label: Label, rungs: Sequence[Step], parent: Trial | None, measured: _Numbers, state: TrackedState
    ) -> TrackedRun | None:
        """Tell of one training, with what other jobs have measured of its net; None where it has not begun."""
        last, store = rungs[-1], self._plan.store
        courses = [self._course(step) for step in rungs]
        if last.ended is None and not any(course.begun for course in courses):
            return None
        curves: dict[str, dict[int, float]] = defaultdict(dict)
        for course in courses:
            for name, curve in course.curves.items():
                curves[name] |= curve
        scores: dict[str, float] = {}
        files: dict[str, TrackedFile] = {}
        path = f"{last.job.kind}/{last.key}"
        note = f"{path} of {store.url}"
        if isinstance(last.ended, Manifest):
            scores = _numbers(scores_of(last.ended)) | dict(measured)
        elif isinstance(last.ended, JobError):
            note = f"{last.ended.args[0].splitlines()[0]}; {note}"
            with contextlib.suppress(FileNotFoundError):
                files["log.txt"] = _file(partial(store.read, f"logs/{path}.txt"))
        ended = {Manifest: "done", JobError: "failed"}.get(type(last.ended), state)
        return TrackedRun(
            key=_key(self.key, *astuple(label)),
            parent=self.key,
            name=str(label),
            state=ended,  # type: ignore[arg-type]
            parameters=training_parameters(self._plan, label, last.job, parent),
            scores=scores,
            curves=dict(curves),
            files=files,
            note=note,
            begun=next((course.begun for course in courses if course.begun), None),
            ended=None if last.ended is None else courses[-1].last,
        )

    def _course(self, step: Step) -> _Course:
        """Curves and times of a job: of an ended training from its artifact, else as far as its progress tells."""
        if step.key in self._courses:
            return self._courses[step.key]
        store, kind = self._plan.store, step.job.kind
        progress = read_progress(store, kind, step.key)
        records = progress.get("curve", [])
        if isinstance(step.ended, Manifest) and HISTORY_FILE in step.ended.files:
            records = json.loads(store.fetch(kind, step.key, HISTORY_FILE).read_bytes())
        curves = {
            f"epoch/{name}": {int(one["epoch"]): score for one in records if (score := _numbers(one).get(name)) is not None}
            for name in SHOWN_OF_EPOCH
        }
        course = _Course({name: curve for name, curve in curves.items() if curve}, progress.get("begun"), progress.get("at"))
        if step.ended is not None:
            self._courses[step.key] = course
        return course


def _key(*facts: Any) -> str:
    return hashlib.sha256(canonical_json({"run": facts}).encode()).hexdigest()[:32]


def _final_scores(steps: Iterable[Step]) -> dict[str, float]:
    """Scores of the nets trained to their end, by net and split; those on val of a training, unless an evaluation scored it there."""
    found: dict[str, float] = {}
    for step in steps:
        if step.label.role in ("full_train", "evaluate"):
            found |= {f"{step.label.net}/{step.label.split or 'val'}/{name}": value for name, value in _stats(step).items()}
    return found


def _stats(step: Step) -> _Numbers:
    return (
        {name: value for name, value in _numbers(step.ended.metrics).items() if name in task_of_metrics(step.ended.metrics).stats}
        if isinstance(step.ended, Manifest)
        else {}
    )


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a number; below 0 is COCO's sign for a score that there is not."""
    numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if math.isfinite(value) and value >= 0}


def _file(read: Any) -> TrackedFile:
    return TrackedFile(hashlib.sha256(read()).hexdigest(), read)
