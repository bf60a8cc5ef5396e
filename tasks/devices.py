"""Devices of this host, shared by all its processes: one lock file per device, which the system unlocks whenever its holder ends."""

import contextlib
import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from spnas_core.errors import Stopped, UserError

VARIABLE = "SPNAS_DEVICES"


def devices_here() -> tuple[int, ...]:
    """Devices of this host for jobs of the work pool: ``$SPNAS_DEVICES`` (such as ``0,1,2,3``), else device 0. UserError if invalid."""
    text = os.environ.get(VARIABLE) or "0"
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"{VARIABLE}: expected numbers of devices, such as 0,1,2,3, got {text!r}") from error
    if min(found) < 0 or len(set(found)) < len(found):
        raise UserError(f"{VARIABLE}: expected each device once and none below 0, got {text!r}")
    return found


@contextlib.contextmanager
def free_devices(groups: Sequence[tuple[int, ...]], count: int, stopped: threading.Event, poll: float = 0.5) -> Iterator[tuple[int, ...]]:
    """Lock `count` devices of one of `groups`, as soon as that many are free on this host; Stopped if `stopped` is set before.

    It checks every `poll` seconds.
    """
    folder = Path(tempfile.gettempdir()) / f"spnas-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while not stopped.is_set():
        for devices in groups:
            with contextlib.ExitStack() as held:
                free: list[int] = []
                for device in devices:
                    if len(free) < count and _locked(held.enter_context((folder / str(device)).open("w"))):
                        free.append(device)
                if len(free) == count:
                    yield tuple(free)
                    return
        stopped.wait(poll)
    raise Stopped("it was stopped while it waited for free devices")


def _locked(file: IO[str]) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
