"""Pareto ranks and hyper-volume of points: the first coordinate is better when higher (AP), every other when lower (costs)."""

import math
from collections.abc import Sequence

import numpy as np

Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b`, and somewhere better."""
    worse = a[0] < b[0] or any(x > y for x, y in zip(a[1:], b[1:], strict=True))
    return not worse and tuple(a) != tuple(b)


def pareto_rank(points: Sequence[Point]) -> list[int]:
    """Sort by dominance: 0 for points that none dominates, 1 for those that only rank 0 dominates, and so on; equal points share a rank.

    Source: NSGA-II (Deb et al. 2002), section III-A.
    """
    if not len(points):
        return []
    values = np.array([(-point[0], *point[1:]) for point in points], np.float64)  # the lower the better, all of them
    no_worse = (values[:, None] <= values).all(axis=2)
    beaten = no_worse & ~no_worse.T  # by row, which columns it dominates
    ranks, rank = np.full(len(points), -1), 0
    while (left := np.flatnonzero(ranks < 0)).size:
        ranks[left[~beaten[np.ix_(left, left)].any(axis=0)]] = rank
        rank += 1
    return [int(one) for one in ranks]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume that `points` of any dimension dominate, bounded by `reference`; points that do not beat it in everything count nothing.

    Exact; neither the order of the points nor equal ones change a bit of it.
    Source: While, Bradstreet, Barone, "A fast way of calculating exact hypervolumes", IEEE TEC 2012 (the WFG algorithm).
    """
    gains = {tuple(abs(value - bound) for value, bound in zip(p, reference, strict=True)) for p in points if _beats(p, reference)}
    return _volume(_maxima(gains))


def _beats(point: Point, reference: Point) -> bool:
    return point[0] > reference[0] and all(value < bound for value, bound in zip(point[1:], reference[1:], strict=True))


def _maxima(gains: set[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Those that no other reaches in everything, in order; here higher is better everywhere."""
    return [a for a in sorted(gains) if not any(a != b and all(x <= y for x, y in zip(a, b, strict=True)) for b in gains)]


def _volume(front: list[tuple[float, ...]]) -> float:
    """Volume of the union of the boxes from the origin to each of `front`: of each, what those after it do not cover."""
    total = 0.0
    for place, one in enumerate(front):
        covered = {tuple(map(min, one, other)) for other in front[place + 1 :]}
        total += math.prod(one) - _volume(_maxima(covered))
    return total
