"""Tables of a run: its main nets as Markdown or text, also from a summary, and all trials as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spnas_core.jobs import timing
from spnas_core.necks import taps_of
from spnas_core.run.plan import START, short
from spnas_core.run.record import PATH, StageRecord
from spnas_core.search.ledger import SEARCH_STAGES, Ledger, pareto_front, ranked, volumes, winner
from spnas_core.search.net import gene_words
from spnas_core.settings.search import OBJECTIVES, Objectives
from spnas_core.settings.task import DETECTION, Task, task_of_metrics

PLACE = ("stage", "round", "index", "arch", "stem", "taps")
LAST = ("failure", "digest", "parent", "net")


@dataclass(frozen=True)
class Row:
    """One net of the table; scores in `metrics` are fractions, -1 if undefined; `genes`: see `gene_words`."""

    net: str
    arch: str
    metrics: dict[str, Any]
    genes: str = ""

    @property
    def task(self) -> Task:
        """Task that the metrics are of."""
        return task_of_metrics(self.metrics)

    @property
    def title(self) -> str:
        """Architecture, with what else the net has other than the start net."""
        return ", ".join(filter(None, (short(self.arch, 60), self.genes)))

    def cells(self) -> tuple[str, ...]:
        """Cells of the row as text: parameters in millions, GMACs, scores in per cent."""
        millions, gmacs = f"{self.metrics['params'] / 1e6:.2f} M", f"{self.metrics['macs'] / 1e9:.2f}"
        scores = (self.metrics.get(name, -1.0) for name in self.task.shown.values())
        return (self.net, self.title, millions, gmacs, *(f"{100 * s:.1f}" if s >= 0 else "-" for s in scores))


def rows(stage: StageRecord, objectives: Objectives = OBJECTIVES) -> list[Row]:
    """Rows of a run's result table: start net, best serial, best parallel, and the nets that were trained to the end."""
    groups = {"start net": stage.ledger[:1]}
    groups |= {
        f"best {name.removesuffix('s')}": tuple(trial for trial in stage.ledger if trial.stage == name) for name in SEARCH_STAGES[1:]
    }
    best = {net: winner(trials, objectives) for net, trials in groups.items() if ranked(trials, objectives)}
    found = [Row(net, trial.arch, trial.metrics or {}, gene_words(trial.net, stage.ledger[0].net)) for net, trial in best.items()]
    for split, ending in (("val", ""), ("test", ", test split")):
        others = {name: name for name in stage.results if name not in (START, "final")}
        for name, net in {**others, START: "start net, full training", "final": "final"}.items():
            result = stage.results.get(name)
            if result and split in result.scores:
                found.append(Row(net + ending, result.arch, result.scores[split], result.genes))
    return found


@dataclass(frozen=True)
class PathRow:
    """Finalist of a supernet: its score and rank as a path, and after its training; AP as fractions, None and 0 where it failed."""

    trial: str
    arch: str
    path: float
    path_rank: int
    trained: float | None
    rank: int


def path_rows(stage: StageRecord) -> list[PathRow]:
    """Rows of the finalists of a supernet, the best as paths first; none for another search."""
    name = PATH + DETECTION.score
    found = [trial for trial in stage.ledger if trial.metrics and name in trial.metrics]
    orders = [sorted(found, key=lambda trial: -trial.value(score)) for score in (name, DETECTION.score)]
    return [
        PathRow(f"{one.stage} r{one.round} c{one.index + 1}", one.arch, one.value(name), number, one.score, orders[1].index(one) + 1)
        for number, one in enumerate(orders[0], start=1)
    ]


def paths_md(stage: StageRecord) -> str:
    """Return the finalists as a Markdown table; empty for another search."""
    lines = [
        f"| {row.trial} | `{short(row.arch, 60)}` | {100 * row.path:.1f} | {row.path_rank} | {100 * (row.trained or 0):.1f} | {row.rank} |"
        for row in path_rows(stage)
    ]
    head = "| trial | architecture | AP as a path | rank | AP trained | rank |\n| --- | --- | ---: | ---: | ---: | ---: |"
    return "\n".join(["Finalists of the supernet:\n", head, *lines]) if lines else ""


def columns(table: Sequence[Row]) -> tuple[str, ...]:
    """Titles of the columns of a table of nets, by the task that they are for."""
    return "net", "architecture", "parameters", "GMACs", *(table[0].task if table else DETECTION).shown


def markdown(table: list[Row]) -> str:
    """Return the table as Markdown."""
    titles = columns(table)
    lines = [titles, ("---", "---", *["---:"] * (len(titles) - 2)), *(row.cells() for row in table)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plain(table: list[Row]) -> str:
    """Return the table as aligned text."""
    return aligned([columns(table), *(row.cells() for row in table)], 2)


def plain_timing(stages: Mapping[str, Mapping[str, float]]) -> str:
    """Return the time by stage and phase as aligned text."""
    return aligned(timing.timing_table(stages), 1)


def aligned(lines: Sequence[tuple[str, ...]], words: int) -> str:
    """Align columns, the first `words` to the left, the numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([c.ljust(w) if n < words else c.rjust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True))] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def trials_csv(ledger: Ledger, objectives: Objectives = OBJECTIVES) -> str:
    """Return the ledger as CSV, one trial per line, scores as fractions; `hypervolume` is that after the trial's round."""
    front, found = {trial.digest for trial in pareto_front(ledger, objectives)}, volumes(ledger, objectives)
    task = task_of_metrics(next((trial.metrics for trial in ledger if trial.metrics), {}))
    names = list(dict.fromkeys(("params", "macs", *task.stats, *objectives)))
    estimates = [f"estimate_{name}" for name in task.scores] if any(trial.estimate for trial in ledger) else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*PLACE, *names, *estimates, "rung", "pareto", "hypervolume", *LAST])
    for trial in ledger:
        numbers = [(trial.metrics or {}).get(name, "") for name in names]
        place = [trial.stage, trial.round, trial.index, trial.arch, trial.net.stem, "-".join(map(str, taps_of(trial.net.neck) or ()))]
        ended = [trial.rung or "", int(trial.digest in front), f"{found[trial.stage, trial.round]:.6f}", trial.failure or ""]
        own = [trial.value(name.removeprefix("estimate_")) if trial.metrics else "" for name in estimates]
        writer.writerow([*place, *numbers, *own, *ended, trial.digest, trial.parent or "", str(trial.net)])
    return out.getvalue()


def table_of(summary: dict[str, Any]) -> list[Row]:
    """Return the table's rows from a run's summary."""
    return [Row(entry["net"], entry["arch"], entry, entry.get("genes", "")) for entry in summary["table"]]
