"""What tests ask of a Prefect server, and hosts with workers of their own."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import LogSort

from flows import services

PATIENCE = 240.0
QUIET = (  # variables of the tests' own process, the last one since a run without a server of its own was started in it
    "PREFECT_LOGGING_LEVEL",
    "PREFECT_LOGGING_TO_API_ENABLED",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL",
)


def prefect(url: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """`prefect WORDS` with the server at `url`."""
    variables = {**os.environ, "PREFECT_API_URL": url, "COLUMNS": "300"}
    command = [sys.executable, "-m", "prefect", *words]
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=PATIENCE)


def task_runs(output: str, state: str) -> set[str]:
    """Names of the task runs that `--watch` has seen in a state."""
    return {name.strip() for name in re.findall(rf"prefect\.task-run\.{state} \* (.*)", output)}


def wait_for(what: str, look: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait until `look` gives something."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    return pytest.fail(f"no {what} within {patience:.0f} s")


def runs_named(name: str) -> list[FlowRun]:
    """Flow runs whose name begins so, the newest first."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"name": {"like_": name}}))
    return sorted((run for run in found if run.name.startswith(name)), key=lambda run: run.created, reverse=True)


def read_run(run: Any) -> FlowRun:
    """A flow run as the server has it now."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run)


def task_runs_of(run: Any) -> list[TaskRun]:
    """Task runs of a flow run."""
    with get_client(sync_client=True) as client:
        return client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run]}}), limit=200)


def epochs(run: FlowRun) -> list[int]:
    """Epochs of trainings that the log of a run tells of, in its order."""
    with get_client(sync_client=True) as client:
        wanted = LogFilter.model_validate({"flow_run_id": {"any_": [run.id]}})
        pages = [client.read_logs(wanted, limit=200, offset=first, sort=LogSort.TIMESTAMP_ASC) for first in range(0, 4000, 200)]
    found = (re.search(r"epoch (\d+) of \d+", one.message) for page in pages for one in page)
    return [int(match[1]) for match in found if match]


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started, directly or not."""
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(pid: int) -> None:
    """End a process and all that it started, as a power cut would."""
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def jobs_below(pid: int) -> list[psutil.Process]:
    """Jobs that the runs of a worker have started."""
    forked = {one.pid for one in family(pid) if "spnas_core.jobs.warm" in words(one)}
    return [one for one in family(pid) if "spnas_core.jobs.worker" in words(one) or (one.pid in forked and one.ppid() in forked)]


def words(process: psutil.Process) -> list[str]:
    """Command line of a process; empty where it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def start_worker(folder: Path, url: str) -> None:
    """Start the worker for flows; what its runs log goes to the server."""
    with pytest.MonkeyPatch.context() as patch:
        for name in QUIET:
            patch.delenv(name, raising=False)
        services.start_worker(folder, url, services.FLOWS)


class Host:
    """A host with devices: a worker of the work pool for jobs, with home, cache and temporary folder of its own."""

    def __init__(self, folder: Path, url: str, kind: str | None = None, devices: str = "0") -> None:
        self.folder = folder
        places = {"HOME": "home", "PREFECT_HOME": "prefect", "SPNAS_CACHE": "cache", "TMPDIR": "tmp"}
        for place in places.values():
            (folder / place).mkdir(parents=True)
        variables = {name: value for name, value in services.prefect_variables(folder, url).items() if name not in QUIET}
        variables |= {"SPNAS_DEVICES": devices} | {name: str(folder / place) for name, place in places.items()}
        words = ["--limit", str(len(devices.split(","))), "--name", folder.name, *(["--type", kind] if kind else [])]
        command = [*services.PREFECT, "worker", "start", "--pool", services.JOBS, *words]
        with (folder / "worker.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=variables, cwd=folder, start_new_session=True)

    def works(self) -> bool:
        """Whether a job computes here."""
        return bool(jobs_below(self.process.pid))

    def kill(self) -> None:
        """End it as a power cut would."""
        kill(self.process.pid)
        self.process.wait()
