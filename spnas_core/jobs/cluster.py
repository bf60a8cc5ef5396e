"""One job on several devices: one process per device (a rank), and MindSpore's scheduler, which connects them.

They get the environment variables that MindSpore's `msrun` sets, but `msrun` does not start them: it gives each rank a separate session,
which a kill of the job's process group does not reach, forwards no SIGTERM, and merges all exit statuses into one.
Source: https://www.mindspore.cn, tutorials "msrun Launching" and "Dynamic Cluster Startup".
"""

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import TextIO

from spnas_core.errors import JobError

HOST = "127.0.0.1"
LINGER = 20.0  # s
_POLL = 0.1  # s between two checks of the processes
_PATIENCE = "86400"  # s to wait for the other ranks; MindSpore's default of 30 is less than the first rank may need to score and save
_log = logging.getLogger(__name__)


class RankError(RuntimeError):
    """Failure of a rank; `status` is its exit status, negative for a signal."""

    def __init__(self, number: int, status: int) -> None:
        super().__init__(f"rank {number} ended with {ending(status)}")
        self.status = status


def run_ranks(command: Sequence[str], ranks: int, output: TextIO, stop: threading.Event) -> None:
    """Run `command` once per rank, and once as their scheduler, until all ranks are done; `output` is their standard output.

    A rank succeeds only after all have met for the last time. A rank that has not left `LINGER` seconds after another is done too:
    MindSpore may wait for the last message of a rank that has gone. When `stop` is set, the ranks get SIGTERM. RankError as soon as a rank
    fails, JobError ``crashed`` if the scheduler fails. All processes are killed when this function returns or raises.
    """
    processes: list[subprocess.Popen[bytes]] = []
    told, port, first_done = False, free_port(), 0.0
    try:
        for number in (None, *range(ranks)):
            environment = {"MS_NODE_TIMEOUT": _PATIENCE, **os.environ, **rank_variables(number, ranks, port)}
            processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, env=environment))
        scheduler, *members = processes
        while not all_done(statuses := [process.poll() for process in members]):
            if 0 in statuses:
                first_done = first_done or time.monotonic()
                if time.monotonic() - first_done > LINGER:
                    _log.warning("%d of %d ranks did not leave by themselves", statuses.count(None), ranks)
                    break
            if (status := scheduler.poll()) and all(process.poll() is None for process in members):
                raise JobError("crashed", f"MindSpore's scheduler ended with {ending(status)}")
            if stop.is_set() and not told:
                told = True
                for process in members:
                    process.terminate()
            time.sleep(_POLL)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def all_done(statuses: Sequence[int | None]) -> bool:
    """Whether all ranks have succeeded; RankError if any has failed: of several, the one whose status explains the failure best."""
    failed = [(number, status) for number, status in enumerate(statuses) if status]
    if failed:  # first a typed failure, then a killed rank, then what these may have caused in other ranks: a fault, an exception
        order = (2, 3, -signal.SIGKILL, -signal.SIGTERM)
        error = RankError(*min(failed, key=lambda rank: order.index(rank[1]) if rank[1] in order else len(order) + (rank[1] > 0)))
        _log.error("%s", error)
        raise error
    return None not in statuses


def ending(status: int) -> str:
    """Text for an exit status: the signal's name or the number."""
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def rank_variables(number: int | None, ranks: int, port: int) -> dict[str, str]:
    """Environment variables of rank `number`, or of the scheduler where it is None: those that msrun sets on one host."""
    variables = {
        "MS_WORKER_NUM": str(ranks),
        "MS_SCHED_HOST": HOST,
        "MS_SCHED_PORT": str(port),
        "MS_TOPO_TIMEOUT": "600",
        "RANK_SIZE": str(ranks),
        "RANK_ID": str(number or 0),
    }
    if number is None:
        return {**variables, "MS_ROLE": "MS_SCHED"}
    return {**variables, "MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(number), "DEVICE_ID": str(number)}


def free_port() -> int:
    """Port of the loopback interface that is free at this moment."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def role() -> tuple[str, int]:
    """Role and rank number of this process, from the environment: MS_SCHED, MS_WORKER, or "" outside of a cluster."""
    return os.environ.get("MS_ROLE", ""), int(os.environ.get("RANK_ID", "0"))
