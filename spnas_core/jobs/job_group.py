"""Jobs of one run in this process, so that they stop together."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import IO, Any, Protocol

from spnas_core.errors import JobError, Stopped


class JobProcess(Protocol):
    """Process of a job, as `subprocess.Popen` or as a fork of a warm process: with a session, and so a process group, of its own."""

    pid: int
    returncode: int | Any
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """Exit status, negative for a signal, or None before the end."""

    def wait(self, timeout: float | None = None) -> int:
        """Exit status at the end; subprocess.TimeoutExpired if the process does not end within `timeout` seconds."""

    def terminate(self) -> None:
        """Send SIGTERM."""


class JobGroup:
    """Jobs that one run has in progress in this process, so that they can be stopped together."""

    def __init__(self) -> None:
        self._processes: set[JobProcess] = set()
        self._waiting: set[threading.Event] = set()

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[threading.Event]:
        """Event that `stop` sets; a job that fails after that counts as stopped."""
        stopped = threading.Event()
        self._waiting.add(stopped)
        try:
            yield stopped
        except JobError as error:
            if stopped.is_set():
                raise Stopped(error.message) from error
            raise
        finally:
            self._waiting.discard(stopped)

    @contextlib.contextmanager
    def running(self, process: JobProcess) -> Iterator[None]:
        """Register a worker's process, so that `stop` ends it."""
        self._processes.add(process)
        try:
            yield
        finally:
            self._processes.discard(process)

    def stop(self, grace: float = 0.0) -> None:
        """End the processes of all jobs, and stop those that wait for the same job elsewhere.

        The processes get SIGTERM and may save a checkpoint within `grace` seconds.
        """
        for stopped in list(self._waiting):
            stopped.set()
        running = list(self._processes)
        end = time.monotonic() + grace
        if grace:
            for process in running:
                process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            kill_group(process)


def kill_group(process: JobProcess) -> None:
    """Kill a worker with all processes of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
