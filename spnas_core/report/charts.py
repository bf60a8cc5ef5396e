"""Geometry of a report's charts: axes with round ticks, points and curves, in per cent of the plot area from its top left."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from spnas_core.report.ancestry import TrialEntry
from spnas_core.report.inputs import ReportInputs, Training
from spnas_core.settings.search import SCORES, Budget, Objective, Objectives

UNITS: dict[str, tuple[str, float]] = {
    "AP": ("AP on val, %", 100.0),
    "AP50": ("AP50 on val, %", 100.0),
    "mIoU": ("mIoU on val, %", 100.0),
    "pixel_accuracy": ("pixel accuracy on val, %", 100.0),
    "params": ("parameters, millions", 1e-6),
    "macs": ("GMACs of the detector", 1e-9),
    "latency_ms": ("latency, ms", 1.0),
    "memory_mb": ("peak memory, MB", 1.0),
}


def unit_of(name: Objective) -> tuple[str, float]:
    """Title of an objective's axis, and the factor of its values there."""
    base, _, device = name.partition("@")
    title, factor = UNITS[base]
    return (title.replace(",", f" on {device},", 1) if device else title), factor


class Tick(NamedTuple):
    """One tick of an axis."""

    text: str
    share: float


@dataclass(frozen=True)
class Axis:
    """Linear axis from its first to its last tick; `share` gives the place of a value, in [0, 100] from the lower end."""

    title: str
    low: float
    high: float
    ticks: tuple[Tick, ...]

    def share(self, value: float) -> float:
        """Place of `value` on the axis, per cent from the lower end."""
        return 100 * (value - self.low) / (self.high - self.low)


class _Point(NamedTuple):
    """A trial in the Pareto chart; without a score it is at the lower end of the plot."""

    x: float
    y: float
    entry: TrialEntry


class Curve(NamedTuple):
    """Line through `points` ("x,y x,y ..."); `entry` is the number of its trial, if it belongs to one."""

    name: str
    kind: str
    points: str
    entry: TrialEntry | None = None


class Mark(NamedTuple):
    """Point of a net that is no trial."""

    x: float
    y: float
    kind: str
    shape: str
    words: str


@dataclass(frozen=True)
class Chart:
    """Chart: axes, points and curves."""

    x: Axis
    y: Axis
    points: tuple[_Point, ...] = ()
    curves: tuple[Curve, ...] = ()
    title: str = ""
    marks: tuple[Mark, ...] = ()


def axis(values: Iterable[float], title: str, zero: bool = False, whole: bool = False, about: int = 5) -> Axis:
    """Axis over `values` with about `about` round ticks, in steps of 1, 2 or 5 times a power of ten.

    `zero`: it starts at 0. `whole`: ticks are whole numbers.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = (min(0.0, *finite) if zero else min(finite)), max(finite)
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-6 * size else max(size, 1e-6)
    span = max(span, 1e-300)  # above 0, as a divisor
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= about)
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple(Tick(f"{n * step:.{digits}f}", 100 * (n - first) / (last - first)) for n in range(first, last + 1))
    return Axis(title, first * step, last * step, ticks)


def pareto_chart(family: Sequence[TrialEntry], objectives: Objectives, budget: Budget | None = None) -> Chart:
    """Draw the deciding score against the first cost, with the front as steps if these two are all objectives, and the budget as a line.

    A failed trial without these numbers is placed by its computed cost (parameters or MACs), if the axis is one of these.
    """
    cost: Objective = next((name for name in objectives if name not in SCORES), "macs")
    (x_title, x_factor), (y_title, y_factor) = unit_of(cost), unit_of(objectives[0])
    places = [(x_factor * _cost(one, cost), y_factor * one.trial.value(objectives[0]), one) for one in family]
    places = [(x, y if y >= 0 else math.nan, one) for x, y, one in places if math.isfinite(x)]
    limit = budget_line(budget, cost) if budget else []
    x_axis, y_axis = axis((*(x for x, _, _ in places), *limit), x_title), axis((y for _, y, _ in places), y_title)
    points = tuple(_Point(x_axis.share(x), 100 - y_axis.share(y) if math.isfinite(y) else 100.0, one) for x, y, one in places)
    front = sorted(((p.x, p.y) for p in points if p.entry.state == "front"), key=lambda place: place[0])
    curves = (Curve("Pareto front", "front", stairs(front)),) if front and set(objectives) == {objectives[0], cost} else ()
    lines = (Curve("budget", "budget", f"{x_axis.share(value):.2f},0 {x_axis.share(value):.2f},100") for value in limit)
    return Chart(x_axis, y_axis, points, (*curves, *lines))


def budget_line(budget: Budget, cost: Objective) -> list[float]:
    """Return the upper limit of a cost in the unit of its axis, if there is one."""
    limits = {"params": budget.params_m, "macs": budget.gmacs, "latency_ms": budget.latency_ms, "memory_mb": budget.memory_mb}
    limit = limits[cost][1] if cost in limits else None
    return [] if limit is None else [limit]


def _cost(entry: TrialEntry, name: str) -> float:
    counted = {"params": entry.cost.params, "macs": entry.cost.macs}
    return float(counted[name]) if name in counted else entry.trial.value(name)


def stairs(front: Sequence[tuple[float, float]]) -> str:
    """Draw the border of the region that the front dominates: right to the next cost, then up."""
    places = [front[0]]
    for x, y in front[1:]:
        places += [(x, places[-1][1]), (x, y)]
    return _line([(front[0][0], 100.0), *places, (100.0, places[-1][1])])


def _line(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in places)


def curve_charts(inputs: ReportInputs, family: Sequence[TrialEntry]) -> list[Chart]:
    """Draw losses (and the score where it was measured) by epoch: of the full trainings, of all trials, of the reignitions."""
    results = inputs.stage.results
    names = {inputs.stage.start_net: ("start net", "start"), "final": ("final net", "final")}
    full = [(*words, inputs.trainings[results[net].digest], None) for net, words in names.items() if net in results]
    short = [(one.name, one.trial.stage, one.training, one) for one in family]
    again = [(f"reignition {n}", "final", one, None) for n, one in enumerate(inputs.reignitions.values(), start=1)]
    score = inputs.plan.settings.work.score
    charts = [
        _epochs("Full training: loss", full, lambda record: record["loss"]),
        _epochs(f"Full training: {score} on val, %", full, lambda record: 100 * record[score] if score in record else math.nan),
        _parts(inputs),
        _epochs("All trials: loss", short, lambda record: record["loss"]),
        _epochs("Reignition: loss", again, lambda record: record["loss"]),
    ]
    return [chart for chart in charts if chart]


def _parts(inputs: ReportInputs) -> Chart | None:
    final = inputs.stage.results.get("final")
    history = inputs.trainings[final.digest].history if final else ()
    manifest = inputs.trainings[final.digest].manifest if final else None
    head = manifest.job.get("detector", {}).get("head", {}).get("kind", "") if manifest else ""  # a search may have chosen another
    detector = inputs.plan.settings.detector
    names = (detector.head_of(head) if head else detector.head).loss_names
    if not history or len(history[0].get("losses", ())) != len(names):
        return None
    one = inputs.trainings[final.digest] if final else Training()
    lines = [(name, f"part{n}", one, None) for n, name in enumerate(names)]
    return _epochs("Final net: parts of its loss", lines, None)


def _epochs(title: str, lines: Sequence[tuple[str, str, Training, TrialEntry | None]], value: Any) -> Chart | None:
    """Draw a value of each record by epoch (None: the n-th of the parts); None if no line has two points."""
    found = []
    for place, (name, kind, training, entry) in enumerate(lines):
        each = [(float(r["epoch"]), float(value(r) if value else r["losses"][place])) for r in training.history if "loss" in r]
        found.append((name, kind, [(x, y) for x, y in each if math.isfinite(y)], entry))
    found = [one for one in found if len(one[2]) > 1]
    if not found:
        return None
    x = axis((x for _, _, places, _ in found for x, _ in places), "epoch", whole=True)
    y = axis((y for _, _, places, _ in found for _, y in places), "", zero=True)
    curves = [Curve(n, kind, _line((x.share(a), 100 - y.share(b)) for a, b in places), entry) for n, kind, places, entry in found]
    return Chart(x, y, curves=tuple(curves), title=title)
