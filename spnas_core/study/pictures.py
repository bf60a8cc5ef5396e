"""Charts of studies as PNG; scores in per cent. `score` is the title of the task's score."""

import io
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from spnas_core.study.methods import METHODS, Arrival, Forecast, Method, Outcome


def _png(draw: Callable[[Any], None], size: tuple[float, float]) -> bytes:
    """Draw one pair of axes as PNG; `size` is width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    draw(axes)
    axes.grid(alpha=0.3)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def draw_outcomes(by_method: dict[Method, list[Outcome]], score: str) -> bytes:
    """Draw every method's score on the test split, one line per seed."""

    def draw(axes: Any) -> None:
        places = range(len(by_method))
        for number, seed in enumerate(outcome.seed for outcome in by_method["spnas"]):
            scores = [100 * outcomes[number].test[score] for outcomes in by_method.values()]
            axes.plot(places, scores, "o-", alpha=0.5, label=f"seed {seed}")
        means = [100 * fmean(outcome.test[score] for outcome in outcomes) for outcomes in by_method.values()]
        axes.plot(places, means, "x", color="black", markersize=9, markeredgewidth=2, label="mean")
        axes.set_xticks(list(places), [METHODS[method].replace(", ", ",\n").replace(" from", "\nfrom") for method in by_method])
        axes.set(ylabel=f"{score} on test after the final training, %", xlim=(-0.5, len(by_method) - 0.5))
        axes.legend()

    return _png(draw, (7, 4.5))


def draw_forecasts(nets: Sequence[Forecast], tau: float, score: str) -> bytes:
    """Draw the score after the full training against that after the short one."""

    def draw(axes: Any) -> None:
        axes.plot([100 * net.ranked_by for net in nets], [100 * net.long for net in nets], "o")
        axes.set(
            xlabel="what the search ranks by after the short training, %",
            ylabel=f"{score} on val after the full training, %",
            title=f"tau = {tau:.2f}",
        )

    return _png(draw, (5, 4.5))


def draw_arrivals(children: Sequence[Arrival], score: str) -> bytes:
    """Draw the epochs that each child needed, on inherited weights and from scratch."""

    def draw(axes: Any) -> None:
        places = np.arange(len(children))
        axes.bar(places - 0.2, [child.inherited_epochs for child in children], 0.4, label="inherited")
        axes.bar(places + 0.2, [child.scratch_epochs for child in children], 0.4, label="from scratch")
        for place, child in zip(places, children, strict=True):
            axes.annotate("" if child.reached else "not reached", (place + 0.2, child.scratch_epochs), ha="center", va="bottom")
        axes.set_xticks(places, [f"{score} {100 * child.target:.1f}" for child in children])
        axes.set(ylabel=f"epochs until that {score} on val")
        axes.legend()

    return _png(draw, (7, 4.5))


def draw_bars(values: Mapping[str, Sequence[float]], names: Sequence[str], axis: str) -> bytes:
    """Draw a group of bars for each entry of `values`, one bar for each of `names`."""

    def draw(axes: Any) -> None:
        places, width = np.arange(len(values)), 0.8 / len(names)
        for number, name in enumerate(names):
            axes.barh(places + (number - (len(names) - 1) / 2) * width, [row[number] for row in values.values()], width, label=name)
        axes.set_yticks(places, list(values))
        axes.invert_yaxis()
        axes.set(xlabel=axis)
        axes.legend()

    return _png(draw, (7, 4.5))


def draw_fronts(by_method: Mapping[str, Sequence[Sequence[Any]]], score: str) -> bytes:
    """Draw the fronts of all methods, score on test against GMACs; points have `macs` and `test`, one front per seed."""

    def draw(axes: Any) -> None:
        for number, (name, fronts) in enumerate(by_method.items()):
            for seed, points in enumerate(fronts):
                ordered = sorted(points, key=lambda point: point.macs)
                values = [point.macs / 1e9 for point in ordered], [100 * point.test for point in ordered]
                axes.plot(*values, "o-", color=f"C{number}", alpha=0.5, label=name if not seed else None)
        axes.set(xlabel="GMACs of the net", ylabel=f"{score} on test, %")
        axes.legend()

    return _png(draw, (7, 4.5))
