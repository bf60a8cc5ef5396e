"""Where the time of jobs goes: compile, data, steps, evaluation; what is left of a job's seconds is its start and its end."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

Phase = Literal["compile", "data", "steps", "evaluation"]
PHASES: tuple[Phase, ...] = ("compile", "data", "steps", "evaluation")
_T = TypeVar("_T")


class Stopwatch:
    """Seconds of each phase of a training, from those of `spent` on, what it took before it was interrupted."""

    def __init__(self, spent: Mapping[str, float] | None = None) -> None:
        self._seconds: dict[Phase, float] = {phase: (spent or {}).get(phase, 0.0) for phase in PHASES}

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Add the time of the block to a phase."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - begun

    def waiting(self, phase: Phase, items: Iterable[_T]) -> Iterator[_T]:
        """Yield `items`; the time that one waits for each is added to a phase."""
        source = iter(items)
        while True:
            with self.during(phase):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase so far."""
        return {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}


def parts(kind: str, seconds: float, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Say where the `seconds` of an ended job went, by its metrics: its phases, and ``other``, its start and its end.

    All of an evaluation or a benchmark is evaluation. A training that was interrupted has the phases of all its attempts, and the seconds
    of the last.
    """
    if kind not in ("train", "reignite"):
        return {"evaluation": seconds}
    phases: dict[str, float] = {phase: float(metrics.get("timing", {}).get(phase, 0.0)) for phase in PHASES}
    return {**phases, "other": max(0.0, seconds - sum(phases.values()))}


def total_seconds(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add up what several jobs took, phase by phase, in the order of `PHASES`, the rest last."""
    found = dict.fromkeys((*PHASES, "other"), 0.0)
    for one in several:
        for phase, seconds in one.items():
            found[phase] += seconds
    return found


def timing_table(stages: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """Rows of text, in seconds: a title, a row for each stage, and their sum."""
    parts = (*PHASES, "other")
    rows = [*stages.items(), ("all", total_seconds(stages.values()))]
    return [
        ("seconds of jobs", *parts, "sum"),
        *((name, *(f"{row[part]:.0f}" for part in parts), f"{sum(row.values()):.0f}") for name, row in rows),
    ]
