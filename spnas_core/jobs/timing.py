"""Time of jobs by phase: compile, data, steps, evaluation; the rest of a job's seconds is its start-up and shutdown."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

Phase = Literal["compile", "data", "steps", "evaluation"]
PHASES: tuple[Phase, ...] = ("compile", "data", "steps", "evaluation")
_T = TypeVar("_T")


class Stopwatch:
    """Clock of the phases of a training, in seconds; starts from `spent`, the seconds before an interruption."""

    def __init__(self, spent: Mapping[str, float] | None = None) -> None:
        self._seconds: dict[Phase, float] = {phase: (spent or {}).get(phase, 0.0) for phase in PHASES}

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Add the time of the `with` block to a phase."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - begun

    def waiting(self, phase: Phase, items: Iterable[_T]) -> Iterator[_T]:
        """Yield `items`, adding the waiting time for each to a phase."""
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
    """Split the `seconds` of a finished job into its phases, from its metrics, and ``other``, its start-up and shutdown.

    An evaluation or a benchmark is all evaluation. An interrupted training has the phases of all its attempts, but the seconds of the
    last one.
    """
    if kind not in ("train", "reignite", "supernet", "paths"):
        return {"evaluation": seconds}
    phases: dict[str, float] = {phase: float(metrics.get("timing", {}).get(phase, 0.0)) for phase in PHASES}
    return {**phases, "other": max(0.0, seconds - sum(phases.values()))}


def total_seconds(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sum of the seconds of several jobs by phase, in the order of `PHASES`, ``other`` last."""
    total = dict.fromkeys((*PHASES, "other"), 0.0)
    for job in several:
        for phase, seconds in job.items():
            total[phase] += seconds
    return total


def timing_table(stages: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """Table of seconds by stage and phase, as rows of text: a header, a row for each stage, and the total."""
    parts = (*PHASES, "other")
    rows = [*stages.items(), ("all", total_seconds(stages.values()))]
    return [
        ("seconds of jobs", *parts, "sum"),
        *((name, *(f"{row[part]:.0f}" for part in parts), f"{sum(row.values()):.0f}") for name, row in rows),
    ]
