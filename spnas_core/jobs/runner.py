"""Runner of one job as a process (`spnas_core.jobs.worker`): it starts and monitors the worker, and maps its exit to a typed result."""

import contextlib
import contextvars
import json
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

from spnas_core import job as jobs
from spnas_core.errors import JobError, MissingArtifactError, Reason, StoreError, UserError
from spnas_core.jobs import memory
from spnas_core.jobs.job_group import JobGroup, kill_group
from spnas_core.jobs.progress_file import ProgressFile
from spnas_core.jobs.request import BAD_INPUT, WorkerRequest, out_of_memory
from spnas_core.jobs.start import start
from spnas_core.store.artifacts import Store
from spnas_core.store.claims import Lease
from spnas_core.store.manifest import Manifest

_LOG_LINES = 15
GRACE = 10.0  # s for a job's last checkpoint when its run is stopped
_POLL = 0.25  # s between two checks of a worker and its limits
Progress = Callable[[dict[str, Any]], None]


class JobBug(RuntimeError):  # noqa: N818 - no failure of a candidate: it stops the search
    """Unforeseen exception in a job, or a job that ended without its artifact."""


def run_job(
    job: jobs.Job,
    store_url: str,
    devices: AbstractContextManager[tuple[int, ...]] = contextlib.nullcontext((0,)),  # noqa: B008 - reusable
    threads: int = 1,
    timeout: float | None = None,
    on_progress: Progress | None = None,
    checkpoint_seconds: float = 60.0,
    memory_gb: float | None = None,
    lease: Lease = Lease(),  # noqa: B008 - immutable
    group: JobGroup | None = None,
) -> Manifest:
    """Run `job`, one process per device, and return its artifact's manifest; reuse an existing artifact.

    If another process has claimed the job, this one waits for it (event ``wait``). Then it enters `devices`, which yields the only
    devices that the job sees; `timeout`, in seconds, starts there. `memory_gb` limits the host memory of the job's processes, in GB,
    checked every `_POLL` seconds.
    JobError: a typed failure of the job, with the last lines of its log; Stopped if `group` was stopped. UserError: wrong input.
    StoreError: the store does not answer, or a disk is full. JobBug: a bug in the program. The job's processes are killed when this
    function returns or raises.
    """
    if memory_gb is not None:
        memory.check_limits()
    store, kind, digest, group = Store(store_url), job.kind, jobs.digest(job), group or JobGroup()
    tell = on_progress or (lambda _: None)
    with store.claim(kind, digest, lease) as claim, group.stoppable() as stopped:
        if found := claim.acquire(lambda: store.find(kind, digest), stopped, lambda: tell({"event": "wait"})):
            tell({"event": "done"})
            return found
        with devices as held:
            request = WorkerRequest.model_validate(
                {
                    "job": job.model_dump(),
                    "store": store.url,
                    "devices": held,
                    "threads": threads,
                    "checkpoint_seconds": checkpoint_seconds,
                }
            )
            return _work(request, store, timeout, memory_gb, tell, claim.lost, group, stopped)


def _work(
    request: WorkerRequest,
    store: Store,
    timeout: float | None,
    memory_gb: float | None,
    on_progress: Progress,
    lost: threading.Event,
    group: JobGroup,
    halted: threading.Event,
) -> Manifest:
    """Run the worker and return its artifact's manifest, or raise an exception for its failure."""
    kind, digest = request.job.kind, jobs.digest(request.job)
    with tempfile.TemporaryDirectory(prefix="spnas-job-") as scratch:
        folder, log = Path(scratch), Path(scratch) / "log.txt"
        progress_file = ProgressFile(store, request.job)

        def tell(event: dict[str, Any]) -> None:
            progress_file(event)
            on_progress(event)

        try:
            status, last, stopped = _follow(folder, log, request, timeout, memory_gb, tell, lost, group, halted)
        except BaseException:
            progress_file.close()
            raise
        finally:
            with contextlib.suppress(StoreError):  # the job's result matters more than its log
                store.write(f"logs/{kind}/{digest}.txt", log.read_bytes() if log.exists() else b"")
        failure = _failure(status, last, stopped, log.read_text(errors="replace")) if status else None
        progress_file.close(failure)
        if failure:
            raise failure
    manifest = store.find(kind, digest)
    if manifest is None:
        raise JobBug(f"{kind}/{digest}: the worker said that it was done, but its artifact is not in {store.url}")
    return manifest


def _follow(
    folder: Path,
    log: Path,
    request: WorkerRequest,
    timeout: float | None,
    memory_gb: float | None,
    on_progress: Progress,
    lost: threading.Event,
    group: JobGroup,
    halted: threading.Event,
) -> tuple[int, dict[str, Any], JobError | None]:
    """Run the worker until it ends or must be stopped; returns exit status, last event, and the reason for a stop."""
    with log.open("wb") as errors:
        process = start(request, folder, errors)
    last: dict[str, Any] = {}

    def read() -> None:
        nonlocal last
        with process.stdout or contextlib.nullcontext(()) as lines:
            for line in lines:
                with contextlib.suppress(json.JSONDecodeError):  # a killed worker's incomplete last line
                    event = json.loads(line)
                    last = last if last.get("event") == "failed" else event  # the first rank may report after another has failed
                    on_progress(event)

    def overstepped() -> JobError | None:
        """Error for the limit that the job exceeds, else None."""
        if lost.is_set():
            return JobError("killed", "another process took the job over, since this one's heartbeats had not reached the store")
        if timeout is not None and time.monotonic() > begun + timeout:
            return JobError("timeout", f"expected an end within {timeout:.0f} s")
        if memory_gb is not None and (used := memory.exceeds(process.pid, memory_gb * 1e9)):
            return JobError("out_of_memory", f"expected its processes to need at most memory_gb = {memory_gb:g}, got {used / 1e9:.2f} GB")
        return None

    reader = threading.Thread(target=contextvars.copy_context().run, args=(read,), name="spnas-progress")
    begun, stopped = time.monotonic(), None
    with group.running(process):
        try:
            reader.start()
            if halted.is_set():  # before the process was in the group
                stopped = JobError("killed", "its run was stopped as it started")
            while not stopped and process.poll() is None and not (stopped := overstepped()):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
        finally:
            kill_group(process)  # including the worker's remaining children, which would keep the pipe open
            status = process.wait()
            reader.join()
    return status, last, stopped


def _failure(status: int, last: dict[str, Any], stopped: JobError | None, log: str) -> Exception:
    """Exception for a worker's failure, on its own or because it was `stopped`."""
    lines = log.strip().splitlines()[-_LOG_LINES:]
    tail = "; last lines of its log:\n" + "\n".join(lines) if lines else ""
    reason, message = str(last.get("reason", "")), str(last.get("message", ""))
    if stopped:
        return JobError(stopped.reason, stopped.message + tail)
    if status == BAD_INPUT and last.get("event") == "failed":
        return UserError(message)
    if reason == "missing_artifact":
        return MissingArtifactError(message)
    if reason == "store":
        return StoreError(message)
    if last.get("event") == "failed" and reason in get_args(Reason):
        return JobError(reason, message + tail)  # type: ignore[arg-type]
    if status > 0:
        return JobBug(f"the worker ended with status {status}{tail}")
    kind: Reason = "killed" if -status in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) else "crashed"
    if out_of_memory(tail):
        kind = "out_of_memory"
    return JobError(kind, f"it died of {signal.Signals(-status).name}{tail}")
