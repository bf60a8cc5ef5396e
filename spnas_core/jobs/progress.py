"""Progress of jobs as log records, one channel for the terminal, Prefect's page and a file; and the interface of a job and its worker.

A record's text is for people; its `progress` attribute is (label, event), for progress bars. Workers send the events, the runner "wait":
{"event": "wait" | "start" | "warning" | "compile" | "resume" | "step" | "checkpoint" | "epoch" | "evaluate" | "scored" | "done" | "failed",
"epoch", "epochs", "loss", "AP", "seconds_left", "done" (steps at a checkpoint), "timing" (seconds by phase), "text" (of a warning), ...}.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spnas_core.settings.task import TASKS

_log = logging.getLogger(__name__)
SHOWN_OF_EPOCH = ("loss", *(score for task in TASKS.values() for score in task.scores), "top1")  # entries of an epoch that people are shown
QUIET = ("step", "checkpoint", "resume", "start", "evaluate", "scored")  # events logged at debug level


@dataclass(frozen=True)
class JobContext:
    """What a job gets from its worker: a progress callback, the checkpoint folder, the checkpoint interval and the stop flag.

    `report` takes events; `resume` is the folder of the checkpoint, which the job writes every `interval` seconds; when `stop` is set, the
    job writes a checkpoint as soon as it can and ends.
    """

    report: Callable[[dict[str, Any]], None]
    resume: Path
    interval: float = 60.0
    stop: threading.Event = field(default_factory=threading.Event)


def line(label: str, event: dict[str, Any]) -> str:
    """One line for people: `serial r1 c2 b_11-…: epoch 2 of 4, loss 0.512, AP 0.310, 35 s left`."""
    kind, parts = str(event.get("event", "?")), []
    if "epoch" in event:
        parts.append(f"epoch {event['epoch']} of {event.get('epochs', '?')}")
    if kind == "step" and "step" in event:
        parts.append(f"step {event['step']} of {event.get('steps', '?')}")
    parts += [f"{name} {event[name]:.3f}" for name in SHOWN_OF_EPOCH[:-1] if isinstance(event.get(name), int | float)]
    if isinstance(event.get("seconds_left"), int | float):
        parts.append(f"{duration(event['seconds_left'])} left")
    if kind == "wait":
        parts.append("another process does the same, waiting for it")
    if kind == "warning":
        parts.append(str(event.get("text", "")))
    if kind == "failed":
        parts.append(f"failed, {event.get('reason')}: {str(event.get('message', '')).splitlines()[0] if event.get('message') else ''}")
    if kind == "done" and isinstance(event.get("seconds"), int | float):
        parts.append(f"done in {duration(event['seconds'])}")
    return f"{label}: {', '.join(parts) or kind}"


def share(event: dict[str, Any]) -> float | None:
    """Completed share of a job, in [0, 1], from one of its events; None if the event does not tell."""
    if event.get("event") == "done":
        return 1.0
    if not event.get("epochs") or event.get("epoch") is None:
        return None
    begun = event["step"] / event["steps"] - 1 if event.get("event") == "step" and event.get("steps") else 0.0  # epochs count from 1
    return min(1.0, max(0.0, float(event["epoch"] + begun) / float(event["epochs"])))


def duration(seconds: float) -> str:
    """Duration in seconds as text: `35 s`, `4 min 05 s` or `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def log_progress(label: str, event: dict[str, Any]) -> None:
    """Log one event of the job `label`; events of `QUIET` at debug level, a warning as a line of its own."""
    if event.get("event") == "warning":
        _log.warning("%s", line(label, event))
        return
    level = logging.DEBUG if event.get("event") in QUIET else logging.INFO
    _log.log(level, "%s", line(label, event), extra={"progress": (label, event)})


def log_line(text: str) -> None:
    """Log one line about the run as a whole."""
    _log.info("%s", text)
