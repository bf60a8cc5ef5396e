"""What a job leaves in the store while it goes on, so that it can be watched from anywhere; a by-product, which fails without a word.

    logs/KIND/DIGEST.json                                    its last events: which epoch and step, loss, AP, seconds left
    logs/KIND/ARCH.DIGEST/events.out.tfevents.TIME.ATTEMPT   its curves (curves.py), for `tensorboard --logdir STORE/logs`

The process that follows the job writes it, so a training is none the slower.
"""

import contextlib
import json
import time
from typing import Any

from spnas_core.job import Job, digest
from spnas_core.jobs.curves import Curves
from spnas_core.store.artifacts import Store

INTERVAL, SLOWEST = 5.0, 60.0  # s between two writes, at first and at most: a long training has large files
_SCORES = ("loss", "AP", "AP50", "top1")


def read_progress(store: Store, kind: str, key: str) -> dict[str, Any]:
    """Progress of a job as it was last written; empty where there is none."""
    try:
        found = json.loads(store.read(f"logs/{kind}/{key}.json"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class ProgressFile:
    """Takes the events of one attempt at a job and leaves them in its store; to be closed when the attempt has ended."""

    def __init__(self, store: Store, job: Job) -> None:
        kind, key = job.kind, digest(job)
        self._store, self._begun, self._written = Store(store.url, delays=()), time.time(), 0.0
        before = read_progress(self._store, kind, key).get("attempt")
        attempt = before + 1 if isinstance(before, int) else 1
        self._state: dict[str, Any] = {"arch": job.arch, "attempt": attempt, "begun": round(self._begun, 3)}
        self._path = f"logs/{kind}/{key}.json"
        letters = job.arch.replace("(", "").replace(")", "")  # which no name in a store has
        self._drawing = f"logs/{kind}/{letters}.{key}/events.out.tfevents.{int(self._begun):010d}.{attempt}"
        self._curves: Curves | None = None
        self._first = 0  # steps that were done before this attempt

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event."""
        kind = event.get("event")
        self._state |= {**event, "at": round(time.time(), 3)}
        if kind == "resume":
            self._first = event["done"]
        waits = min(SLOWEST, max(INTERVAL, 0.02 * (time.time() - self._begun)))
        with contextlib.suppress(OSError):  # whatever is wrong with the trail is not wrong with the job
            if kind in ("step", "epoch", "scored"):
                self._draw(event)
            if kind in ("start", "compile", "resume") or time.time() - self._written > waits:
                self._write()

    def close(self, error: Exception | None = None) -> None:
        """Leave the last state: how the attempt ended, by its `error` where it failed."""
        if error:
            reason, lines = getattr(error, "reason", type(error).__name__), str(error).splitlines()
            self._state |= {"event": "failed", "reason": reason, "message": lines[0] if lines else "", "at": round(time.time(), 3)}
        with contextlib.suppress(OSError):
            self._write()
        if self._curves:
            self._curves.close()

    def _draw(self, event: dict[str, Any]) -> None:
        """Add points to the curves, at the number of steps that are done."""
        single = event["event"] == "step"
        step = (event["epoch"] - single) * event["steps"] + (event["step"] if single else 0)
        values = {f"{'step' if single else 'epoch'}/{name}": event[name] for name in _SCORES if name in event}
        if event["event"] == "epoch":
            values |= {f"seconds/{phase}": seconds for phase, seconds in event["timing"].items()}
        if self._curves is None:
            self._curves = Curves(self._first)
        self._curves.draw(step, values)

    def _write(self) -> None:
        self._written = time.time()
        self._store.write(self._path, json.dumps(self._state).encode())
        if self._curves:
            self._store.write(self._drawing, self._curves.content())
