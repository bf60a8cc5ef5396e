"""Jobs on hosts of a work pool that share with the flow no more than the Prefect server and an S3 store."""

import contextvars
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Cancelled, Crashed, Failed
from prefect_client import Host, epochs, kill, runs_named, wait_for
from s3_server import download, files_with_key, free_ports, upload

from flows import presets, services
from flows.spnas import spnas
from spnas_core.errors import JobError, MissingArtifactError, Stopped, StoreError, UserError
from spnas_core.job import BenchmarkJob
from spnas_core.jobs import runner
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord, ended_trial, read_stage
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Retries, Run
from spnas_core.store.manifest import Manifest
from tasks import pool
from tasks.devices import devices_here, free_devices
from tasks.jobs import Executor, is_tried_again
from tasks.stages import run_stage

pytestmark = pytest.mark.training
JOB = BenchmarkJob(arch="b_1111-2111", detector=Detector(base_width=4), classes=2, device_target="CPU", threads=1)


@pytest.fixture
def hosts(prefect_up: str, tmp_path: Path) -> Iterator[list[Host]]:
    """Two hosts with one device each."""
    both = [Host(tmp_path / name, prefect_up) for name in ("one", "two")]
    yield both
    for host in both:
        if host.process.poll() is None:
            host.kill()


def search_serially(plan: Plan, start: StageRecord) -> StageRecord:
    """The serial stage alone, as a flow of this process."""

    @flow(name="serial-on-hosts")
    def serial_only() -> StageRecord:
        return run_stage(plan, Executor(plan.store.url, plan.settings), "serial", start)

    return serial_only()


@pytest.mark.long
def test_a_search_on_two_hosts_of_which_one_is_killed_in_mid_training(
    hosts: list[Host], prefect_folder: Path, s3_url: str, tiny_data: Path, tmp_path: Path
) -> None:
    """Its ledger is that of a search on this host which nobody disturbed; nothing anywhere holds the key of the store."""
    longer = ["serial.recipe.epochs=80", "checkpoint_seconds=0.5"]
    undisturbed = open_plan(presets.load_preset("smoke", longer), str(tiny_data), str(tmp_path / "store"))
    job = undisturbed.train(undisturbed.settings.arch, undisturbed.settings.detector, undisturbed.settings.fine_tune)
    trial = ended_trial(undisturbed, "fine_tune", 0, 0, None, job, runner.run_job(job, undisturbed.store.url))
    start = StageRecord(name="fine_tune", key=undisturbed.keys["fine_tune"], ledger=(trial,))
    settings = presets.load_preset("smoke", [*longer, "executor=work_pool", "lease_seconds=6"])
    plan = open_plan(settings, upload(tiny_data, s3_url), upload(tmp_path / "store", s3_url))
    assert undisturbed.keys == plan.keys

    def kill_one() -> None:
        def saved() -> bool:
            paths = [path.split("/") for path in plan.store.files("checkpoints/train") if path.endswith("/manifest.json")]
            paths = [path for path in paths if int(path[1]) > 2]  # the first is of the first step
            return len({digest for digest, *_ in paths}) == 2 and all(host.works() for host in hosts)

        wait_for("checkpoints of both hosts", saved)
        hosts[0].kill()

    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(kill_one)
        found = search_serially(plan, start)
        killed.result()
    assert found == search_serially(undisturbed, start)

    runs = [runs_named(f"serial r1 c{number}") for number in (1, 2)]
    states = [[run.state.name for run in of_one if run.state] for of_one in runs]  # the newest first
    assert sorted(states) == [["Completed"], ["Completed", "Crashed"]]
    again, _ = runs[states.index(["Completed", "Crashed"])]
    assert min(epochs(again)) > 1  # it went on from the checkpoint
    download(plan.store.url, tmp_path / "copy")
    for path in files_with_key(tmp_path, prefect_folder):  # Prefect's own: a run's environment, left by the dead host
        assert path.parent.name.startswith("prefect-workspace-attempt-")
        assert path.is_relative_to(hosts[0].folder / "tmp")
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.long
def test_nothing_is_asked_of_a_pool_that_the_store_has(finished_copy: Plan) -> None:
    plan, folder = finished_copy, Path(finished_copy.store.local or "")
    before = read_stage(plan.store, plan.keys["full_train"])
    shutil.rmtree(folder / "results")
    (folder / "stage" / plan.keys["serial"] / "manifest.json").unlink()
    spnas(plan.settings.model_copy(update={"executor": "work_pool"}), plan.data.url, plan.store.url)  # a pool without workers
    assert read_stage(plan.store, plan.keys["full_train"]) == before


def test_a_pool_without_its_deployment_is_one_line(prefect_server: str, monkeypatch: pytest.MonkeyPatch, finished_copy: Plan) -> None:
    monkeypatch.setattr(pool, "DEPLOYMENT", "spnas-job/nowhere")
    job = finished_copy.train("b_1111-2112", finished_copy.settings.detector, finished_copy.settings.fine_tune)
    with pytest.raises(UserError, match="expected the deployment spnas-job/nowhere on the Prefect server, found none"):
        pool.run_on_pool(job, finished_copy.store.url, "one", finished_copy.settings, threading.Event())


def test_a_server_that_is_not_there_is_tried_again(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/api"
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(StoreError, match=r"Prefect server: expected an answer, got: .+") as caught,
    ):
        pool.run_on_pool(JOB, str(tmp_path), "one", Run(), threading.Event())
    assert is_tried_again(Retries(), 1, caught.value)


@pytest.mark.long
def test_a_server_that_is_killed_while_a_job_waits_and_comes_back(tmp_path: Path) -> None:
    """What waits on the pool is found again, and not asked for twice."""
    folder, port = tmp_path / "prefect", free_ports(1)[0]
    quick = {PREFECT_CLIENT_MAX_RETRIES: 1, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    try:
        url = services.start_server(folder, port)
        services.deploy(folder, url)
        with temporary_settings({PREFECT_API_URL: url, **quick}), ThreadPoolExecutor(1) as thread:

            def ask(stopped: threading.Event) -> Future[Manifest]:
                work = (pool.run_on_pool, JOB, str(tmp_path / "store"), "lost and found", Run(lease_seconds=1), stopped)
                return thread.submit(contextvars.copy_context().run, *work)

            asked = ask(threading.Event())
            (run,) = wait_for("run", lambda: runs_named("lost and found"))
            server = services.running(folder, services.SERVER)
            assert server
            kill(server.pid)
            with pytest.raises(StoreError, match="Prefect server: expected an answer"):
                asked.result(120)
            services.start_server(folder, port)
            stopped = threading.Event()
            again = ask(stopped)
            time.sleep(2)
            assert not again.done()
            stopped.set()
            with pytest.raises(Stopped):
                again.result(60)
            (same,) = runs_named("lost and found")
            assert same.id == run.id
            assert same.state
            assert same.state.name in ("Cancelling", "Cancelled")
    finally:
        services.down(folder)


@pytest.mark.parametrize(
    "error",
    [
        JobError("diverged", "loss is nan"),
        JobError("out_of_memory", "x"),
        UserError("x: expected"),
        StoreError("away"),
        MissingArtifactError("y"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failures_come_back_from_a_host_with_their_types(error: Exception) -> None:
    back = pool.error_of(pool.failed(error))
    assert (type(back), str(back)) == (type(error), str(error))


def test_what_befalls_a_run_on_a_pool_is_a_killed_job_and_a_bug_stays_one() -> None:
    for state in (Crashed(message="lost"), Cancelled(message="by hand")):
        assert (back := pool.error_of(state)).reason == "killed"  # type: ignore[attr-defined]
        assert state.message in str(back)
    assert isinstance(pool.error_of(Failed(message="Flow run encountered an exception: KeyError")), runner.JobBug)


def test_each_device_of_a_host_is_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stopped = threading.Event()
    with free_devices([(4, 5, 6)], 2, stopped) as first, free_devices([(4, 5, 6)], 1, stopped) as second:
        assert (first, second) == ((4, 5), (6,))
        threading.Timer(0.1, stopped.set).start()
        with pytest.raises(Stopped, match="waited for free devices"), free_devices([(4, 5, 6)], 1, stopped, poll=0.05):
            pass
    with free_devices([(4, 5, 6)], 3, threading.Event()) as again:
        assert again == (4, 5, 6)


@pytest.mark.parametrize(("text", "found"), [("", (0,)), ("0,1,2,3", (0, 1, 2, 3)), ("7", (7,))])
def test_devices_of_a_host(text: str, found: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPNAS_DEVICES", text)
    assert devices_here() == found
    monkeypatch.setenv("SPNAS_DEVICES", f"{text},x")
    with pytest.raises(UserError, match="SPNAS_DEVICES: expected numbers of devices"):
        devices_here()
    monkeypatch.setenv("SPNAS_DEVICES", "1,1")
    with pytest.raises(UserError, match="each device once"):
        devices_here()


def test_jobs_at_once_and_their_devices() -> None:
    executor = Executor("memory://x", Run(devices=(4, 5, 6, 7)))
    assert [executor.at_once(count) for count in (0, 1, 3, 9)] == [1, 1, 3, 4]
    with executor.devices() as one, executor.devices() as other:
        assert (one, other) == ((4,), (5,))
    assert Executor("memory://x", Run(devices=(4, 5, 6, 7), devices_per_job=2)).at_once(9) == 2
    executor.slots.stopped.set()
    with pytest.raises(Stopped, match="waited for free devices"), executor.devices():
        pass
    assert Executor("memory://x", Run(executor="work_pool")).at_once(9) == 9


HOLD = """
import sys
from spnas_core.settings.run import Run
from tasks.jobs import Executor
with Executor("memory://x", Run(device_target="Ascend", devices=(4, 5, 6, 7), devices_per_job=2)).devices() as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_two_runs_and_a_worker_of_one_host_share_its_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device is held once, whoever holds it, and by whole groups of a run; slots of the CPU are a run's own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    slots, stopped = Run(devices=(4, 5, 6, 7), devices_per_job=2), threading.Event()
    executor = Executor("memory://x", slots.model_copy(update={"device_target": "Ascend"}))
    variables, pipe = {**os.environ, "TMPDIR": str(tmp_path)}, subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD], env=variables, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "(4, 5)\n"
        with executor.devices() as held, Executor("memory://x", slots).devices() as slot:
            assert (held, slot) == ((6, 7), (4, 5))
            threading.Timer(0.1, stopped.set).start()
            with pytest.raises(Stopped), free_devices([(4, 5, 6, 7)], 1, stopped, poll=0.05):  # of a job of the work pool
                pass
            threading.Timer(0.1, executor.slots.stopped.set).start()
            with pytest.raises(Stopped, match="waited for free devices"), executor.devices():
                pass
            executor.slots.stopped.clear()
        process.stdin.close()
        assert process.wait() == 0
    with executor.devices() as held, executor.devices() as second:
        assert {held, second} == {(4, 5), (6, 7)}
