"""Speed of a device: straight lines through measured trainings and evaluations, the basis of all forecasts.

Seconds of a step and of an image, and megabytes, are lines in the work, in GMACs of all images of a step (cost.py counts those of an
inference; a training does about three times as many); seconds of compiling are a line in the number of blocks that a graph holds. All lines
rise and none is below zero.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

WARM = 0.15  # of the seconds of compiling, those left where the graph was kept (jobs/graphs.py): 0.8 of 5.7 for the demo's start net


@dataclass(frozen=True)
class Line:
    """The value `base` + `slope` * x."""

    base: float
    slope: float

    def at(self, x: float) -> float:
        """Value at `x`."""
        return self.base + self.slope * x


def fit_line(points: Iterable[tuple[float, float]]) -> Line:
    """Least-squares line through points (x >= 0, y >= 0), with neither coefficient below zero; through the origin where all x are equal."""
    x, y = np.array(list(points), np.float64).reshape(-1, 2).T
    if not len(x):
        raise ValueError("expected at least one point, got none")
    if len(x) > 1 and np.ptp(x) > 1e-9 * x.max():
        slope, base = np.polyfit(x, y, 1)
        if slope >= 0 and base >= 0:
            return Line(float(base), float(slope))
        if slope < 0:
            return Line(float(y.mean()), 0.0)
    return Line(0.0, float((x * y).sum() / (x * x).sum())) if x.any() else Line(float(y.mean()), 0.0)


@dataclass(frozen=True)
class Speed:
    """Seconds and megabytes that a device needs.

    `start`: of a job before and after its work; `train_compile`, `eval_compile`: by blocks; `step`: by GMACs of its images; `image`: of the
    evaluation, by its GMACs; `by_operators`: extra of an evaluation batch without a graph, by blocks; `decode`: of one image that is read
    and resized; `memory_mb`: of a training, by GMACs of a step.
    """

    start: float
    train_compile: Line
    step: Line
    eval_compile: Line
    image: Line
    by_operators: Line
    decode: float
    memory_mb: Line


def makespan(seconds: Sequence[float], places: int) -> float:
    """Seconds until the last job ends when jobs start in order on `places` devices, each as soon as one is free."""
    free = [0.0] * max(1, places)
    for one in seconds:
        first = free.index(min(free))
        free[first] += one
    return max(free)
