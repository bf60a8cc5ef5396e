"""Claims: of several processes that need the same artifact, one computes it and the others wait.

    claims/KIND/DIGEST/000001      the process that computes it, and its count of heartbeats; the highest number holds the claim

A process takes a claim by creating the next number, which only one process can do, and keeps it by rewriting that file at intervals
(heartbeats). Waiters use their own clock: a claim whose file has not changed for a lease is free. A released claim, or one whose process
ran on this machine and is dead, is free at once. A holder that finds a higher number has lost the claim.

The guarantee depends on how the store creates files: a local folder (O_EXCL) and S3 (If-None-Match) create atomically. If the driver can
only check and then write (such as memory://), two processes that check at the same moment may both compute, until the next heartbeat of
one of them. Readers get correct artifacts in any case. In a local folder the first published artifact stays; on S3 the first manifest
stays, but each file is the last upload: if two processes upload at once and their files differ (one had lost its claim without knowing it
yet), the sha256 does not match, the artifact is set aside, and it is recomputed.
"""

import contextlib
import json
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from spnas_core.errors import JobError
from spnas_core.store.storage import Storage

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")
_NUMBER = re.compile(r"\d{6}|[1-9]\d{6,}", re.ASCII)


class Lease(NamedTuple):
    """Times of a claim, in seconds; all processes of a store should use the same."""

    seconds: float = 60.0  # a claim unchanged for this long is free
    heartbeat: float = 10.0
    poll: float = 1.0  # between two checks of a waiter

    @classmethod
    def of(cls, seconds: float) -> "Lease":
        """Lease of the given length, with heartbeats in proportion."""
        return cls(seconds, seconds / 6, min(1.0, seconds / 60))


class Claim:
    """Claim of this process on one artifact, as a context manager that releases it; its files are in `folder`.

    `lost` is set when another process has taken it over: this process's work is then useless.
    """

    def __init__(self, storage: Storage, folder: str, lease: Lease) -> None:
        self.lost = threading.Event()
        self._storage, self._folder, self._lease = storage, folder, lease
        self._token = uuid.uuid4().hex
        self._number = 0  # of the held claim
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="spnas-heartbeat", daemon=True)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._release(done=error is None)

    def acquire(self, done: Callable[[], _Found | None], stopped: threading.Event, on_wait: Callable[[], None]) -> _Found | None:
        """Take the claim, waiting if needed; returns another process's result, from `done`, or None once this process holds the claim.

        `on_wait` is called once, if it has to wait. JobError ``killed`` as soon as `stopped` is set.
        """
        seen, since, looked, waited = (-1, b""), 0.0, 0.0, False
        while not stopped.is_set():
            if (found := done()) is not None:
                return found
            number, content = newest = self.newest()
            now = time.monotonic()
            if newest != seen or now - looked > self._lease.seconds / 2:  # a store unreachable here may be so for the holder
                seen, since = newest, now
            looked = now
            if number == 0 or is_over(content) or now - since >= self._lease.seconds:
                if self._take(number + 1):
                    return done()  # again: it may have been published between the two checks
            elif not waited:
                on_wait()
                waited = True
            stopped.wait(self._lease.poll)
        raise JobError("killed", "it was stopped while it waited for another process that does the same")

    def newest(self) -> tuple[int, bytes]:
        """Content of the current claim of any process, after its number; 0 and b"" if there is none."""
        while numbers := self._numbers():
            try:
                return numbers[-1], self._storage.read(self._path(numbers[-1]))
            except FileNotFoundError:  # it was taken over between listing and reading
                self._ended.wait(self._lease.poll)
        return 0, b""

    def _numbers(self) -> list[int]:
        names = [name for name in self._storage.sizes(self._folder) if _NUMBER.fullmatch(name)]
        return sorted(int(name) for name in names)

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:06d}"

    def _take(self, number: int) -> bool:
        if not self._storage.create(self._path(number), self._content(0)):
            return False
        self._number = number
        self._beating.start()
        for old in self._numbers():
            if old < number:
                self._storage.remove(self._path(old))
        return True

    def _content(self, beats: int) -> bytes:
        return json.dumps({"token": self._token, "beats": beats, **whoami()}).encode()

    def _beat(self) -> None:
        beats, path = 0, self._path(self._number)
        while not self._ended.wait(self._lease.heartbeat):
            try:
                if not self._is_held():
                    _log.warning("%s was taken over by another process", path)
                    self.lost.set()
                    return
                beats += 1
                self._storage.write(path, self._content(beats))
            except Exception as error:  # noqa: BLE001 - each driver has its own errors; the next heartbeat tries again
                _log.warning("no heartbeat of %s: %s", path, error)

    def _is_held(self) -> bool:
        number, content = self.newest()
        return number == self._number and self._token.encode() in content

    def _release(self, done: bool) -> None:
        """Release the claim if it is held; if the work is `done`, delete its files, which are no longer needed."""
        if not self._number:
            return
        self._ended.set()
        if self._beating.ident:
            self._beating.join()
        try:
            if self.lost.is_set() or not self._is_held():  # checked here, since the last heartbeat may be long ago
                return
            if done:
                self._storage.remove(self._folder)
            else:
                self._storage.write(self._path(self._number), json.dumps({"released": True}).encode())
        except Exception as error:  # noqa: BLE001 - the claim expires with the lease
            _log.warning("%s could not be given back: %s", self._folder, error)


def whoami() -> dict[str, Any]:
    """Identity of this process, by which others on this machine see whether it is alive; empty if the system has no /proc."""
    with contextlib.suppress(OSError):
        return {**_machine(), "pid": os.getpid(), "begun": _begun(os.getpid())}
    return {}


def is_over(content: bytes) -> bool:
    """Whether a claim was released, or its process ran on this machine and is dead."""
    try:
        holder = json.loads(content)
        if holder.get("released"):
            return True
        return {**holder, **_machine()} == holder and not _lives(int(holder["pid"]), holder["begun"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):  # incomplete or foreign: only the lease decides
        return False


def _machine() -> dict[str, str]:
    """Boot of this machine and process table of this process (containers have separate ones)."""
    return {"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "processes": str(Path("/proc/self/ns/pid").readlink())}


def _lives(pid: int, begun: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user, whose state may be hidden
        return True
    return _begun(pid) == begun


def _begun(pid: int) -> str | None:
    """Start time of a process, in clock ticks since the boot; None if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in ("Z", "X") else fields[18]
