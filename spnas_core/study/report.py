"""What the reports of the studies baselines, proxy and inheritance say: texts, tables and charts with scores in per cent."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from statistics import fmean, median, stdev
from typing import get_args

import numpy as np
from scipy import stats

from spnas_core.cost import Stem
from spnas_core.data.images import Doubles
from spnas_core.run.plan import short
from spnas_core.settings.detector import HEAD_KINDS
from spnas_core.settings.task import DETECTION, Task
from spnas_core.study.methods import (
    ARRIVES,
    METHODS,
    Arrival,
    Difference,
    Forecast,
    Method,
    Outcome,
    bootstrap_interval,
    paired_difference,
)
from spnas_core.study.pictures import draw_arrivals, draw_forecasts, draw_outcomes
from spnas_core.study.report_form import Lines, StudyReport
from spnas_core.study.second_scores import compare_opinions


def report_outcomes(outcomes: Sequence[Outcome], task: Task = DETECTION) -> StudyReport:
    """Compare the methods of `spnas study baselines`; each must have the same seeds in the same order."""
    there = [method for method in METHODS if any(outcome.method == method for outcome in outcomes)]
    by_method = {method: [outcome for outcome in outcomes if outcome.method == method] for method in there}
    own_score, second = task.scores
    read: dict[str, Callable[[Outcome], float]] = {
        f"{task.title(own_score)} test": lambda outcome: outcome.test[own_score],
        f"{task.title(second)} test": lambda outcome: outcome.test[second],
        f"{task.title(own_score)} val": lambda outcome: outcome.val[own_score],
    }
    seeds = [outcome.seed for outcome in by_method["spnas"]]
    pairs: list[tuple[Method, Method]] = [(b, a) for a, b in combinations(there, 2)]
    differences = {
        name: {pair: paired_difference(*([score(outcome) for outcome in by_method[method]] for method in pair)) for pair in pairs}
        for name, score in read.items()
    }
    head = ("method", "epochs", "nets", "minutes", "parameters", "GMACs", *read, "SP-NAS is")
    table: Lines = [head]
    for method, group in by_method.items():
        costs = (f"{fmean(run.params for run in group) / 1e6:.2f} M", f"{fmean(run.macs for run in group) / 1e9:.3f}")
        counts = (_mean([run.epochs for run in group], 0), _mean([run.nets for run in group], 0), _mean([run.minutes for run in group], 1))
        scores = (_spread([score(run) for run in group]) for score in read.values())
        against = differences[next(iter(read))].get(("spnas", method))
        table.append((METHODS[method], *counts, *costs, *scores, against.verdict if against else ""))
    compared: Lines = [("difference, points", *read)]
    compared += [(f"{METHODS[a]} - {METHODS[b]}", *(_interval(by_pair[a, b]) for by_pair in differences.values())) for a, b in pairs]
    chosen: Lines = [("seed", "method", "architecture", "GMACs", *read)]
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.seed, list(METHODS).index(outcome.method))):
        numbers = (f"{outcome.macs / 1e9:.3f}", *(f"{100 * score(outcome):.1f}" for score in read.values()))
        chosen.append((str(outcome.seed), METHODS[outcome.method], short(outcome.arch, 60), *numbers))
    parts: tuple[str | Lines, ...] = (
        f"Each method trains equally many epochs (their sum is in the table) until it has chosen a net by its val score; the chosen net "
        f"then goes on by the same final recipe. Means over seeds {', '.join(map(str, seeds))}, ± their standard deviation. The test "
        f"split is seen once, at the end.",
        *_unequal(by_method),
        table,
        "Mean differences of paired seeds with 95 % confidence intervals (Student's t). It is a tie where the interval contains 0.",
        compared,
        *_on_images(by_method, task),
        "The chosen nets.",
        chosen,
    )
    computed = {
        name: [
            {"a": a, "b": b, "mean": d.mean, "low": d.low, "high": d.high, "verdict": d.verdict, "of": "a - b"}
            for (a, b), d in by_pair.items()
        ]
        for name, by_pair in differences.items()
    }
    on_images = {
        method: {**asdict(found), "verdict": found.verdict} for method, group in by_method.items() if (found := group[0].all_behind)
    }
    figures = {"differences": computed, "on_images": on_images}
    return StudyReport("Baselines: what the search is worth", parts, figures, draw_outcomes(by_method, own_score))


def _on_images(by_method: dict[Method, list[Outcome]], task: Task) -> list[str | Lines]:
    """Text and table of the differences over the images of test; nothing for a record of an earlier version."""
    seeds = [f"seed {outcome.seed}" for outcome in by_method["spnas"]]
    lines: Lines = [("SP-NAS minus", *seeds, "mean of the seeds")]
    for method, group in by_method.items():
        found = [*(outcome.behind for outcome in group), group[0].all_behind]
        if method != "spnas" and any(found):
            lines.append((METHODS[method], *(_interval(one) if one else "-" for one in found)))
    text = (
        f"The same nets on the images of test: SP-NAS's minus the other's, points of {task.score}, with 95 % intervals over the images, "
        f"drawn anew for both. They say what holds for other images of this kind, and nothing of what other seeds would give."
    )
    return [text, lines] if len(lines) > 1 else []


def _unequal(by_method: dict[Method, list[Outcome]]) -> list[str]:
    """Note the seeds with unequal epochs of the methods, such as where the search space has no more nets within the budget."""
    notes = []
    for outcomes in zip(*by_method.values(), strict=True):
        if len({outcome.epochs for outcome in outcomes}) > 1:
            epochs = ", ".join(f"{outcome.epochs} of {METHODS[outcome.method]}" for outcome in outcomes)
            notes.append(f"Not equal: seed {outcomes[0].seed} had epochs {epochs}.")
    return notes


def report_forecasts(nets: Sequence[Forecast], task: Task = DETECTION) -> StudyReport:
    """Report how well the score of the short training, and what the search makes of it, predict the score after the full one."""
    scores: dict[str, Callable[[Forecast], float]] = {f"{task.score} short": lambda net: net.short}
    if all(net.short50 is not None for net in nets):
        scores[f"{task.title(task.scores[1])} short"] = lambda net: net.short50 or 0.0
    for name in sorted({name for net in nets for name in net.path}):
        scores[f"{name} as a path"] = partial(_path_score, name)
    if any(net.ranked_by not in (net.short, net.short50) for net in nets):
        scores["estimate"] = lambda net: net.ranked_by
    taus: Lines = [("score", "tau", "95 % interval", "regret")]
    found: dict[str, dict[str, float]] = {}
    for name, score in scores.items():
        pairs = np.array([(score(net), net.long) for net in nets])
        tau, (low, high) = _tau(pairs), bootstrap_interval(_tau, pairs)
        regret = max(net.long for net in nets) - max(nets, key=score).long
        taus.append((name, f"{tau:.2f}", f"{low:.2f} to {high:.2f}", f"{100 * regret:.1f}"))
        found[name] = {"tau": tau, "low": low, "high": high, "regret": regret}
    lines: Lines = [("net", "GMACs", *scores, f"{task.score} long")]
    for net in sorted(nets, key=lambda net: -net.long):
        genes = [part for part in net.net.split("+")[1:] if part not in (*HEAD_KINDS, *get_args(Stem))]
        values = (f"{100 * value:.1f}" for value in (*(score(net) for score in scores.values()), net.long))
        lines.append((" ".join((short(net.arch, 60), *genes)), f"{net.macs / 1e9:.3f}", *values))
    text = (
        f"Kendall's tau-b of scores after the short training with the val {task.score} after the full one, over {len(nets)} nets, "
        f"95 % bootstrap intervals. Regret: points of {task.score} that the net that such a score puts first ends below the best. "
        f"The search ranks by its first objective, or by the estimate."
    )
    spread = f"The nets cost {min(n.macs for n in nets) / 1e9:.3f} to {max(n.macs for n in nets) / 1e9:.3f} GMACs."
    title, last = "Proxy: does the short score predict the long one?", next(reversed(found.values()))
    second = compare_opinions(nets, task)
    parts: tuple[str | Lines, ...] = (text, taus, spread, lines, *second.parts)
    computed = {**last, "scores": found, "opinions": second.computed}
    return StudyReport(title, parts, computed, draw_forecasts(nets, last["tau"], task.score))


def _path_score(name: str, net: Forecast) -> float:
    return net.path.get(name, -1.0)


def _tau(pairs: Doubles) -> float:
    """Kendall's tau-b of two scores of the same nets, (N, 2), in [-1, 1]; nan if all values of a score are equal."""
    return float(stats.kendalltau(pairs[:, 0], pairs[:, 1]).statistic)


def report_arrivals(children: Sequence[Arrival], task: Task = DETECTION) -> StudyReport:
    """Report the epochs and minutes that inheritance saves."""
    score = ARRIVES[task.name]
    epochs = [child.scratch_epochs / child.inherited_epochs for child in children]
    times = [child.scratch_seconds / child.inherited_seconds for child in children]
    lines: Lines = [("architecture", score, "epochs, inherited", "from scratch", "ratio", "minutes, inherited", "from scratch", "ratio")]
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
        f"Until the first evaluation with the {score} (val) that the inherited child has at the end of its short training: from scratch it "
        f"takes {median(epochs):.1f} times the epochs and {median(times):.1f} times the minutes (medians of {len(children)} children"
        f"{f'; {missed} never came there: > is a lower bound' if missed else ''}). Minutes are those of steps and of waiting for "
        f"data: compiling, which is the same for both, and evaluations are left out."
    )
    computed = {"median_ratio_epochs": median(epochs), "median_ratio_minutes": median(times), "never_reached": missed}
    return StudyReport("Inheritance: what it saves", (text, lines), computed, draw_arrivals(children, score))


def _mean(values: Sequence[float], digits: int) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{fmean(values):.1f}"


def _spread(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.1f} ± {100 * stdev(values):.1f}"


def _interval(difference: Difference) -> str:
    mark = " (tie)" if difference.tie else ""
    return f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]{mark}"
