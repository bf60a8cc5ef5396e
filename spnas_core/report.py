"""What a person reads at the end of a run: one table, `report.md`, `trials.csv`, `pareto.png`, and the final model with its card."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from spnas_core import timing
from spnas_core.config import OBJECTIVES, Objectives
from spnas_core.course import course, what_is_known, where_time_went
from spnas_core.ledger import Ledger, Trial, pareto_front, ranked, volumes, winner
from spnas_core.metrics import STATS
from spnas_core.plan import Plan, short
from spnas_core.rounds import rounds, rounds_md
from spnas_core.runs import announce_run
from spnas_core.stages import Stage

COLUMNS = ("net", "architecture", "parameters", "GMACs", "AP", "AP50", "AP small", "AP medium", "AP large")
PLACE = ("stage", "round", "index", "arch", "stem", "taps")
SCORES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")


@dataclass(frozen=True)
class Row:
    """One net of the table; AP and the like in `metrics` are fractions, -1 where undefined."""

    net: str
    arch: str
    metrics: dict[str, Any]

    def cells(self) -> tuple[str, ...]:
        """Return the row as text: millions, GMACs, AP in per cent."""
        millions, gmacs = f"{self.metrics['params'] / 1e6:.2f} M", f"{self.metrics['macs'] / 1e9:.2f}"
        scores = (self.metrics.get(name, -1.0) for name in SCORES)
        return (self.net, short(self.arch, 60), millions, gmacs, *(f"{100 * s:.1f}" if s >= 0 else "-" for s in scores))


def rows(stage: Stage, objectives: Objectives = OBJECTIVES) -> list[Row]:
    """Rows of the table at the end of a run: start net, best serial, best parallel, and the nets that were trained to the end."""
    groups = {"start net": stage.ledger[:1]}
    groups |= {f"best {name}": tuple(trial for trial in stage.ledger if trial.stage == name) for name in ("serial", "parallel")}
    best = {net: winner(trials, objectives) for net, trials in groups.items() if ranked(trials, objectives)}
    found = [Row(net, trial.arch, trial.metrics or {}) for net, trial in best.items()]
    for split, ending in (("val", ""), ("test", ", test split")):
        for name, net in (("start", "start net, full training"), ("final", "final")):
            result = stage.results.get(name)
            if result and split in result.scores:
                found.append(Row(net + ending, result.arch, result.scores[split]))
    return found


def markdown(table: list[Row]) -> str:
    """Return the table as Markdown."""
    lines = [COLUMNS, ("---", "---", *["---:"] * (len(COLUMNS) - 2)), *(row.cells() for row in table)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plain(table: list[Row]) -> str:
    """Return the table as aligned text."""
    return _aligned([COLUMNS, *(row.cells() for row in table)], 2)


def plain_timing(stages: Mapping[str, Mapping[str, float]]) -> str:
    """Return where the time went, by stage and phase, as aligned text."""
    return _aligned(timing.table(stages), 1)


def _aligned(lines: Sequence[tuple[str, ...]], words: int) -> str:
    """Align columns, the first `words` to the left, the numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([c.ljust(w) if n < words else c.rjust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True))] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def trials_csv(ledger: Ledger, objectives: Objectives = OBJECTIVES) -> str:
    """Return the ledger as CSV, one trial a line, AP and the like as fractions; `hypervolume` is that after the trial's round."""
    front, found = {trial.digest for trial in pareto_front(ledger, objectives)}, volumes(ledger, objectives)
    names = list(dict.fromkeys(("params", "macs", *STATS, *objectives)))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*PLACE, *names, "rung", "pareto", "hypervolume", "failure", "digest", "parent"])
    for trial in ledger:
        numbers = [(trial.metrics or {}).get(name, "") for name in names]
        place = [trial.stage, trial.round, trial.index, trial.arch, trial.stem or "", "-".join(map(str, trial.taps or ()))]
        ended = [trial.rung or "", int(trial.digest in front), f"{found[trial.stage, trial.round]:.6f}", trial.failure or ""]
        writer.writerow([*place, *numbers, *ended, trial.digest, trial.parent or ""])
    return out.getvalue()


def pareto_png(ledger: Ledger) -> bytes:
    """Draw AP against MACs of all trials, with the Pareto front, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    for stage, marker in (("fine_tune", "*"), ("serial", "o"), ("parallel", "s")):
        trials = [trial for trial in ranked(ledger) if trial.stage == stage]
        label = {"fine_tune": "start net", "serial": "serial", "parallel": "parallel"}[stage]
        axes.plot(*_points(trials), marker, label=label, markersize=11 if marker == "*" else 6, alpha=0.8)
    axes.plot(*_points(pareto_front(ledger)), "-", color="grey", linewidth=1, zorder=0, label="Pareto front")
    axes.set(xlabel="GMACs of the detector", ylabel="AP after the short training, %")
    axes.grid(alpha=0.3)
    axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _points(trials: Ledger) -> tuple[list[float], list[float]]:
    return [(t.metrics or {})["macs"] / 1e9 for t in trials], [100 * t.ap for t in trials]


def report_md(plan: Plan, stage: Stage) -> str:
    """Return the report of a finished run."""
    final, failed = stage.results["final"], [trial for trial in stage.ledger if trial.failure]
    counts = {name: sum(trial.stage == name for trial in stage.ledger) for name in ("serial", "parallel")}
    parts = [
        f"# Run `{plan.settings.name}`",
        f"Data `{plan.data.url}` (fingerprint `{plan.data.fingerprint[:12]}`), {plan.classes} classes; {counts['serial']} serial and "
        f"{counts['parallel']} parallel candidates, {len(failed)} of them failed. AP in per cent, on the val split unless said otherwise.",
        markdown(rows(stage, plan.settings.objectives)),
        *stage.notes,
        *map(_failed, failed),
        rounds_md(stage.ledger, plan.settings),
        *(f"- reignited: `{weights.arch}`, top-1 {100 * stage.top1[digest]:.1f} %" for digest, weights in stage.reignited.items()),
        "![AP against MACs](pareto.png)",
        f"## Final net\n\n`{final.arch}`, weights of `train/{final.digest}`, in `model/`. Per class, on val:",
        "| class | AP | AP50 |\n| --- | ---: | ---: |\n"
        + "\n".join(
            f"| {name} | {100 * scores['AP']:.1f} | {100 * scores['AP50']:.1f} |"
            for name, scores in final.scores["val"].get("per_class", {}).items()
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _failed(trial: Trial) -> str:
    place = f"{trial.stage} r{trial.round} c{trial.index + 1} `{trial.arch}`"
    return f"- failed: {place}: {trial.failure}, log in `logs/train/{trial.digest}.txt` of the store"


def publish_run(plan: Plan, stage: Stage) -> dict[str, Any]:
    """Write what a person wants of a finished run below `runs/NAME/` of the store, and return its summary."""
    announce_run(plan)
    store, folder, final = plan.store, f"runs/{plan.settings.name}", stage.results["final"]
    card = json.loads(store.fetch("train", final.digest, "model.json").read_text())
    weights = store.fetch("train", final.digest, "weights.safetensors").read_bytes()
    card |= {"scores": final.scores, "train_artifact": final.digest, "data_fingerprint": plan.data.fingerprint}
    card |= {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    store.write(f"{folder}/config.yml", yaml.safe_dump(plan.settings.model_dump(mode="json"), sort_keys=False).encode())
    store.write(f"{folder}/report.md", report_md(plan, stage).encode())
    store.write(f"{folder}/trials.csv", trials_csv(stage.ledger, plan.settings.objectives).encode())
    store.write(f"{folder}/pareto.png", pareto_png(stage.ledger))
    store.write(f"{folder}/model/weights.safetensors", weights)
    store.write(f"{folder}/model/model.json", json.dumps(card, indent=1).encode())
    table = rows(stage, plan.settings.objectives)
    summary = {
        "name": plan.settings.name,
        "folder": f"{store.url}/{folder}",
        "model": f"{store.url}/{folder}/model",
        "trials": len(stage.ledger),
        "failed": sum(1 for trial in stage.ledger if trial.failure),
        "notes": list(stage.notes),
        "rounds": rounds(stage.ledger, plan.settings),
        "reignited": [{"arch": weights.arch, "top1": stage.top1[digest]} for digest, weights in stage.reignited.items()],
        "table": [{"net": row.net, "arch": row.arch, **{n: row.metrics.get(n) for n in ("params", "macs", *STATS)}} for row in table],
        "timing": where_time_went(course(plan, what_is_known(plan)).steps),
        "key": stage.key,
    }
    store.write(f"{folder}/summary.json", json.dumps(summary, indent=1).encode())
    return summary


def table_of(summary: dict[str, Any]) -> list[Row]:
    """Return the table's rows from a run's summary."""
    return [Row(entry["net"], entry["arch"], entry) for entry in summary["table"]]
