"""Front of a run as a table, as sentences on what to take, and as a JSON document."""

from collections.abc import Sequence
from typing import Any

from spnas_core.report.front import Front, FrontNet, Limits, Recommendation, Scored
from spnas_core.report.intervals import Interval
from spnas_core.report.tables import aligned

_COSTS = {"macs": ("GMACs", 1e-9), "params": ("M parameters", 1e-6), "latency_ms": ("ms", 1.0)}


def front_text(front: Front, choices: Sequence[Recommendation]) -> str:
    """Return the front as a table, cheapest net first, and below it a line for each recommendation, tie and open question."""
    names = sorted({name for one in front.nets for name in one.costs if name.startswith("latency_ms")})
    names = ["macs", "params", *names]
    estimated = any(one.trial.estimate for one in front.nets) or front.plan.settings.objectives[0] != "AP"
    trained = any(one.full for one in front.nets)
    chosen = {id(one.net) for one in choices if one.net}
    score = front.plan.settings.objectives[0]
    head = ["", "net", "place", "architecture", "AP", "95 %", "than the one above"]
    head += [f"ranked by {score}"] if estimated else []
    head += ["AP trained", "95 %", "than the one above"] if trained else []
    lines = [(*head, *map(_title, names), "MB")]
    for one in front.nets:
        cells = ["*" if id(one) in chosen else "", str(one.number), one.label, one.title, *_scored(one.short)]
        cells += [f"{100 * one.trial.value(score):.1f}"] if estimated else []
        cells += (_scored(one.full) if one.full else ["", "", ""]) if trained else []
        lines.append((*cells, *(_cost(one, name) for name in names), f"{one.size / 1e6:.2f}"))
    notes = [*map(_words, choices), *_notes(front)]
    return "\n".join([aligned(lines, 4), "", *notes]) if notes else aligned(lines, 4)


def front_document(front: Front, choices: Sequence[Recommendation]) -> dict[str, Any]:
    """Return the front as a JSON document; AP as fractions, costs in their units, `megabytes` of the weights."""
    return {
        "run": front.plan.settings.name,
        "store": front.plan.store.url,
        "finished": front.finished,
        "stage": front.stage.name,
        "objectives": list(front.plan.settings.objectives),
        "nets": [_document(front, one) for one in front.nets],
        "recommended": [
            {"limits": dict(one.limits), "net": one.net.number if one.net else None, "tie": one.tie.number if one.tie else None}
            for one in choices
        ],
        **({"no_data": front.no_data} if front.no_data else {}),
    }


def _document(front: Front, one: FrontNet) -> dict[str, Any]:
    return {
        "number": one.number,
        "place": one.label,
        "net": str(one.trial.net),
        "arch": one.trial.arch,
        "score": one.trial.value(front.plan.settings.objectives[0]),
        "costs": dict(one.costs),
        "predicted": sorted(one.predicted),
        "megabytes": one.size / 1e6,
        "short": _training(one.short),
        "full": _training(one.full) if one.full else None,
        "model": f"{front.plan.store.url}/train/{one.train}",
    }


def _training(one: Scored) -> dict[str, Any]:
    found: dict[str, Any] = {"train": one.train, "AP": one.score}
    found |= {"interval": [one.ap.low, one.ap.high]} if one.ap else {}
    if one.gain:
        found["gain"] = {"mean": one.gain.mean, "low": one.gain.low, "high": one.gain.high, "tie": not one.gain.means_something}
    return found


def _title(name: str) -> str:
    base, _, device = name.partition("@")
    return f"{_COSTS[base][0]} {device}".rstrip()


def _cost(one: FrontNet, name: str) -> str:
    if name not in one.costs:
        return "-"
    value = _COSTS[name.partition("@")[0]][1] * one.costs[name]
    return f"{'~' if name in one.predicted else ''}{f'{value:.0f}' if value >= 1000 else f'{value:#.3g}'.rstrip('.')}"


def _scored(one: Scored) -> list[str]:
    return [f"{100 * one.score:.1f}", f"{100 * one.ap.low:.1f} to {100 * one.ap.high:.1f}" if one.ap else "-", _gain(one.gain)]


def _gain(gain: Interval | None) -> str:
    if gain is None:
        return ""
    return f"{100 * gain.mean:+.1f}{'' if gain.means_something else ' tie'}"


def limit_words(limits: Limits) -> str:
    """Limits as text: `ms <= 20 and GMACs <= 2`."""
    found = [f"{factor * limits[name]:g} {_title(name)}" for name in limits for _, factor in [_COSTS[name.partition("@")[0]]]]
    return " and ".join(found)


def _words(choice: Recommendation) -> str:
    words = f"at most {limit_words(choice.limits)}" if choice.limits else "no limit"
    if choice.net is None:
        return f"{words}: no net of the front is within"
    one, tie = choice.net, choice.tie
    full = f", {100 * one.full.score:.1f} trained to the end" if one.full else ""
    found = f"{words}: net {one.number}, {one.title}, AP {100 * one.short.score:.1f} after the search{full}"
    if tie:
        fewer = 1 - tie.costs["macs"] / one.costs["macs"]
        found += f"; net {tie.number} is a tie with it, at {100 * fewer:.0f} % fewer MACs"
    return found


def _notes(front: Front) -> list[str]:
    found = []
    if not front.finished:
        found.append(f"The run is not finished: this is its front up to the stage {front.stage.name}, and it may change.")
    if front.no_data:
        found.append(f"No intervals, since the data cannot be read: {front.no_data}")
    elif any(one.short.gain for one in front.nets):
        found.append("tie: the 95 % interval of the difference, paired over the images of val, contains 0; it means nothing.")
    if any(one.predicted for one in front.nets):
        found.append("~: not measured, predicted from the measured nets.")
    return found
