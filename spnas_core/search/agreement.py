"""Agreement of two scores of the same nets: Kendall's tau-b with a bootstrap interval, over all pairs or inside groups only.

The interval is the 95 % percentile interval of resampled nets, as `study/methods.py` `bootstrap_interval` has it. A resample is a weight
per net, how often it was drawn, and tau-b is a ratio of quadratic forms of the weights; so thousands of them are a few matrix products.
"""

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEAST_NETS = 5  # fewer say nothing
BAND_NETS, MOST_BANDS = 5, 10  # nets in a band of cost at least; bands at most
_RESAMPLES, _LEAST_RESAMPLES, _WORK = 2000, 200, 10**8  # as many as keep resamples * nets^2 below the work, but not fewer than the least
_Matrix = npt.NDArray[np.float32]


class Agreement(NamedTuple):
    """Tau-b over so many nets, in [-1, 1], and its 95 % interval; all nan where there are too few nets, or one score is constant."""

    tau: float
    low: float
    high: float
    nets: int

    @property
    def agrees(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0


def agreement(ours: Sequence[float], theirs: Sequence[float], groups: Sequence[Hashable] | None = None) -> Agreement:
    """Agreement of two scores; with `groups`, one per net, only pairs of nets of one group are compared.

    Nets with a score that is nan are left out.
    """
    kept = [n for n, pair in enumerate(zip(ours, theirs, strict=True)) if not any(map(math.isnan, pair))]
    if len(kept) < LEAST_NETS:
        return Agreement(math.nan, math.nan, math.nan, len(kept))
    a, b = (_order(np.array([scores[n] for n in kept], np.float64)) for scores in (ours, theirs))
    if groups is not None:
        _, numbers = np.unique([str(groups[n]) for n in kept], return_inverse=True)
        same = numbers[:, None] == numbers[None, :]
        a, b = a * same, b * same
    weights = _drawn(len(kept))
    with np.errstate(invalid="ignore"):
        both, first, second = (((weights @ part) * weights).sum(1, dtype=np.float64) for part in (a * b, np.abs(a), np.abs(b)))
        taus = both / np.sqrt(first * second)  # 0 / 0 where no pair is left that a score tells apart
    own = taus[1:][~np.isnan(taus[1:])]
    low, high = np.quantile(own, (0.025, 0.975)) if len(own) else (math.nan, math.nan)
    return Agreement(float(taus[0]), float(low), float(high), len(kept))


def cost_bands(costs: Sequence[float]) -> list[int] | None:
    """Put every net into a band and return its number: bands of equally many nets by cost; None where two would be too small."""
    bands = min(MOST_BANDS, len(costs) // BAND_NETS)
    if bands < 2:
        return None
    places = np.argsort(np.argsort(np.array(costs, np.float64), kind="stable"), kind="stable")
    return [int(place) * bands // len(costs) for place in places]


def _order(values: npt.NDArray[np.float64]) -> _Matrix:
    """Order of every pair of values: 1, -1 or 0, (N, N)."""
    return np.sign(values[:, None] - values[None, :]).astype(np.float32)


@lru_cache(maxsize=4)
def _drawn(nets: int) -> _Matrix:
    """How often each net was drawn, (resamples + 1, nets): once each in the first row."""
    rng = np.random.default_rng(0)
    count = max(_LEAST_RESAMPLES, min(_RESAMPLES, _WORK // nets**2))
    rows = [np.bincount(rng.integers(nets, size=nets), minlength=nets) for _ in range(count)]
    return np.array([np.ones(nets), *rows], np.float32)
