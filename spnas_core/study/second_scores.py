"""Second opinions in the study of the proxy: their agreement with the short and with the long score of the same nets."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from spnas_core.search.agreement import Agreement, agreement, cost_bands
from spnas_core.search.opinions import INHERITED_SCORE, OPINIONS
from spnas_core.settings.search import SCORES
from spnas_core.settings.task import DETECTION, Task
from spnas_core.study.methods import Forecast


class ComparedOpinions(NamedTuple):
    """Parts of the report (a text and a table), and the figures; none of either for nets without opinions."""

    parts: tuple[str | list[tuple[str, ...]], ...]
    computed: list[dict[str, Any]]


def compare_opinions(nets: Sequence[Forecast], task: Task) -> ComparedOpinions:
    """Compare each opinion, and the short score itself, with the scores of the nets: of all, and inside bands of MACs."""
    if not all(net.opinions for net in nets):  # of an earlier version
        return ComparedOpinions((), [])
    shorts, longs = [net.short for net in nets], [net.long for net in nets]
    bands = cost_bands([net.opinions["macs"] or 0.0 for net in nets])
    score = task.score
    heads = (f"{score} {length}{where}" for where in ("", ", inside bands") for length in ("short", "long"))
    lines: list[tuple[str, ...]] = [("tau with", "nets", *heads)]
    computed = []
    opinions = {name: title for name, title in OPINIONS.items() if name != INHERITED_SCORE or task is DETECTION}
    scores = {title: [_value(net.opinions.get(name)) for net in nets] for name, title in opinions.items()}
    more = {f"{task.title(task.scores[1])} short": [_value(net.short50) for net in nets], "estimate": [net.ranked_by for net in nets]}
    more |= {f"{name} as a path": [_value(net.path.get(name)) for net in nets] for name in SCORES if any(name in net.path for net in nets)}
    for title, ours in {**scores, **more, f"{score} short": shorts}.items():
        own = [agreement(ours, theirs, groups) for groups in (None, bands) for theirs in (shorts, longs)]
        cells = ["-" if ours is shorts and n in (0, 2) else _cell(one) for n, one in enumerate(own[: 2 if bands is None else 4])]
        lines.append((title, str(own[0].nets), *cells, *["-"] * (4 - len(cells))))
        computed.append({"opinion": title, "nets": own[0].nets, "short": _figures_of(own[0]), "long": _figures_of(own[1])})
        if bands:
            computed[-1] |= {"short_in_bands": _figures_of(own[2]), "long_in_bands": _figures_of(own[3])}
    text = (
        "Second opinions: Kendall's tau-b of published cheap scores with both, and 95 % bootstrap intervals; one agrees where its interval "
        f"lies above 0. Of {len(nets)} nets only a strong agreement shows. "
        + ("Inside bands only nets of like MACs are compared." if bands else "There are too few nets for bands of cost (10 are needed).")
    )
    return ComparedOpinions((text, lines), computed)


def _value(value: float | None) -> float:
    return math.nan if value is None else value


def _cell(one: Agreement) -> str:
    return "-" if math.isnan(one.low) else f"{one.tau:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _figures_of(one: Agreement) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in (("tau", one.tau), ("low", one.low), ("high", one.high))}
