"""Pareto chart of a run as PNG."""

import io

from spnas_core.search.ledger import Ledger, pareto_front, ranked
from spnas_core.settings.search import counted
from spnas_core.settings.task import DETECTION, Task


def pareto_png(ledger: Ledger, task: Task = DETECTION) -> bytes:
    """Draw the score against MACs of all trials, with the Pareto front of these two, as PNG, whatever the objectives of the run are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    objectives = counted(task)
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    for stage, marker in (("fine_tune", "*"), ("structures", "^"), ("serial", "o"), ("parallel", "s")):
        trials = [trial for trial in ranked(ledger, objectives) if trial.stage == stage]
        if stage == "structures" and not trials:
            continue
        label = {"fine_tune": "start net"}.get(stage, stage)
        axes.plot(*_points(trials), marker, label=label, markersize=11 if marker == "*" else 6, alpha=0.8)
    axes.plot(
        *_points(pareto_front(ledger, objectives)),
        "-",
        color="grey",
        linewidth=1,
        zorder=0,
        label=f"Pareto front of {task.score} and GMACs",
    )
    axes.set(
        xlabel="GMACs of the detector" if task is DETECTION else "GMACs of the net", ylabel=f"{task.score} after the short training, %"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _points(trials: Ledger) -> tuple[list[float], list[float]]:
    return [(t.metrics or {})["macs"] / 1e9 for t in trials], [100 * (t.score or 0.0) for t in trials]
