"""The replay of a run is the run: the same jobs in the same order, the same ledger, however its jobs end.

Flow, tasks, claims, records and progress files are the real ones; only the workers' processes are scripted: a job leaves made-up results,
or fails, as it is told. tests/test_whole_search.py says the same of real trainings.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from reported import Maker, make_data
from test_whole_search import SETTINGS
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from flows.spnas import spnas
from spnas_core.errors import JobError, Reason
from spnas_core.job import BenchmarkJob, EvaluateJob, Job, ReigniteJob, TrainJob, digest
from spnas_core.jobs import runner
from spnas_core.jobs.request import FAILED, WorkerRequest
from spnas_core.monitor.status import Watcher, all_runs
from spnas_core.run.crew import Ended, Label, Work
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import newest_round, read_stage
from spnas_core.run.replay import known_results, replay
from spnas_core.settings.run import STAGE_NAMES
from tasks.jobs import Executor

pytestmark = pytest.mark.training
Fails = Callable[[Label], Reason | None]
LATENCY = ("objectives=[AP, latency_ms]", "budget={latency_ms: [null, 60]}", "serial.candidates=3", "serial.rounds=2")
HALVING = ("serial.recipe.epochs=3", "serial.candidates=4", "serial.halving={rungs: [1, 2], keep: 0.5}", "parallel.candidates=2")
REIGNITING = ("serial.rounds=3", "serial.n_stuck=1", "serial.max_reignite=2", "objectives=[AP]")
QUICK = ("retries={killed: 0, crashed: 0, store: 0}", "lease_seconds=0.5", "checkpoint_seconds=5")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("replay") / "data")


class Workers:
    """Scripted workers: `asked` are the jobs of a run, group by group; each leaves made-up results, or fails as `fails` says."""

    def __init__(self, plan: Plan, fails: Fails) -> None:
        self.maker, self.fails = Maker(plan), fails
        self.asked: list[list[tuple[str, str]]] = []
        self.labels: dict[str, Label] = {}

    def note(self, work: Sequence[Work]) -> None:
        self.asked.append([(str(label), digest(job)) for label, job in work])
        self.labels |= {digest(job): label for label, job in work}

    def work(self, _path: Path, log: Path, request: WorkerRequest, *_rest: Any) -> tuple[int, dict[str, Any], JobError | None]:
        """Stand for the process of one job."""
        job, key = request.job, digest(request.job)
        if reason := self.fails(self.labels[key]):
            log.write_text("scripted\n")
            return FAILED, {"event": "failed", "reason": reason, "message": "as it was told"}, None
        with tempfile.TemporaryDirectory() as scratch:
            self.leave(job, int(key[:8], 16), Path(scratch) / "out")
        return 0, {"event": "done"}, None

    def leave(self, job: Job, seed: int, folder: Path) -> None:
        if isinstance(job, TrainJob):
            self.maker.train(job, seed, folder)
            return
        folder.mkdir()
        metrics: dict[str, Any] = {}
        if isinstance(job, BenchmarkJob):
            metrics = {"latency_ms": 40.0 + seed % 30, "reference_ms": 9.0 + seed % 3, "memory_mb": 500.0}
        if isinstance(job, ReigniteJob):
            metrics = {"top1": 0.5, "epochs": job.recipe.epochs}
        if isinstance(job, EvaluateJob):
            metrics = self.maker.scores(job.arch, seed)[1]
        self.maker.plan.store.publish(job, folder, metrics, 1.0)


def run(
    data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, settings: Sequence[str], fails: Fails = lambda _: None
) -> tuple[Plan, Workers, JobError | None]:
    """Do a run with scripted workers; returns its plan, what it asked of them, and its failure."""
    plan = open_plan(presets.load_preset("smoke", [*QUICK, *settings]), str(data), (folder / "store").as_uri())
    workers, do = Workers(plan, fails), Executor.do

    def noted(executor: Executor, work: Sequence[Work]) -> list[Ended]:
        workers.note(work)
        return do(executor, work)

    monkeypatch.setattr(Executor, "do", noted)
    monkeypatch.setattr(runner, "_follow", workers.work)
    try:
        spnas(plan.settings, plan.data.url, plan.store.url)
    except JobError as error:
        return plan, workers, error
    return plan, workers, None


def check(plan: Plan, workers: Workers, failure: JobError | None) -> None:
    """The replay asks for the jobs of the run, in its order, and comes to its ledger; so do the programs that read it."""
    if failure:
        time.sleep(2 * plan.settings.lease_seconds)  # one that was just heard of may go on again
    watcher = Watcher(plan.store, "smoke")
    now = watcher.look()
    played = watcher.replay()
    assert [[(str(step.label), digest(step.job)) for step in group] for group in played.groups] == workers.asked
    assert all(step.sure and step.ended is not None for step in played.steps)
    done = [name for name in STAGE_NAMES if plan.store.find("stage", plan.keys[name])]
    assert bool(played.ledger) == bool(done)
    if done:
        record = read_stage(plan.store, plan.keys[done[-1]])
        record = newest_round(plan, record)[1] if done[-1] == "fine_tune" else record
        assert played.ledger == record.ledger
    if not failure:
        again = replay(plan, known_results(plan))  # without the progress files, as plan and report do
        assert [[digest(step.job) for step in group] for group in again.groups] == [[key for _, key in group] for group in workers.asked]
        assert again.ledger == played.ledger
    assert now.state == ("failed" if failure else "finished")
    assert (now.done, now.left) == (now.total, None if failure else 0.0)
    assert ("smoke", now.state) in [(one.name, one.state) for one in all_runs(plan.store)]
    shown = [
        CliRunner().invoke(app, [*words, "--store", plan.store.url]) for words in (["status", "smoke"], ["status"], ["doctor", "smoke"])
    ]
    assert [one.exit_code for one in shown[:2]] == [0, 0]
    assert shown[2].exit_code in (0, 1)
    assert all(one.exception is None or isinstance(one.exception, SystemExit) for one in shown)
    assert f"smoke: {now.state}" in shown[0].stdout
    if failure:
        assert failure.reason in shown[0].stdout
    if done:
        reported = CliRunner().invoke(app, ["report", "smoke", "--store", plan.store.url])
        assert reported.exception is None, reported.exc_info


LONG = pytest.mark.long  # each takes some seconds; those that stay short have all kinds of jobs and all ways to fail


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(SETTINGS, id="whole"),
        pytest.param(HALVING, id="halving", marks=LONG),
        pytest.param(LATENCY, id="latency", marks=LONG),
        pytest.param(REIGNITING, id="reigniting", marks=LONG),
    ],
)
def test_the_replay_of_a_run_is_the_run(
    settings: tuple[str, ...], prefect_server: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, workers, failure = run(data, tmp_path, monkeypatch, settings)
    assert failure is None
    check(plan, workers, failure)


PLACES: dict[str, tuple[tuple[str, ...], Reason, bool, Fails]] = {
    "start net": ((), "diverged", True, lambda label: "diverged" if label.role == "fine_tune" else None),
    "benchmark of the start net": (
        LATENCY, "timeout", True,
        lambda label: "timeout" if label.role == "benchmark" and label.ends_run else None,
    ),
    "benchmark of a candidate": (
        LATENCY, "crashed", False,
        lambda label: "crashed" if label.role == "benchmark" and label.round == 1 and label.index == 1 else None,
    ),
    "candidate": (
        ("serial.candidates=3",), "out_of_memory", False,
        lambda label: "out_of_memory" if label.role == "candidate" and label.index == 0 and label.stage == "serial" else None,
    ),
    "candidate at a rung": (
        HALVING, "diverged", False,
        lambda label: "diverged" if label.role == "candidate" and label.index in (0, 2) else None,
    ),
    "parallel candidate": (
        ("parallel.candidates=2",), "timeout", False,
        lambda label: "timeout" if label.stage == "parallel" and label.role == "candidate" else None,
    ),
    "reignition of the serial search": (
        REIGNITING, "diverged", True,
        lambda label: "diverged" if label.role == "reignite" and label.stage == "serial" else None,
    ),
    "reignition": ((), "crashed", True, lambda label: "crashed" if label.role == "reignite" else None),
    "final net": (
        (), "out_of_memory", True,
        lambda label: "out_of_memory" if label.net == "final" and label.role == "full_train" else None,
    ),
    "start net in full": ((), "diverged", False, lambda label: "diverged" if label.net == "start" and label.role == "full_train" else None),
    "evaluation": ((), "timeout", True, lambda label: "timeout" if label.role == "evaluate" else None),
}  # fmt: skip


SHORT = ("benchmark of the start net", "benchmark of a candidate", "candidate at a rung", "reignition of the serial search", "final net")


@pytest.mark.parametrize("place", [place if place in SHORT else pytest.param(place, marks=LONG) for place in PLACES])
def test_wherever_a_job_fails_the_replay_is_the_run(
    place: str, prefect_server: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, reason, ends, fails = PLACES[place]
    plan, workers, failure = run(data, tmp_path, monkeypatch, settings, fails)
    assert any(fails(label) for label in workers.labels.values())
    assert (failure is not None) == ends
    if failure:
        assert failure.reason == reason
    check(plan, workers, failure)
    told = json.loads(CliRunner().invoke(app, ["status", "smoke", "--store", plan.store.url, "--json"]).stdout)
    assert any(line.endswith(reason) for line in told["failures"])
