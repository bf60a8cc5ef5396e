"""Nets of a study compared on the images of the test split: what holds for other images of that kind, and not just for these."""

from collections.abc import Mapping

import numpy as np

from spnas_core.report.comparisons import draws_on
from spnas_core.report.inputs import outputs_in, readable_split
from spnas_core.report.intervals import Interval, ScoreDraws, interval
from spnas_core.run.plan import Plan
from spnas_core.store.manifest import Manifest
from spnas_core.study.methods import Difference, Method

_Place = tuple[Method, int]  # a method and a seed


def gains_on_images(plan: Plan, tests: Mapping[_Place, Manifest]) -> dict[_Place, tuple[Difference | None, Difference | None]]:
    """Compare SP-NAS's net with every other method's by their evaluations on test, each seed alone, and in the mean of the seeds.

    The images are drawn anew, the same for all nets. Nothing where the data is gone, None where it has nothing to score.
    """
    split = readable_split(plan.settings.work, plan.test, None)[0] if plan.test else None
    if split is None:
        return {}
    drawn = {place: draws_on(split, outputs_in(plan.store, manifest)) for place, manifest in tests.items()}
    found: dict[_Place, tuple[Difference | None, Difference | None]] = {}
    for method in dict.fromkeys(method for method, _ in tests if method != "spnas"):
        seeds = [seed for name, seed in tests if name == method]
        both = [[drawn[name, seed] for seed in seeds] for name in ("spnas", method)]
        of_all = _difference(interval(*map(_mean_draws, both)))
        found |= {(method, seed): (_difference(interval(ours, theirs)), of_all) for seed, ours, theirs in zip(seeds, *both, strict=True)}
    return found


def _mean_draws(nets: list[ScoreDraws]) -> ScoreDraws:
    return ScoreDraws(float(np.mean([one.once for one in nets])), np.mean([one.drawn for one in nets], axis=0))


def _difference(found: Interval) -> Difference | None:
    return Difference(*found[:3]) if np.isfinite(found[:3]).all() else None
