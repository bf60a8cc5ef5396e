"""Progress of a running job in the store, so that any machine can watch it; a by-product, whose errors are ignored.

    logs/KIND/DIGEST.json                                    its latest events: epoch, step, loss, AP, seconds left; `curve`: its epochs
    logs/KIND/ARCH.DIGEST/events.out.tfevents.TIME.ATTEMPT   its curves (curves.py), for `tensorboard --logdir STORE/logs`

The process that monitors the job writes it, so it does not slow down a training.
"""

import contextlib
import json
import time
from typing import Any

from spnas_core.job import Job, digest
from spnas_core.jobs.curves import Curves
from spnas_core.jobs.progress import SHOWN_OF_EPOCH
from spnas_core.store.artifacts import Store

INTERVAL, SLOWEST = 5.0, 60.0  # s between two writes, initial and largest: a long training has large files


def read_progress(store: Store, kind: str, key: str) -> dict[str, Any]:
    """Latest written progress of a job; empty if there is none."""
    try:
        progress = json.loads(store.read(f"logs/{kind}/{key}.json"))
    except (OSError, ValueError):
        return {}
    return progress if isinstance(progress, dict) else {}


class ProgressFile:
    """Writer of the events of one attempt at a job to its store; call `close` when the attempt has ended."""

    def __init__(self, store: Store, job: Job) -> None:
        kind, key = job.kind, digest(job)
        self._store, self._begun, self._written = Store(store.url, delays=()), time.time(), 0.0
        former = read_progress(self._store, kind, key)
        before, curve = former.get("attempt"), former.get("curve", [])
        attempt = before + 1 if isinstance(before, int) else 1
        self._state: dict[str, Any] = {"arch": job.arch, "attempt": attempt, "begun": round(self._begun, 3), "curve": curve}
        self._path = f"logs/{kind}/{key}.json"
        letters = job.arch.replace("(", "").replace(")", "")  # no name in a store has parentheses
        self._drawing = f"logs/{kind}/{letters}.{key}/events.out.tfevents.{int(self._begun):010d}.{attempt}"
        self._curves: Curves | None = None
        self._first = 0  # steps done before this attempt

    def __call__(self, event: dict[str, Any]) -> None:
        """Record an event, and write the progress to the store at intervals."""
        kind = event.get("event")
        self._state |= {**event, "at": round(time.time(), 3)}
        if kind == "resume":
            self._first = event["done"]
        if kind == "epoch":
            point = {name: event[name] for name in ("epoch", *SHOWN_OF_EPOCH) if name in event}
            self._state["curve"] = [*(one for one in self._state["curve"] if one["epoch"] < event["epoch"]), point]
        waits = min(SLOWEST, max(INTERVAL, 0.02 * (time.time() - self._begun)))
        with contextlib.suppress(OSError):  # an error of the progress file is no error of the job
            if kind in ("step", "epoch", "scored"):
                self._draw(event)
            if kind in ("start", "compile", "resume") or time.time() - self._written > waits:
                self._write()

    def close(self, error: Exception | None = None) -> None:
        """Write the final state of the attempt; `error` if it failed."""
        if error:
            reason, lines = getattr(error, "reason", type(error).__name__), str(error).splitlines()
            self._state |= {"event": "failed", "reason": reason, "message": lines[0] if lines else "", "at": round(time.time(), 3)}
        with contextlib.suppress(OSError):
            self._write()
        if self._curves:
            self._curves.close()

    def _draw(self, event: dict[str, Any]) -> None:
        """Add points to the curves, at the count of completed steps."""
        single = event["event"] == "step"
        step = (event["epoch"] - single) * event["steps"] + (event["step"] if single else 0)
        values = {f"{'step' if single else 'epoch'}/{name}": event[name] for name in SHOWN_OF_EPOCH if name in event}
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
