"""Draw the fronts of structural searches that differ by their seed, and say how far the found nets are ahead of the stock family.

    .venv/bin/python -m docs.draw_fronts OUT.png STORE/runs/NAME...

It prints hyper-volumes of AP and AP50 on test over latency, their difference with its 95 % interval (paired over the runs, Student's t),
and the found nets beside the family's best one, as Markdown.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spnas_core.search.pareto import pareto_rank
from spnas_core.study.methods import paired_difference

SIDES = {"found": "found nets", "stock": "stock family"}


def nets(run: dict[str, Any], side: str) -> list[dict[str, Any]]:
    """Nets of one side of a run, the fastest first."""
    return sorted((net for net in run["nets"] if net["side"] == side), key=lambda net: net["latency_ms"])


def volumes(runs: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Rows of a table of hyper-volumes, a line for each score; of several runs their difference too."""
    for score in ("AP", "AP50"):
        found, stock = ([run["hypervolume"][side][score] for run in runs] for side in SIDES)
        each = ", ".join(f"{a:.3f} and {b:.3f}" for a, b in zip(found, stock, strict=True))
        words = ""
        if len(runs) > 1:
            gain = paired_difference(found, stock)
            words = f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
        yield f"| {score} | {each} | {words} |"


def beside_best(run: dict[str, Any]) -> str:
    """Row of a table: the family's net of the highest AP; the best found one that is as fast, the fastest one with as high an AP."""
    best = max(nets(run, "stock"), key=lambda net: net["AP"])
    as_fast = [net for net in nets(run, "found") if net["latency_ms"] <= best["latency_ms"]]
    as_good = [net for net in nets(run, "found") if net["AP"] >= best["AP"]]
    first = max(as_fast, key=lambda net: net["AP"], default=None)
    cells = [f"{best['net']}, {100 * best['AP']:.1f} at {best['latency_ms']:.1f} ms"]
    cells += [f"{100 * first['AP']:.1f} at {first['latency_ms']:.1f} ms" if first else "none"]
    cells += [f"{as_good[0]['latency_ms'] / best['latency_ms']:.2f}" if as_good else "none"]
    return f"| {' | '.join(cells)} |"


def draw(runs: Sequence[dict[str, Any]], out: Path) -> None:
    """Write the chart: AP on test over latency, all nets as marks and each front as steps, a plot for each run."""
    figure = Figure(figsize=(3.6 * len(runs) + 0.6, 3.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    plots = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    for number, (axes, run) in enumerate(zip(plots, runs, strict=True)):
        for colour, (side, name) in zip(("#0b5ed7", "#8c959f"), SIDES.items(), strict=True):
            points = [(net["latency_ms"], 100 * net["AP"]) for net in nets(run, side)]
            ranks = pareto_rank([(score, cost) for cost, score in points])
            front = [point for point, rank in zip(points, ranks, strict=True) if not rank]
            axes.plot(*zip(*points, strict=True), "o", color=colour, label=name)
            axes.step(*zip(*front, strict=True), where="post", color=colour, alpha=0.7)
        axes.set(xlabel="latency, ms", title=f"seed {number}" if len(runs) > 1 else "")
        axes.grid(alpha=0.3)
    plots[0].set(ylabel="AP on test, %")
    plots[0].legend(loc="lower right")
    figure.savefig(out, metadata={"Software": None})


def main(out: str, *folders: str) -> None:
    """Draw and print what the runs in `folders` of a store found."""
    runs = [json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))["fronts"] for folder in folders]
    print("| hyper-volume of | found and stock, by seed | found minus stock |", "| --- | --- | ---: |", *volumes(runs), "", sep="\n")
    print("| the family's best net, AP on test | best found net as fast | latency of the fastest found net as good, times |")
    print("| --- | --- | ---: |", *map(beside_best, runs), sep="\n")
    draw(runs, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
