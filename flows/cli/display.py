"""Progress of a run on standard error: bars on a terminal, plain lines elsewhere."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from spnas_core.jobs.progress import duration, share
from spnas_core.settings.task import TASKS


class _Lines(logging.Handler):
    """Handler that prints one line per record."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _Bars(logging.Handler):
    """Handler with a bar per running job (candidate, epoch, loss, time left); other records are lines above the bars."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.DEBUG)
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "progress"):
            self._progress.console.print(self.format(record), markup=False, highlight=False)
            return
        label, event = record.progress
        if label not in self._bars:
            self._bars[label] = self._progress.add_task(label, total=None, detail="starts")
        bar = self._bars[label]
        if event.get("event") in ("done", "failed"):
            self._progress.remove_task(self._bars.pop(label))
            self._progress.console.print(self.format(record), markup=False, highlight=False)
            return
        self._progress.update(bar, detail=_detail(event))
        if (done := share(event)) is not None:
            self._progress.update(bar, total=1.0, completed=done)


def _detail(event: dict[str, Any]) -> str:
    if event.get("event") == "compile":
        return "compiles"
    if event.get("event") == "evaluate":
        return "evaluates"
    if event.get("event") == "wait":
        return "waits for another process that does the same"
    parts = [f"epoch {event['epoch']}/{event.get('epochs', '?')}"] if "epoch" in event else []
    parts += [
        f"{name} {event[name]:.3f}"
        for name in ("loss", *(task.score for task in TASKS.values()))
        if isinstance(event.get(name), int | float)
    ]
    if isinstance(event.get("seconds_left"), int | float):
        parts.append(f"{duration(event['seconds_left'])} left")
    return ", ".join(parts)


@contextlib.contextmanager
def shown(level: int = logging.INFO) -> Iterator[None]:
    """Show the log of `spnas_core` during the `with` block."""
    log = logging.getLogger("spnas_core")
    before, propagate = log.level, log.propagate
    log.propagate = False
    with contextlib.ExitStack() as stack:
        handler: logging.Handler = _Lines()
        if sys.stderr.isatty():
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[detail]}"))
            progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
            handler, level = _Bars(stack.enter_context(progress)), logging.DEBUG
        log.addHandler(handler)
        log.setLevel(level)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(before)
            log.propagate = propagate
