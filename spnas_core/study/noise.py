"""Noise of short scores: how much the score of a net varies with the seed, what lowers that, and how well nets can then be ranked.

A score is a true value, with standard deviation s over nets, plus noise of standard deviation e over seeds. Where both are normal,
Kendall's tau of the score and the true value is (2 / pi) asin(s / sqrt(s^2 + e^2)), and it is 0.5 where e = s (Kendall, Rank Correlation
Methods, chapter 10).
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np

from spnas_core.data.images import Doubles
from spnas_core.run.plan import short
from spnas_core.settings.task import DETECTION, Task
from spnas_core.study.methods import StudyEntry, bootstrap_interval
from spnas_core.study.pictures import draw_bars
from spnas_core.study.report_form import Lines, StudyReport

ENOUGH = 0.5  # Kendall's tau from which on a ranking is worth its cost


class NoisyScore(StudyEntry):
    """Short training of one net with one seed: val score after each epoch, of its weights and of their moving average; fractions.

    `control`: that of the parent, trained on by the same recipe and seed.
    """

    seed: int
    macs: int
    plain: tuple[float, ...]
    averaged: tuple[float, ...]
    control: tuple[tuple[float, ...], tuple[float, ...]]


_Score = Callable[[NoisyScore], float]


def remedies(last: int, score: str) -> dict[str, _Score]:
    """Scores by which nets can be ranked, the plain one first; `last`: epochs at the end whose evaluations are averaged."""

    def mean(curve: Sequence[float]) -> float:
        return fmean(curve[-last:])

    return {
        f"{score} at the end": lambda one: one.plain[-1],
        f"mean of the last {last}": lambda one: mean(one.plain),
        "average of weights": lambda one: one.averaged[-1],
        "gain over the parent": lambda one: one.plain[-1] - one.control[0][-1],
        f"average of weights, mean of the last {last}": lambda one: mean(one.averaged),
        "all three": lambda one: mean(one.averaged) - mean(one.control[1]),
    }


def seeds_table(scores: Sequence[NoisyScore], score: _Score) -> Doubles:
    """Return the scores (N, S) of N nets with S seeds each, in the order of `scores`; ValueError where nets have not the same seeds."""
    nets: dict[str, dict[int, float]] = {}
    for one in scores:
        nets.setdefault(one.arch, {})[one.seed] = score(one)
    seeds = {tuple(sorted(found)) for found in nets.values()}
    if len(seeds) != 1:
        raise ValueError(f"expected equal seeds for all nets, got {sorted(seeds)}")
    (same,) = seeds
    return np.array([[found[seed] for seed in same] for found in nets.values()])


def noise_of(table: Doubles) -> float:
    """Return the standard deviation over seeds of (N, S), pooled over nets."""
    return float(np.sqrt(table.var(axis=1, ddof=1).mean()))


def common_noise_removed(table: Doubles) -> float:
    """Return the standard deviation over seeds of (N, S) without what all nets of a seed have in common, which changes no ranking."""
    nets, seeds = table.shape
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float(np.sqrt((rest**2).sum() / ((nets - 1) * (seeds - 1))))


def spread_of(table: Doubles) -> float:
    """Estimate the standard deviation of the true values of (N, S): that of the means over seeds, without the noise left in them."""
    left = common_noise_removed(table) ** 2 / table.shape[1]
    return math.sqrt(max(0.0, float(table.mean(axis=1).var(ddof=1)) - left))


def tau_expected(spread: float, noise: float) -> float:
    """Kendall's tau of noisy scores with the true values; 0 where the nets do not differ."""
    return 2 / math.pi * math.asin(spread / math.hypot(spread, noise)) if spread else 0.0


def seeds_needed(spread: float, noise: float, tau: float = ENOUGH) -> int | None:
    """Seeds per net whose mean comes to Kendall's `tau`; None where the nets do not differ."""
    share = math.sin(math.pi * tau / 2) ** 2
    return max(1, math.ceil((noise / spread) ** 2 * share / (1 - share) - 1e-9)) if spread else None


def ratio_interval(ours: Doubles, plain: Doubles) -> tuple[float, float, float]:
    """Noise of `ours` as a share of that of `plain`, (N, S) both, and its 95 % bootstrap interval over nets; nan where that has none."""
    variances = np.stack([ours.var(axis=1, ddof=1), plain.var(axis=1, ddof=1)], axis=1)

    def ratio(rows: Doubles) -> float:
        first, second = rows.sum(axis=0)
        return float(np.sqrt(first / second)) if second else math.nan

    return (ratio(variances), *bootstrap_interval(ratio, variances))


def report_noise(scores: Sequence[NoisyScore], task: Task = DETECTION) -> StudyReport:
    """Report the noise of each way to score, the spread of the nets, and the tau to expect."""
    last = max(1, min(len(scores[0].plain) - 1, 3))
    tables = {name: seeds_table(scores, score) for name, score in remedies(last, task.score).items()}
    plain = next(iter(tables.values()))
    head = ("score", "noise", "times the first", "95 % interval", "noise that ranks", "spread", "tau", f"seeds for tau {ENOUGH}")
    lines: Lines = [head]
    computed: dict[str, dict[str, float | int | None]] = {}
    for name, table in tables.items():
        ratio, low, high = ratio_interval(table, plain)
        noise, spread = common_noise_removed(table), spread_of(table)
        tau, needed = tau_expected(spread, noise), seeds_needed(spread, noise)
        numbers = {"noise": noise_of(table), "ratio": ratio, "low": low, "high": high, "ranks": noise, "spread": spread}
        computed[name] = {**numbers, "tau": tau, "seeds": needed}
        figures = (f"{100 * noise_of(table):.2f}", f"{ratio:.2f}", f"{low:.2f} to {high:.2f}", f"{100 * noise:.2f}", f"{100 * spread:.2f}")
        lines.append((name, *figures, f"{tau:.2f}", "none" if needed is None else str(needed)))
    nets: Lines = [("architecture", "GMACs", f"{task.score}, mean", "SD over seeds", "average of weights, mean", "SD")]
    averaged = tables["average of weights"]
    for one, first, second in zip({one.arch: one for one in scores}.values(), plain, averaged, strict=True):
        means = (f"{100 * value:.2f}" for row in (first, second) for value in (row.mean(), row.std(ddof=1)))
        nets.append((short(one.arch, 60), f"{one.macs / 1e9:.3f}", *means))
    text = (
        f"{len(plain)} nets of about equal cost, {plain.shape[1]} seeds each, {len(scores[0].plain)} epochs on the weights of one parent. "
        f"Noise: standard deviation over the seeds, points of {task.score} on val, pooled over nets. Noise that ranks: the same without "
        f"what a seed does to all nets alike, which changes no ranking. Spread: standard deviation of the nets' true scores as far "
        f"as the means over seeds show it. Tau: Kendall's tau of one such score with the true one to expect from the two."
    )
    best = min(computed, key=lambda name: computed[name]["ranks"] or 0.0)
    summary = f"Least noise that ranks: {best}. Most to rank by: {max(computed, key=lambda name: computed[name]['tau'] or 0.0)}."
    bars = {name: [100 * float(value["ranks"] or 0), 100 * float(value["spread"] or 0)] for name, value in computed.items()}
    picture = draw_bars(bars, ("noise that ranks", "spread"), f"points of {task.score} on val")
    return StudyReport("Noise: how far a short score can be believed", (text, lines, summary, nets), {"scores": computed}, picture)
