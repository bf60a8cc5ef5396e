"""Warm process: ``python -m spnas_core.jobs.warm``. It loads MindSpore and the jobs' modules once, and forks a process for each job.

Standard input is a socket. Each message is the path of a job's file, with three descriptors: the job's standard output, its standard
error, and a pipe that gets the job's process id and, at its end, its exit status, a line each. This process computes nothing, has one
thread and opens no device, so each job starts from the same state. It ends when the socket is closed, or after `IDLE` seconds without jobs;
the kernel kills the jobs that it leaves (`worker.die_with`).
"""

import contextlib
import gc
import importlib
import os
import select
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np

from spnas_core.jobs import worker

IDLE = 300.0  # s
LOADED = (
    *(f"spnas_core.jobs.{kind}" for kind in ("train", "reignite", "evaluate", "benchmark", "measure", "speed_check")),
)  # modules that a job would import


def main() -> None:
    """Serve until the runner wants no more jobs; in a forked process, do the job and exit as a worker does."""
    sys.argv[:] = [worker.__file__]  # the program, to MindSpore: it keeps a graph's file only for the same one
    for name in LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # collections in jobs, of which MindSpore starts one for each graph, leave out what all of them share
    path = fork_jobs()
    if path is None:
        os._exit(0)  # at once: MindSpore's exit handlers have nothing to clean up
    worker.leave(worker.main(str(path)))


def fork_jobs() -> Path | None:
    """Fork a process for each request. Returns in that process the path of the job's file, in this one None when no more will come."""
    requests, parent = socket.socket(fileno=os.dup(0)), os.getppid()
    running: dict[int, tuple[int, int]] = {}  # the descriptor of a process: its id, and the pipe for its exit status
    while True:
        ready = set(select.select([requests.fileno(), *running], [], [], IDLE)[0])
        if not ready and (not running or os.getppid() != parent):
            return None
        for process in running.keys() & ready:
            pid, ending = running.pop(process)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with contextlib.suppress(BrokenPipeError):  # nobody wants to know
                os.write(ending, b"%d\n" % status)
            _close(process, ending)
        if requests.fileno() in ready:
            path, given, _, _ = socket.recv_fds(requests, 4096, 3)
            if not path:
                return None
            try:
                pid = os.fork()
            except OSError:  # no memory: the runner sees the pipe's end
                _close(*given)
                continue
            if pid == 0:
                requests.close()
                _close(*(number for process, (_, ending) in running.items() for number in (process, ending)))
                _become_job(Path(os.fsdecode(path)), *given)
                return Path(os.fsdecode(path))
            running[os.pidfd_open(pid)] = pid, given[2]
            _close(*given[:2])


def _become_job(path: Path, output: int, log: int, ending: int) -> None:
    """Give this process what a new one would have: session, standard files, working folder, folder of temporary files, random numbers."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, output, log)):
        os.dup2(descriptor, number)
    try:
        os.write(ending, b"%d\n" % os.getpid())
    except BrokenPipeError:  # the runner waits no longer
        os._exit(1)
    _close(nothing, output, log, ending)
    os.chdir(path.parent)
    os.environ["TMPDIR"], tempfile.tempdir = str(path.parent), None
    np.random.seed()  # noqa: NPY002 - what a library draws from
    sys.argv.append(str(path))


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


if __name__ == "__main__":
    main()
