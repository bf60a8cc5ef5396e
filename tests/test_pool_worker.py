"""The worker of type spnas, which runs jobs on threads of its own process; and one of type process, which still works."""

import contextvars
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import LogFilter
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.workers.process import ProcessWorker
from prefect_client import Host, epochs, family, jobs_below, read_run, runs_named, wait_for
from s3_server import free_ports

from flows import presets, services
from spnas_core.errors import JobError, MissingArtifactError, Stopped, UserError
from spnas_core.job import TrainJob, Weights
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.store.manifest import Manifest
from tasks import pool

pytestmark = pytest.mark.training


@pytest.fixture
def plan(tiny_data: Path, tmp_path: Path) -> Plan:
    """A run with an empty store, whose jobs save checkpoints only when they are stopped."""
    settings = presets.load_preset("smoke", ["executor=work_pool", "checkpoint_seconds=600"])
    return open_plan(settings, str(tiny_data), (tmp_path / "store").as_uri())


@pytest.fixture
def asking() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def training(plan: Plan, epochs: int, base_width: int = 4, **changes: Any) -> TrainJob:
    """Training of a start net; those of different widths are different jobs."""
    detector = plan.settings.detector.model_copy(update={"base_width": base_width})
    return plan.train(plan.settings.arch, detector, plan.settings.fine_tune.lasting(epochs)).model_copy(update=changes)


def ask(asking: ThreadPoolExecutor, plan: Plan, job: TrainJob, label: str, stopped: threading.Event | None = None) -> Future[Manifest]:
    """Do a job on the pool."""
    words = (job, plan.store.url, label, plan.settings, stopped or threading.Event())
    return asking.submit(contextvars.copy_context().run, pool.run_on_pool, *words)


def checkpoints(plan: Plan) -> int:
    return len([path for path in plan.store.files("checkpoints") if path.endswith("/manifest.json")])


def messages(run: Any) -> list[str]:
    """Lines in the log of a run."""
    with get_client(sync_client=True) as client:
        return [one.message for one in client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [run.id]}}), limit=200)]


def test_of_two_jobs_at_once_one_is_cancelled_and_the_other_is_stopped_with_its_worker(
    prefect_up: str, plan: Plan, asking: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """Both save a checkpoint, and both go on from it on the next worker, which lives longer than a job that is killed."""
    cancelled, both = threading.Event(), {"one cancelled": training(plan, 2000), "one stopped": training(plan, 2000, 6)}
    host = Host(tmp_path / "first", prefect_up, devices="0,1")
    try:
        first = ask(asking, plan, both["one cancelled"], "one cancelled", cancelled)
        second = ask(asking, plan, both["one stopped"], "one stopped")
        for label in both:
            wait_for(f"training, {label}", lambda label=label: max(epochs(wait_for("run", lambda: runs_named(label))[0]), default=0) > 2)
        assert len(jobs_below(host.process.pid)) == 2
        (run,) = runs_named("one cancelled")
        cancelled.set()
        with pytest.raises(Stopped):
            first.result(30)
        wait_for("cancelled run", lambda: read_run(run.id).state.name == "Cancelled", 40)
        assert checkpoints(plan) == 1
        assert len(jobs_below(host.process.pid)) == 1

        processes = family(host.process.pid)
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(40) == 0
        with pytest.raises(JobError, match="its worker was stopped") as caught:
            second.result(60)
        assert caught.value.reason == "killed"
        (run,) = runs_named("one stopped")
        assert read_run(run.id).state.is_crashed()
        assert checkpoints(plan) == 2
        assert not psutil.wait_procs(processes, timeout=10)[1]
    finally:
        host.kill()
    host = Host(tmp_path / "second", prefect_up, devices="0,1")
    try:
        again = [ask(asking, plan, job, f"{label} again") for label, job in both.items()]
        for label in both:
            (run,) = wait_for("run", lambda label=label: runs_named(f"{label} again"))
            wait_for("training", lambda run=run: epochs(run))
            assert min(epochs(run)) > 1
        for job in jobs_below(host.process.pid):
            job.kill()
        for one in again:
            with pytest.raises(JobError, match="SIGKILL") as caught:
                one.result(60)
            assert caught.value.reason == "killed"
        assert ask(asking, plan, training(plan, 1), "one more").result(120).metrics["AP"] >= 0
    finally:
        host.kill()


def test_failures_of_jobs_have_their_types_and_end_no_worker(
    prefect_up: str, plan: Plan, asking: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host = Host(tmp_path / "host", prefect_up)
    lost = Weights(kind="train", digest="0" * 64, arch=plan.settings.arch)
    try:
        with pytest.raises(MissingArtifactError):
            ask(asking, plan, training(plan, 1, weights=(lost,)), "no weights").result(120)
        job = training(plan, 1, 6)
        nowhere = job.model_copy(update={"data": job.data.model_copy(update={"url": "file:///nowhere"})})
        with pytest.raises(UserError):
            ask(asking, plan, nowhere, "no data").result(60)
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(pool.DEPLOYMENT)
            other = {"env": {"PREFECT_LOGGING_LEVEL": "INFO", "OTHER": "x"}}
            run = client.create_flow_run_from_deployment(
                deployment.id, name="no job", parameters={"store": "file:///x"}, job_variables=other
            )
        wait_for("end", lambda: read_run(run.id).state.is_final(), 60)
        assert read_run(run.id).state.is_crashed()  # as on a worker of type process: the flow cannot be called
        for line in ("expected settings of Prefect: OTHER", "missing a required argument: 'job'"):
            wait_for("line of the log", lambda line=line: any(line in one for one in messages(run)), 30)
        done = ask(asking, plan, training(plan, 1), "a job").result(120)
        assert done.job["arch"] == plan.settings.arch
        assert host.process.poll() is None
        (run,) = runs_named("a job")
        wait_for("line of the log", lambda: any(line.startswith("a job: done in ") for line in messages(run)), 30)
    finally:
        host.kill()


def test_a_worker_that_starts_before_its_server_waits_for_it(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", f"http://127.0.0.1:{free_ports(1)[0]}/api", kind="spnas")
    try:
        wait_for("line of the log", lambda: "keep attempting to connect" in (host.folder / "worker.log").read_text(), 60)
        assert host.process.poll() is None
    finally:
        host.kill()


def test_a_pool_of_type_process_stays_one_and_serves_workers_of_both_types(plan: Plan, asking: ThreadPoolExecutor, tmp_path: Path) -> None:
    folder, hosts = tmp_path / "prefect", list[Host]()
    try:
        url = services.start_server(folder, *free_ports(1))
        with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), get_client(sync_client=True) as client:
            client.create_work_pool(WorkPoolCreate(name=services.JOBS, type="process"))
            services.deploy(folder, url)
            there = client.read_work_pool(services.JOBS)
            assert (there.type, there.base_job_template) == ("process", ProcessWorker.get_default_base_job_template())
            for number, kind in enumerate(("process", "spnas")):
                hosts.append(Host(tmp_path / kind, url, kind=kind))
                assert ask(asking, plan, training(plan, 1, 4 + 2 * number), kind).result(180).metrics["AP"] >= 0
                hosts[-1].kill()
    finally:
        for host in hosts:
            host.kill()
        services.down(folder)
