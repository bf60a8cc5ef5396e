"""What a person reads of a study: tables and a picture, with AP in per cent; and its record as CSV, with fractions."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
from scipy import stats

from spnas_core.data.images import Doubles
from spnas_core.run.plan import short
from spnas_core.study.methods import (
    METHODS,
    Arrival,
    Difference,
    Forecast,
    Method,
    Outcome,
    StudyEntry,
    bootstrap_interval,
    paired_difference,
)
from spnas_core.study.pictures import draw_arrivals, draw_forecasts, draw_outcomes

Lines = list[tuple[str, ...]]
_Score = Callable[[Outcome], float]
_SCORES: dict[str, _Score] = {
    "AP test": lambda one: one.test["AP"],
    "AP50 test": lambda one: one.test["AP50"],
    "AP val": lambda one: one.val["AP"],
}


@dataclass(frozen=True)
class StudyReport:
    """A study's result: texts and tables in their order (a table's first line is its head), what was computed, and a picture (PNG)."""

    title: str
    parts: tuple[str | Lines, ...]
    computed: dict[str, Any]
    picture: bytes

    def markdown(self) -> str:
        """Return the whole report as Markdown."""
        return "\n\n".join([f"# {self.title}", *(p if isinstance(p, str) else _markdown(p) for p in self.parts), "![](report.png)"]) + "\n"

    def plain(self) -> str:
        """Return texts and tables for a terminal."""
        return "\n\n".join(p if isinstance(p, str) else _aligned(p) for p in self.parts)


def report_outcomes(outcomes: Sequence[Outcome]) -> StudyReport:
    """Compare the methods of `spnas study baselines`: the same seeds of each, in the same order."""
    by_method = {method: [one for one in outcomes if one.method == method] for method in METHODS}
    seeds = [one.seed for one in by_method["spnas"]]
    pairs: list[tuple[Method, Method]] = [(b, a) for a, b in combinations(METHODS, 2)]
    differences = {
        name: {pair: paired_difference(*([score(one) for one in by_method[method]] for method in pair)) for pair in pairs}
        for name, score in _SCORES.items()
    }
    head = ("method", "epochs", "nets", "minutes", "parameters", "GMACs", *_SCORES, "SP-NAS is")
    table: Lines = [head]
    for method, ones in by_method.items():
        costs = (f"{fmean(one.params for one in ones) / 1e6:.2f} M", f"{fmean(one.macs for one in ones) / 1e9:.3f}")
        counts = (_mean([one.epochs for one in ones], 0), _mean([one.nets for one in ones], 0), _mean([one.minutes for one in ones], 1))
        scores = (_spread([score(one) for one in ones]) for score in _SCORES.values())
        against = differences["AP test"].get(("spnas", method))
        table.append((METHODS[method], *counts, *costs, *scores, against.verdict if against else ""))
    compared: Lines = [("difference, points", *_SCORES)]
    compared += [(f"{METHODS[a]} - {METHODS[b]}", *(_interval(found[a, b]) for found in differences.values())) for a, b in pairs]
    chosen: Lines = [("seed", "method", "architecture", "GMACs", *_SCORES)]
    for one in sorted(outcomes, key=lambda one: (one.seed, list(METHODS).index(one.method))):
        numbers = (f"{one.macs / 1e9:.3f}", *(f"{100 * score(one):.1f}" for score in _SCORES.values()))
        chosen.append((str(one.seed), METHODS[one.method], short(one.arch, 60), *numbers))
    parts: tuple[str | Lines, ...] = (
        f"Each method trains equally many epochs (their sum is in the table) until it has chosen a net by its val AP; the chosen net "
        f"then goes on by the same final recipe. Means over seeds {', '.join(map(str, seeds))}, ± their standard deviation. The test "
        f"split is seen once, at the end.",
        *_unequal(by_method),
        table,
        "Mean differences of paired seeds with 95 % confidence intervals (Student's t). It is a tie where the interval contains 0.",
        compared,
        "The chosen nets.",
        chosen,
    )
    computed = {
        name: [
            {"a": a, "b": b, "mean": d.mean, "low": d.low, "high": d.high, "verdict": d.verdict, "of": "a - b"}
            for (a, b), d in found.items()
        ]
        for name, found in differences.items()
    }
    return StudyReport("Baselines: what the search is worth", parts, {"differences": computed}, draw_outcomes(by_method))


def _unequal(by_method: dict[Method, list[Outcome]]) -> list[str]:
    """Say which seeds did not get equally many epochs of every method, as where the space has no more nets within the budget."""
    found = []
    for ones in zip(*by_method.values(), strict=True):
        if len({one.epochs for one in ones}) > 1:
            epochs = ", ".join(f"{one.epochs} of {METHODS[one.method]}" for one in ones)
            found.append(f"Not equal: seed {ones[0].seed} had epochs {epochs}.")
    return found


def report_forecasts(nets: Sequence[Forecast]) -> StudyReport:
    """Say how well the short score predicts the long one."""
    pairs = np.array([(net.short, net.long) for net in nets])
    tau = _tau(pairs)
    low, high = bootstrap_interval(_tau, pairs)
    picked = max(nets, key=lambda net: net.short)
    regret = max(net.long for net in nets) - picked.long
    lines: Lines = [("architecture", "AP short", "AP long")]
    lines += [(short(net.arch, 60), f"{100 * net.short:.1f}", f"{100 * net.long:.1f}") for net in sorted(nets, key=lambda net: -net.long)]
    text = (
        f"Kendall's tau-b of the val AP after the short and after the full training: {tau:.2f} over {len(nets)} nets, 95 % bootstrap "
        f"interval {low:.2f} to {high:.2f}. The net that is best after the short training ends {100 * regret:.1f} points below the best."
    )
    computed = {"tau": tau, "low": low, "high": high, "regret": regret}
    return StudyReport("Proxy: does the short score predict the long one?", (text, lines), computed, draw_forecasts(nets, tau))


def _tau(pairs: Doubles) -> float:
    """Kendall's tau-b of two scores of the same nets, (N, 2), in [-1, 1]; nan where all of one are equal."""
    return float(stats.kendalltau(pairs[:, 0], pairs[:, 1]).statistic)


def report_arrivals(children: Sequence[Arrival]) -> StudyReport:
    """Say what inheritance saves."""
    epochs = [child.scratch_epochs / child.inherited_epochs for child in children]
    times = [child.scratch_seconds / child.inherited_seconds for child in children]
    lines: Lines = [("architecture", "AP50", "epochs, inherited", "from scratch", "ratio", "minutes, inherited", "from scratch", "ratio")]
    for child, ratio, slower in zip(children, epochs, times, strict=True):
        least = "" if child.reached else "> "
        lines.append(
            (
                short(child.arch, 60),
                f"{100 * child.target:.1f}",
                str(child.inherited_epochs),
                f"{least}{child.scratch_epochs} of {child.scratch_length}",
                f"{least}{ratio:.1f}",
                f"{child.inherited_seconds / 60:.2f}",
                f"{least}{child.scratch_seconds / 60:.2f}",
                f"{least}{slower:.1f}",
            )
        )
    missed = sum(not child.reached for child in children)
    text = (
        f"Until the first evaluation with the AP50 (val) that the inherited child has at the end of its short training: from scratch it "
        f"takes {median(epochs):.1f} times the epochs and {median(times):.1f} times the minutes (medians of {len(children)} children"
        f"{f'; {missed} never came there: > is a lower bound' if missed else ''}). Minutes are those of steps and of waiting for "
        f"data: compiling, which is the same for both, and evaluations are left out."
    )
    computed = {"median_ratio_epochs": median(epochs), "median_ratio_minutes": median(times), "never_reached": missed}
    return StudyReport("Inheritance: what it saves", (text, lines), computed, draw_arrivals(children))


def entries_csv(entries: Sequence[StudyEntry]) -> str:
    """Return the record of a study as CSV, one entry a line; parts of a part have names such as `test.AP`."""
    rows = []
    for entry in entries:
        row: dict[str, Any] = {}
        for name, value in entry.model_dump(mode="json", exclude={"artifacts"}).items():
            row |= {f"{name}.{part}": one for part, one in value.items()} if isinstance(value, dict) else {name: value}
        rows.append(row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _mean(values: Sequence[float], digits: int) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{fmean(values):.1f}"


def _spread(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.1f} ± {100 * stdev(values):.1f}"


def _interval(found: Difference) -> str:
    mark = " (tie)" if found.tie else ""
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]{mark}"


def _markdown(lines: Lines) -> str:
    ruled = [lines[0], ("---", *["---:"] * (len(lines[0]) - 1)), *lines[1:]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in ruled)


def _aligned(lines: Lines) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)
