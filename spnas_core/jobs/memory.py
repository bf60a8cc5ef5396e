"""Memory that the processes of a job use, from Linux's /proc.

This is resident memory, not reserved address space: MindSpore reserves far more than it touches, so a limit on addresses (RLIMIT_AS)
would kill jobs that fit.
Source: https://www.kernel.org/doc/html/latest/filesystems/proc.html
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from spnas_core.errors import UserError

_PROC = Path("/proc")
_ALL = "smaps_rollup"  # its line `Pss:` counts a page that n processes share as 1/n


def check_limits() -> None:
    """Raise UserError if the system does not report the memory of a process."""
    if not (_PROC / "self" / "statm").exists():
        raise UserError("memory_gb: expected Linux, whose /proc says how much memory a job uses, got a system without it")


def exceeds(group: int, limit: float) -> int:
    """Memory of the process group `group` in bytes if it exceeds `limit` (bytes), else 0.

    Shared pages count once where the kernel reports them. Reading that takes longer, so it is read only if the plain sum is over the limit.
    """
    processes = list(_members(group))
    if sum(map(_resident, processes)) <= limit:
        return 0
    used = sum(map(_proportional, processes))
    return used if used > limit else 0


def _members(group: int) -> Iterator[Path]:
    for place in _PROC.iterdir():
        if place.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                fields = (place / "stat").read_text().rsplit(") ", 1)[1].split()  # after the name: state, parent, group
                if int(fields[2]) == group:
                    yield place


def _resident(place: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        return int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _proportional(place: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError, StopIteration):
        lines = (place / _ALL).read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return _resident(place)
