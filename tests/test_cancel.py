"""Runs by server and worker that are cancelled, fail or are lost, and go on."""

import json
from pathlib import Path

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect_client import (
    Host,
    epochs,
    family,
    jobs_below,
    kill,
    prefect,
    read_run,
    runs_named,
    start_worker,
    task_runs_of,
    wait_for,
    words,
)
from s3_server import S3Server, upload
from safetensors import safe_open

from flows import presets, services
from spnas_core.jobs.training import CHECKPOINT
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord, read_stage
from spnas_core.store.artifacts import Store

pytestmark = [pytest.mark.training, pytest.mark.long]


def worker(folder: Path) -> psutil.Process:
    """The worker for flows."""
    found = services.running(folder, services.FLOWS)
    assert found
    return found


def cancel(url: str, run: FlowRun) -> None:
    """Cancel a run, which has 30 s to end."""
    assert prefect(url, "flow-run", "cancel", str(run.id)).returncode == 0
    wait_for("cancelled run", lambda: read_run(run.id).state.is_final(), 30)


def lose_reignite(plan: Plan) -> list[StageRecord]:
    """Take stage reignite and those after it out of a finished run's store; the trainings of those after it stay. Return what was there."""
    lost = ("reignite", "parallel", "full_train")
    before = [read_stage(plan.store, plan.keys[name]) for name in lost]
    for name in lost:
        plan.store.remove(f"stage/{plan.keys[name]}")
    (weights,) = before[0].reignited.values()
    plan.store.remove(f"reignite/{weights.digest}")
    return before


def retry_to_the_end(url: str, run: FlowRun, store: Store, plan: Plan, before: list[StageRecord]) -> None:
    """Retry a failed run: it ends as the run that did not fail, and no job of the first two stages is even asked for."""
    assert prefect(url, "flow-run", "retry", str(run.id)).returncode == 0
    wait_for("end", lambda: (state := read_run(run.id).state).is_final() and state.is_completed())
    assert [read_stage(store, plan.keys[name]) for name in ("reignite", "parallel", "full_train")] == before
    ended = {(task.name, task.state.name) for task in task_runs_of(run.id)}
    assert {("fine_tune", "Cached"), ("serial", "Cached")} <= ended
    assert not {name for name, _ in ended if name.startswith(("fine_tune ", "serial "))}


def test_a_failed_stage_that_is_retried_computes_nothing_of_the_others(prefect_up: str, prefect_folder: Path, finished_copy: Plan) -> None:
    """The job of stage reignite is killed as often as it is tried."""
    plan = finished_copy
    before = lose_reignite(plan)
    parameters = ("-p", "settings=smoke", "-p", f"data={plan.data.url}", "-p", f"store={plan.store.url}", "-p", "name=failing")
    assert prefect(prefect_up, "deployment", "run", "spnas/full", *parameters).returncode == 0
    (run,) = wait_for("run", lambda: runs_named("failing on "))
    killed: set[psutil.Process] = set()

    def kill_jobs() -> bool:
        for process in set(jobs_below(worker(prefect_folder).pid)) - killed:
            process.kill()
            killed.add(process)
        return read_run(run.id).state.is_final()

    wait_for("end", kill_jobs)
    assert (read_run(run.id).state.name, len(killed)) == ("Failed", 3)
    assert "killed: reignite" in read_run(run.id).state.message
    retry_to_the_end(prefect_up, run, plan.store, plan, before)


def test_a_stage_that_failed_while_the_store_was_away_goes_on_when_it_is_back(
    prefect_up: str, prefect_folder: Path, finished_copy: Plan, s3_server: S3Server, s3_url: str
) -> None:
    """The S3 server is killed as soon as the job of stage reignite runs, and started again after the run has given up."""
    plan = finished_copy
    before = lose_reignite(plan)
    store = upload(Path(plan.store.local or ""), s3_url)
    parameters = ("-p", "settings=smoke", "-p", f"data={plan.data.url}", "-p", f"store={store}", "-p", "name=away")
    assert prefect(prefect_up, "deployment", "run", "spnas/full", *parameters).returncode == 0
    (run,) = wait_for("run", lambda: runs_named("away on "))
    wait_for("job", lambda: jobs_below(worker(prefect_folder).pid))
    s3_server.kill()
    try:
        wait_for("end", lambda: read_run(run.id).state.is_final(), 900)
    finally:
        s3_server.start()
    assert read_run(run.id).state.name == "Failed"
    assert f"store {store}" in read_run(run.id).state.message
    retry_to_the_end(prefect_up, run, Store(store), plan, before)


@pytest.mark.parametrize("executor", ["local", "work_pool"])
def test_a_cancelled_run_stops_its_jobs_and_the_next_one_goes_on(
    prefect_up: str, prefect_folder: Path, tiny_data: Path, tmp_path: Path, executor: str
) -> None:
    name = f"long-{executor.replace('_', '-')}"
    settings = presets.load_preset("smoke", [f"executor={executor}", f"name={name}", "fine_tune.epochs=2000", "checkpoint_seconds=600"])
    store = tmp_path / "store"
    parameters = ("-p", f"settings={settings.model_dump_json()}", "-p", f"data={tiny_data}", "-p", f"store={store.as_uri()}")
    host = Host(tmp_path / "host", prefect_up) if executor == "work_pool" else None
    where = host.process.pid if host else worker(prefect_folder).pid

    def newest() -> FlowRun:  # the run whose log has the job's lines
        return wait_for("run", lambda: runs_named("fine_tune" if host else f"{name} on "))[0]

    def idle() -> bool:  # the worker of a host keeps the warm process of its jobs
        return not jobs_below(where) if host else [process.pid for process in family(where)] == [where]

    try:
        assert prefect(prefect_up, "deployment", "run", "spnas/full", *parameters).returncode == 0
        wait_for("training", lambda: jobs_below(where) and max(epochs(newest()), default=0) > 2)
        (job,) = jobs_below(where)
        run = runs_named(f"{name} on ")[0]
        cancel(prefect_up, run)
        wait_for("end of the job", lambda: not words(job), 30)
        last = wait_for("end", lambda: newest().state.is_final() and epochs(newest()), 30)[-1]
        assert read_run(run.id).state.name == "Cancelled"
        (kept,) = (store / "checkpoints").rglob(CHECKPOINT)
        with safe_open(kept, "np") as checkpoint:
            trained = len(json.loads(checkpoint.metadata()["history"]))
        assert trained >= last - 1  # lines of the last seconds before the end may not have reached the server
        wait_for("no process left", idle, 10)
        assert prefect(prefect_up, "flow-run", "retry", str(run.id)).returncode == 0
        wait_for("second training", lambda: jobs_below(where) and max(epochs(newest()), default=0) > trained + 1)
        after = epochs(newest())  # of a job's own run: of its second one alone
        assert after.count(trained + 1) == 1
        assert after.count(1) == (0 if host else 1)
        cancel(prefect_up, run)
        wait_for("no process left", idle, 30)
    finally:
        if host:
            host.kill()


def test_a_run_that_was_lost_with_its_machine_has_crashed_and_can_be_retried(
    prefect_up: str, prefect_folder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """No one is left to say so but the automation of automations.yaml."""
    settings = presets.load_preset("smoke", ["name=lost", "fine_tune.epochs=2000", "checkpoint_seconds=0.5"])
    parameters = ("-p", f"settings={settings.model_dump_json()}", "-p", f"data={tiny_data}", "-p", f"store={(tmp_path / 'store').as_uri()}")
    assert prefect(prefect_up, "deployment", "run", "spnas/full", *parameters).returncode == 0
    (run,) = wait_for("run", lambda: runs_named("lost on "))
    wait_for("training", lambda: max(epochs(run), default=0) > 2)
    lost = worker(prefect_folder).pid
    kill(lost)
    start_worker(prefect_folder, prefect_up)
    wait_for("end", lambda: (state := read_run(run.id).state).is_crashed() and "heartbeats stopped" in state.message)
    seen = max(epochs(run))
    assert prefect(prefect_up, "flow-run", "retry", str(run.id)).returncode == 0
    wait_for("training", lambda: max(epochs(run)) > seen + 2)
    assert epochs(run).count(1) == 1  # it went on from its checkpoint
    cancel(prefect_up, run)
