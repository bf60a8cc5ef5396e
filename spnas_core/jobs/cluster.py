"""One job on several devices: a process per device (a rank), and MindSpore's scheduler, through which they meet.

They get the variables that MindSpore's `msrun` sets, and are not started by `msrun` itself: it puts each rank into a session of its own,
out of reach of what ends the group of a job, passes no SIGTERM on, and makes one exit status of all ends.
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
_POLL = 0.1  # s between two looks at the processes
_PATIENCE = "86400"  # s to wait for the other ranks; MindSpore's 30 are fewer than a first rank may need to score and to save
_log = logging.getLogger(__name__)


class RankError(RuntimeError):
    """A rank has failed; `status` is its exit status, negative for a signal."""

    def __init__(self, number: int, status: int) -> None:
        super().__init__(f"rank {number} ended with {ending(status)}")
        self.status = status


def run_ranks(command: Sequence[str], ranks: int, output: TextIO, stop: threading.Event) -> None:
    """Run `command` as each of `ranks`, and as their scheduler, until all ranks are done; `output` is their standard output.

    When `stop` is set, they get SIGTERM. RankError at the first that fails, JobError ``crashed`` where the scheduler does; whatever ends
    this function ends all of them.
    """
    processes: list[subprocess.Popen[bytes]] = []
    told, port = False, free_port()
    try:
        for number in (None, *range(ranks)):
            environment = {"MS_NODE_TIMEOUT": _PATIENCE, **os.environ, **rank_variables(number, ranks, port)}
            processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, env=environment))
        scheduler, *members = processes
        while not all_done([process.poll() for process in members]):
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
    """Whether all ranks have ended well; RankError where one has failed, and of several for the one that says best why."""
    failed = [(number, status) for number, status in enumerate(statuses) if status]
    if failed:  # one with a reason, then one that was killed, then what may have followed from these: a fault, an exception
        order = (2, 3, -signal.SIGKILL, -signal.SIGTERM)
        error = RankError(*min(failed, key=lambda one: order.index(one[1]) if one[1] in order else len(order) + (one[1] > 0)))
        _log.error("%s", error)
        raise error
    return None not in statuses


def ending(status: int) -> str:
    """Name the signal or the exit status."""
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def rank_variables(number: int | None, ranks: int, port: int) -> dict[str, str]:
    """Environment of rank `number`, or of the scheduler: what msrun sets on one host."""
    found = {
        "MS_WORKER_NUM": str(ranks),
        "MS_SCHED_HOST": HOST,
        "MS_SCHED_PORT": str(port),
        "MS_TOPO_TIMEOUT": "600",
        "RANK_SIZE": str(ranks),
        "RANK_ID": str(number or 0),
    }
    if number is None:
        return {**found, "MS_ROLE": "MS_SCHED"}
    return {**found, "MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(number), "DEVICE_ID": str(number)}


def free_port() -> int:
    """Port of the loopback that is free at this moment."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def role() -> tuple[str, int]:
    """Read from the environment what this process is: MS_SCHED, MS_WORKER with its number, or, with an empty text, neither."""
    return os.environ.get("MS_ROLE", ""), int(os.environ.get("RANK_ID", "0"))
