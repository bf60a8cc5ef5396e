"""Telling trackers of a search while it runs, in threads of their own: one that is away or slow neither stops nor delays the search."""

import contextlib
import contextvars
import importlib.metadata
import os
import re
import textwrap
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec

from spnas_core.errors import UserError
from spnas_core.jobs.progress import log_line
from spnas_core.run.plan import Plan
from spnas_core.settings.run import Run
from spnas_core.store.retries import first_line
from spnas_core.track.tracked import TrackedState, Tracker
from spnas_core.track.view import SearchView

ENTRY_POINTS = "spnas.trackers"  # group of the packages' entry points: NAME = "module:class of a Tracker"
LOOKS = 10.0  # s between two looks at the store
PATIENCE = 15.0  # s at the end of a search for what has not been sent yet
HASTE = 3.0  # s for that where a search was stopped or has failed
_SECRET = re.compile(r"://[^/@\s]*@")


def open_trackers(settings: Run) -> dict[str, Tracker]:
    """Make the trackers that `settings` and the environment name; UserError for one that is not installed.

    MLFLOW_TRACKING_URI alone is enough for MLflow; where that is set and MLflow is not installed, one line says so.
    """
    wanted, there = dict(settings.tracker), importlib.metadata.entry_points(group=ENTRY_POINTS)
    if (address := os.environ.get("MLFLOW_TRACKING_URI")) and "mlflow" not in wanted:
        if find_spec("mlflow"):
            wanted["mlflow"] = address
        else:
            log_line("MLFLOW_TRACKING_URI is set, but MLflow is not installed (pip install --editable '.[mlflow]'): nothing is sent there")
    if missing := wanted.keys() - there.names:
        raise UserError(f"tracker: expected one of {', '.join(sorted(there.names))}, got {', '.join(sorted(missing))}")
    return {name: there[name].load()(address) for name, address in wanted.items()}


@contextlib.contextmanager
def tracked(plan: Plan, trackers: dict[str, Tracker], patience: float = PATIENCE) -> Iterator[None]:
    """Tell `trackers` of the announced search `plan` during the `with` block, and of its end; that takes `patience` seconds at most."""
    followers = [_Follower(plan, name, tracker) for name, tracker in trackers.items()]
    for follower in followers:
        follower.start()
    state: TrackedState = "done"
    try:
        yield
    except BaseException as error:
        state, patience = "failed" if isinstance(error, Exception) else "stopped", HASTE
        raise
    finally:
        for follower in followers:
            follower.end(state)
        until = time.monotonic() + patience
        for follower in followers:
            follower.wait(max(0.0, until - time.monotonic()))


def catch_up(plan: Plan, trackers: dict[str, Tracker]) -> None:
    """Tell `trackers` what they lack of a finished search, and wait for it; one that does not answer is left alone."""
    for name, tracker in trackers.items():
        follower = _Follower(plan, name, tracker)
        follower.end("done")
        follower.start()
        follower.join()


class _Follower(threading.Thread):
    """One tracker of one search."""

    def __init__(self, plan: Plan, name: str, tracker: Tracker) -> None:
        context = contextvars.copy_context()  # in it, Prefect knows whose log a line belongs to
        super().__init__(target=lambda: context.run(self._follow), name=f"spnas-tracker-{name}", daemon=True)
        self._plan, self._tracker, self._title = plan, tracker, name
        self._state: TrackedState = "running"
        self._ended = threading.Event()
        self._told: dict[str, str] = {}  # versions by key
        self._warned = False

    def end(self, state: TrackedState) -> None:
        """Tell the tracker that the search has ended."""
        self._state = state
        self._ended.set()

    def wait(self, seconds: float) -> None:
        """Wait until that is done."""
        self.join(seconds)
        if self.is_alive():
            self._warn("to have sent all by now", "no end")

    def _follow(self) -> None:
        view: SearchView | None = None
        last = False
        while not last:
            last = self._ended.is_set()
            try:
                view = SearchView(self._plan) if view is None or last else view  # at the end without anything remembered
                self._tell(view)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no error of the search
                self._told.clear()
                self._warn("an answer", f"{type(error).__name__}: {first_line(error)}")
            self._ended.wait(LOOKS)

    def _tell(self, view: SearchView) -> None:
        for run in view.look(self._state):
            if self._told.get(run.key) != run.version:
                self._tracker.tell(run)
                self._told[run.key] = run.version

    def _warn(self, expected: str, got: str) -> None:
        """Say once that the tracker is away."""
        if not self._warned:
            self._warned = True
            got = textwrap.shorten(_SECRET.sub("://***@", got), 160, placeholder=" …")
            later = (
                "nothing of the search is lost; what is missing there is sent when it answers, or when the same command is started again"
            )
            log_line(f"tracker {self._title}: expected {expected}, got {got}; {later}")
