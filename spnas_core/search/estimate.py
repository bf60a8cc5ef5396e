"""Estimated scores of candidates: what a round knows of a net, of all its trainings and of those that it is compared with.

A child trains longer than its parent has, so its score alone mixes what the edit and what the epochs do. Where the parent is trained on by
the same recipe and seed (its control), the child's gain over that is what the edit does, and its estimate is the parent's own estimate
plus the gain: nets of all rounds are then compared as if all had the start net's epochs.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from spnas_core.search.ledger import Trial
from spnas_core.settings.search import SCORES
from spnas_core.settings.task import MEAN_OF

Metrics = Mapping[str, Any]


def own_scores(metrics: Metrics) -> dict[str, float]:
    """Scores of one training: the means after its last epochs where its recipe asks for them, else those at its end."""
    return {name: float(metrics.get(MEAN_OF + name, metrics[name])) for name in SCORES if name in metrics}


def estimated(trainings: Sequence[Metrics], parent: Trial | None = None, controls: Sequence[Metrics] = ()) -> dict[str, float] | None:
    """Estimate of a net from its trainings, one or more seeds, and with `controls` from those of its `parent`, one for each training.

    None where it is the score of its only training at its end. Estimates stay in [0, 1]; a score that is undefined (-1) anywhere stays so.
    """
    own = [own_scores(metrics) for metrics in trainings]
    others = [own_scores(metrics) for metrics in controls]
    found: dict[str, float] = {
        name: _estimate([scores[name] for scores in own], parent, [scores[name] for scores in others], name) for name in own[0]
    }
    return None if found == {name: trainings[0][name] for name in found} else found


def _estimate(ours: Sequence[float], parent: Trial | None, theirs: Sequence[float], name: str) -> float:
    if parent is None or not theirs:
        return -1.0 if min(ours) < 0 else fmean(ours)
    base = parent.value(name)
    if min(*ours, *theirs, base) < 0:
        return -1.0
    return min(1.0, max(0.0, base + fmean(a - b for a, b in zip(ours, theirs, strict=True))))
