"""The nets of a run that were trained to the end as two fronts: those that the search found, and the stock family beside them.

Stock nets are trained from scratch for as many epochs in all as the found nets with most of them. Both fronts are told by their
hyper-volume, the share of one box that they dominate: from a score of 0 to 1, and of costs from 0 to 1.1 times the highest of all.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from spnas_core.report.charts import Chart, Curve, Mark, axis, budget_line, stairs, unit_of
from spnas_core.run.plan import FRONT, STOCK
from spnas_core.run.record import Result
from spnas_core.search.ledger import Ledger
from spnas_core.search.pareto import hypervolume, pareto_rank
from spnas_core.settings.run import Run
from spnas_core.settings.search import SCORES, Objective

Side = Literal["found", "stock"]
NET_SIDES: tuple[Side, ...] = ("found", "stock")


class FinalNetPoint(NamedTuple):
    """Net that was trained to the end: whose front it may be on, its scores on one split, its cost, the stage that found it or `stock`."""

    name: str
    side: Side
    arch: str
    genes: str
    scores: Mapping[str, float]
    cost: float
    origin: str


class FinalFronts(NamedTuple):
    """All such nets of a run; `split`: what they are scored on, `cost`: the objective that they are compared by beside `scores`."""

    points: tuple[FinalNetPoint, ...]
    split: str
    cost: Objective
    scores: tuple[str, ...]

    def side(self, side: Side) -> list[FinalNetPoint]:
        """Return the points of one side, the cheapest first."""
        return sorted((one for one in self.points if one.side == side), key=lambda one: (one.cost, one.name))

    def front(self, side: Side, score: str) -> list[FinalNetPoint]:
        """Return the points of one side that none of it beats, the cheapest first."""
        points = self.side(side)
        ranks = pareto_rank([(one.scores[score], one.cost) for one in points])
        return [one for one, rank in zip(points, ranks, strict=True) if not rank]

    def volume(self, side: Side, score: str) -> float:
        """Hyper-volume of one side, a share of the box of both."""
        highest = 1.1 * max(one.cost for one in self.points)
        return hypervolume([(one.scores[score], one.cost / highest) for one in self.side(side)], (0.0, 1.0))

    def document(self) -> dict[str, Any]:
        """Give the hyper-volumes and the nets as JSON."""
        volumes = {side: {score: self.volume(side, score) for score in self.scores} for side in NET_SIDES}
        nets = [
            {
                "net": one.name,
                "side": one.side,
                "origin": one.origin,
                "arch": one.arch,
                "genes": one.genes,
                self.cost: one.cost,
                **one.scores,
            }
            for one in self.points
        ]
        return {"split": self.split, "cost": self.cost, "hypervolume": volumes, "words": self.words(), "nets": nets}

    def words(self) -> list[str]:
        """Say how far the found front is ahead, a line for each score."""
        return [
            f"Hyper-volume of {score} on {self.split} and {unit_of(self.cost)[0]}: found {self.volume('found', score):.3f}, "
            f"stock family {self.volume('stock', score):.3f} ({len(self.side('found'))} and {len(self.side('stock'))} nets)."
            for score in self.scores
        ]


def final_fronts(results: Mapping[str, Result], ledger: Ledger, settings: Run) -> FinalFronts | None:
    """Compare the nets of a run that were trained to the end; None without a structural search, or without a stock net."""
    if not settings.structures or not any(name.startswith(STOCK) for name in results):
        return None
    split = "test" if all("test" in one.scores for one in results.values()) else "val"
    cost: Objective = next((name for name in settings.objectives if name not in SCORES), "macs")
    points, stages = [], {trial.digest: trial.stage for trial in ledger}
    for name, one in results.items():
        side: Side | None = "stock" if name.startswith(STOCK) else "found" if name == "final" or name.startswith(FRONT) else None
        value = {**one.scores["val"], **one.costs}.get(cost)
        if side and value is not None:
            scores: dict[str, float] = {score: max(0.0, float(one.scores[split][score])) for score in settings.work.scores}
            points.append(
                FinalNetPoint(name.removeprefix(STOCK), side, one.arch, one.genes, scores, float(value), stages.get(one.trial, side))
            )
    sides = {one.side for one in points}
    return FinalFronts(tuple(points), split, cost, settings.work.scores) if sides == set(NET_SIDES) else None


def final_chart(fronts: FinalFronts, settings: Run) -> Chart:
    """Draw both fronts as steps, all nets as marks, and the budget as a line."""
    score = settings.work.score
    title, factor = unit_of(fronts.cost)
    limit = budget_line(settings.budget, fronts.cost)
    x = axis([*(factor * one.cost for one in fronts.points), *limit], title)
    y = axis((100 * one.scores[score] for one in fronts.points), f"{score} on {fronts.split}, %")

    def places(points: Sequence[FinalNetPoint]) -> list[tuple[float, float]]:
        return [(x.share(factor * one.cost), 100 - y.share(100 * one.scores[score])) for one in points]

    curves = [Curve(f"{side} nets", f"side-{side}", stairs(places(fronts.front(side, score)))) for side in NET_SIDES]
    curves += [Curve("budget", "budget", f"{x.share(value):.2f},0 {x.share(value):.2f},100") for value in limit]
    marks = [
        Mark(
            *place,
            one.side,
            one.origin,
            f"{one.name}: {100 * one.scores[score]:.1f} at {factor * one.cost:.3g}, {one.arch} {one.genes}".strip(),
        )
        for one, place in zip(fronts.points, places(fronts.points), strict=True)
    ]
    return Chart(x, y, curves=tuple(curves), marks=tuple(marks))
