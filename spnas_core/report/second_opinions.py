"""Second opinions in a run's report: on every trial, and how far each agreed with the trained score (see `search/opinions.py`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spnas_core.report.ancestry import TrialEntry
from spnas_core.report.inputs import ReportInputs
from spnas_core.report.net_drawings import descends
from spnas_core.search.agreement import Agreement, agreement, cost_bands
from spnas_core.search.opinions import BLOCK_GAMMAS, OPINIONS, OpinionName, opinions_of
from spnas_core.weights.gammas import BlockUse, inserted_uses


class OpinionRow(NamedTuple):
    """Agreement of one opinion with the trained score: of all candidates, inside bands of cost (if there are enough), inside rounds."""

    name: OpinionName
    title: str
    all: Agreement
    in_bands: Agreement | None
    in_rounds: Agreement


@dataclass(frozen=True)
class SecondOpinions:
    """Opinions by the number of the trial, and their agreement; `shown` are those that some trial has, MACs aside.

    `uses`: of the blocks that a trial's edits inserted, by its number, where its training tells.
    """

    values: Mapping[int, Mapping[OpinionName, float | None]]
    uses: Mapping[int, Sequence[BlockUse]]
    table: tuple[OpinionRow, ...]
    score: str

    @property
    def shown(self) -> tuple[OpinionName, ...]:
        """Opinions with a column of their own."""
        return tuple(name for name in OPINIONS if name != "macs" and any(one[name] is not None for one in self.values.values()))

    @property
    def words(self) -> str:
        """One line: which opinions agreed in this run, and how much that says."""
        told = [row for row in self.table if not math.isnan(row.all.low)]
        if not told:
            return "Too few trained candidates to compare second opinions with."
        kinds: dict[str, list[str]] = {"Agreed with": [], "Against": [], "Not told apart from chance:": []}
        for row in told:
            kind = "Agreed with" if row.all.agrees else "Against" if row.all.high < 0 else "Not told apart from chance:"
            kinds[kind].append(f"{row.title} ({_figures(row.all)})")
        nets = max(row.all.nets for row in told)
        words = {"Agreed with": f"Agreed with the trained {self.score} in this run:", "Against": f"Against the trained {self.score}:"}
        parts = [f"{words.get(kind, kind)} {', '.join(ones)}." for kind, ones in kinds.items() if ones]
        wide = "; of so few the intervals are wide" if nets < 50 else ""
        return f"{' '.join(parts)} In brackets Kendall's tau over {nets} candidates and its 95 % bootstrap interval{wide}."


def second_opinions(inputs: ReportInputs, family: Sequence[TrialEntry]) -> SecondOpinions:
    """Opinions on all trials; compared are the candidates that were trained to the end of their training, not the start net."""
    settings = inputs.settings
    values = {one.number: _opinions(inputs, one) for one in family}
    uses = {one.number: _uses(inputs, one) for one in family}
    kept = [one for one in family if one.parent and one.state in ("front", "trained")]
    score = settings.objectives[0]
    trained = [one.trial.value(score) for one in kept]
    bands, rounds = cost_bands([one.cost.macs for one in kept]), [f"{one.trial.stage} {one.trial.round}" for one in kept]
    table = []
    for name, title in OPINIONS.items():
        ours = [math.nan if (value := values[one.number][name]) is None else value for one in kept]
        inside = agreement(ours, trained, bands) if bands else None
        table.append(OpinionRow(name, title, agreement(ours, trained), inside, agreement(ours, trained, rounds)))
    return SecondOpinions(values, uses, tuple(table), score)


def _opinions(inputs: ReportInputs, entry: TrialEntry) -> dict[OpinionName, float | None]:
    net, manifest = entry.trial.net, entry.training.manifest
    return opinions_of(net.arch, net.detector(inputs.plan.settings.detector), entry.cost.macs, manifest.metrics if manifest else {})


def _uses(inputs: ReportInputs, entry: TrialEntry) -> Sequence[BlockUse]:
    gammas = entry.training.manifest.metrics.get(BLOCK_GAMMAS) if entry.training.manifest else None
    if entry.parent is None or not gammas:
        return ()
    parent, child = entry.parent.trial.net.arch, entry.trial.net.arch
    return inserted_uses(parent, child, gammas, inputs.plan.leaves_out) if descends(parent, child) else ()


def _figures(one: Agreement) -> str:
    return f"{one.tau:.2f}, {one.low:.2f} to {one.high:.2f}".replace("-", "−")
