"""Fronts of a search, of random search and of stock nets at equal epochs; and the net that the search recommends beside the start net.

Hyper-volume: the share of the box from a score (AP, mIoU) of 0 and 1.1 times the MACs of a seed's dearest net, up to a score of 1,
that nets of a method dominate. The score is that on the test split, which no method has seen; which nets are on a method's front is decided
on val.
"""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal

from spnas_core.search.pareto import hypervolume
from spnas_core.settings.base import Settings
from spnas_core.settings.task import DETECTION, Task
from spnas_core.study.methods import Difference, StudyEntry, paired_difference
from spnas_core.study.pictures import draw_fronts
from spnas_core.study.report_form import Lines, StudyReport

FrontMethod = Literal["spnas", "random", "stock"]
FRONT_METHODS: dict[FrontMethod, str] = {"spnas": "SP-NAS", "random": "random search, inherited", "stock": "stock nets"}
MARGIN = 0.01  # loss of score that counts as none


class FrontPoint(Settings):
    """Net of a front: its text, MACs, and score on val and test, fractions."""

    net: str
    macs: int
    val: float
    test: float


class TrainedNet(FrontPoint):
    """Net after its full training, with its latency, ms, and the epochs that it and its ancestors were trained in all."""

    latency_ms: float
    epochs: int


class FrontOutcome(StudyEntry):
    """Front of one method with one seed; with `recommended` and `reference`, the net that the search recommends and the start net."""

    method: FrontMethod
    seed: int
    epochs: int
    points: tuple[FrontPoint, ...]
    recommended: TrainedNet | None = None
    reference: TrainedNet | None = None


def volumes_by_method(outcomes: Sequence[FrontOutcome]) -> dict[FrontMethod, list[float]]:
    """Hyper-volume of each method, one per seed in the order of the seeds; the box of a seed is the same for all methods."""
    highest: dict[int, int] = {}
    for one in outcomes:
        highest[one.seed] = max(highest.get(one.seed, 0), *(point.macs for point in one.points))
    found: dict[FrontMethod, list[float]] = {method: [] for method in FRONT_METHODS}
    for one in sorted(outcomes, key=lambda one: one.seed):
        points = [(max(point.test, 0.0), point.macs / (1.1 * highest[one.seed])) for point in one.points]
        found[one.method].append(hypervolume(points, (0.0, 1.0)))
    return found


def report_fronts(outcomes: Sequence[FrontOutcome], task: Task = DETECTION) -> StudyReport:
    """Compare the fronts, and the recommended net with the start net; every method must have the same seeds."""
    volumes = volumes_by_method(outcomes)
    table: Lines = [("method", "epochs", "nets on the front", "hyper-volume", "SP-NAS minus it", "SP-NAS is")]
    computed: dict[str, object] = {"volumes": volumes}
    for method, values in volumes.items():
        group = [one for one in outcomes if one.method == method]
        against = None if method == "spnas" else paired_difference(volumes["spnas"], values)
        mean = f"{100 * fmean(values):.2f} ± {100 * stdev(values):.2f}"
        nets, epochs = fmean(len(one.points) for one in group), fmean(one.epochs for one in group)
        words = (_points(against), against.verdict) if against else ("", "")
        table.append((FRONT_METHODS[method], f"{epochs:.1f}", f"{nets:.1f}", mean, *words))
        computed |= {f"against_{method}": against.__dict__} if against else {}
    pairs = [(one.seed, one.recommended, one.reference) for one in outcomes if one.recommended and one.reference]
    gain = paired_difference([ours.test for _, ours, _ in pairs], [theirs.test for _, _, theirs in pairs])
    macs, latency = ([getattr(a, name) / getattr(b, name) for _, a, b in pairs] for name in ("macs", "latency_ms"))
    lossless = gain.low > -MARGIN
    computed |= {"gain": gain.__dict__, "macs": macs, "latency": latency, "lossless": lossless}
    seeds: Lines = [("seed", "net", f"{task.score} test", "start net", "epochs", "GMACs", "times", "latency, ms", "times")]
    for seed, ours, theirs in pairs:
        costs = (
            f"{ours.macs / 1e9:.3f}",
            f"{ours.macs / theirs.macs:.2f}",
            f"{ours.latency_ms:.2f}",
            f"{ours.latency_ms / theirs.latency_ms:.2f}",
        )
        seeds.append((str(seed), ours.net, f"{100 * ours.test:.1f}", f"{100 * theirs.test:.1f}", f"{ours.epochs}, {theirs.epochs}", *costs))
    fronts = (
        f"Each method trains equally many epochs; its front is that of its score on val and MACs, its hyper-volume of {task.score} on "
        f"test, per cent of the box. Means over {len(volumes['spnas'])} seeds ± standard deviation; differences with 95 % intervals "
        f"(paired, Student's t)."
    )
    verdict = "no loss" if lossless else "not shown to be without loss"
    recommended = (
        f"The recommended net, the cheapest that val shows hardly behind the start net, fully trained, minus the start net trained "
        f"for as many epochs in all: {_points(gain)} {task.score} on test, {verdict} (a margin of {100 * MARGIN:g} point), "
        f"at {fmean(macs):.2f} times the MACs and {fmean(latency):.2f} times the latency."
    )
    by_method = {name: [one.points for one in outcomes if one.method == method] for method, name in FRONT_METHODS.items()}
    picture = draw_fronts(by_method, task.score)
    title = f"Fronts: the same {task.score} for less, and more for the same"
    return StudyReport(title, (fronts, table, recommended, seeds), computed, picture)


def _points(difference: Difference) -> str:
    return f"{100 * difference.mean:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
