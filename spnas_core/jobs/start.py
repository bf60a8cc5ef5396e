"""Start of a job's process: a fork of a **warm process**, which has loaded MindSpore (`spnas_core.jobs.warm`), else a new interpreter.

Jobs are forked on Linux, on the CPU and in one process each; MindSpore's contexts on other devices do not survive a fork. A warm process
serves the jobs that would inherit the same from this process: environment, umask, processors, limits. The first of these jobs starts it, or
`prepare` before them; it ends with this process, or after a while without jobs. A job that gets no fork starts in a new interpreter; with
``SPNAS_WARM=0`` in the environment all do.

The fork server of Python's multiprocessing is not used: a process has but one, with one environment, where OpenMP and OpenBLAS read on
import how many threads they may have.
"""

import atexit
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from spnas_core.jobs.job_group import JobProcess
from spnas_core.jobs.request import WorkerRequest, cpu_environment, environment

SWITCH = "SPNAS_WARM"
_CHANGING = ("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "CRC32C_SW_MODE")  # tensorboardX's, which this process loads after its first job
_PATIENCE = 60.0  # s for the imports of a new warm process and a fork
_ROOT = Path(__file__).resolve().parents[2]  # the folder that contains spnas_core


class ForkedJob:
    """`JobProcess` that a warm process has forked; `ending` gives its exit status."""

    def __init__(self, pid: int, stdout: IO[bytes], ending: IO[bytes]) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = stdout
        self.returncode: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._await_end, args=(ending,), name="spnas-job-end", daemon=True).start()

    def _await_end(self, ending: IO[bytes]) -> None:
        with ending:
            status = ending.readline()  # empty if the warm process has died: then the kernel kills its jobs
        self.returncode = int(status) if status else -signal.SIGKILL
        self._ended.set()

    def poll(self) -> int | None:
        """Exit status, negative for a signal, or None before the end."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Exit status at the end; subprocess.TimeoutExpired if the process does not end within `timeout` seconds."""
        self._ended.wait(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("job", timeout or 0.0)
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


class WarmProcess:
    """Warm process that this process has started. Its standard input is a socket for requests: it ends with that."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command, quiet = [sys.executable, "-P", "-m", "spnas_core.jobs.warm"], subprocess.DEVNULL
        with theirs:
            self.process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=quiet, stderr=quiet, env=variables, cwd=_ROOT, start_new_session=True
            )

    def fork(self, request: WorkerRequest, folder: Path, log: IO[bytes]) -> ForkedJob:
        """Start a job; OSError if the process does not come in time, and then it will not come later either."""
        path = _write(request, folder, self.process.pid)
        with contextlib.ExitStack() as opened:
            (stdout, lines), (ending, status) = (tuple(map(opened.enter_context, _pipe())) for _ in range(2))
            with lines, status:
                given = [lines.fileno(), log.fileno(), status.fileno()]
                socket.send_fds(self._socket, [os.fsencode(path)], given, socket.MSG_NOSIGNAL)
            answer = select.poll()
            answer.register(ending, select.POLLIN)
            if not answer.poll(1000 * _PATIENCE) or not (pid := ending.readline()):
                raise ChildProcessError(f"the warm process {self.process.pid} did not fork")
            opened.pop_all()
        return ForkedJob(int(pid), stdout, ending)

    def close(self) -> None:
        """End it, and the jobs that it still has."""
        self._socket.close()
        self.process.kill()
        self.process.wait()


_lock = threading.Lock()
_warm: dict[object, WarmProcess] = {}  # by what jobs inherit
os.register_at_fork(after_in_child=_warm.clear)  # a copy of this process shares no warm process, nor its socket


@atexit.register
def end_warm_processes() -> None:
    """End all warm processes of this process."""
    with _lock:
        while _warm:
            _warm.popitem()[1].close()


def prepare(threads: Iterable[int]) -> None:
    """Start the warm processes of jobs on the CPU with these numbers of threads: they load MindSpore while this process does other things.

    Jobs find them if this process's environment does not change any more; else they start their own.
    """
    if _can_fork():
        for count in threads:
            with contextlib.suppress(OSError):
                _warm_process(_variables(cpu_environment(count)))


def start(request: WorkerRequest, folder: Path, log: IO[bytes]) -> JobProcess:
    """Start a job's process in a session of its own: standard output is a pipe, standard error is `log`, `folder` its place for files."""
    variables = _variables(environment(request))
    if _forks(request):
        with contextlib.suppress(OSError):
            return _warm_process(variables).fork(request, folder, log)
    command = [sys.executable, "-m", "spnas_core.jobs.worker", str(_write(request, folder, os.getpid()))]
    variables["TMPDIR"] = str(folder)
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=variables, cwd=folder, start_new_session=True
    )


def _variables(own: dict[str, str]) -> dict[str, str]:
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def _forks(request: WorkerRequest) -> bool:
    """Whether the job may be a fork: MindSpore on the CPU, in one process."""
    measured = request.job.kind in ("benchmark", "measure")  # a fork's peak memory would begin with that of the warm process
    return request.job.device_target == "CPU" and request.ranks == 1 and not measured and _can_fork()


def _can_fork() -> bool:
    """Whether jobs may be forks: on a kernel that has descriptors of processes (Linux 5.3), unless the user does not want it."""
    if sys.platform != "linux" or os.environ.get(SWITCH) == "0":
        return False
    with contextlib.suppress(OSError):
        os.close(os.pidfd_open(os.getpid()))
        return True
    return False


def _warm_process(variables: dict[str, str]) -> WarmProcess:
    """Warm process for jobs with these environment variables."""
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    others = [line for line in lines if line.startswith(("Umask:", "Cpus_allowed:"))], Path("/proc/self/limits").read_text()
    inherited = repr((sorted(item for item in variables.items() if item[0] not in _CHANGING), others))
    with _lock:
        for key in [key for key, warm in _warm.items() if warm.process.poll() is not None]:
            _warm.pop(key).close()
        if inherited not in _warm:
            _warm[inherited] = WarmProcess(variables)
        return _warm[inherited]


def _write(request: WorkerRequest, folder: Path, parent: int) -> Path:
    path = folder / "job.json"
    path.write_text(request.model_copy(update={"parent": parent}).model_dump_json())
    return path


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    return os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
