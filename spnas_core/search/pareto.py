"""Pareto ranks and hyper-volume of points: the first coordinate is better when higher (AP), every other when lower (costs)."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Point = Sequence[float]
_Gain = tuple[float, ...]  # distance of a point from the reference, by coordinate; higher is better everywhere


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b`, and somewhere better."""
    worse = a[0] < b[0] or any(x > y for x, y in zip(a[1:], b[1:], strict=True))
    return not worse and tuple(a) != tuple(b)


def pareto_rank(points: Sequence[Point]) -> list[int]:
    """Sort by dominance: 0 for points that none dominates, 1 for those that only rank 0 dominates, and so on; equal points share a rank.

    Source: NSGA-II (Deb et al. 2002), section III-A.
    """
    return first_ranks(points, len(points))


def first_ranks(points: Sequence[Point] | npt.NDArray[np.float64], least: int) -> list[int]:
    """Ranks as `pareto_rank` gives them, of the first ranks that together have `least` points; -1 for all points behind these."""
    ranks = np.full(len(points), -1)
    if not len(points):
        return []
    values = np.array(points, np.float64).T  # a row per coordinate
    values[0] *= -1  # the lower the better, all of them
    order = np.lexsort(values[::-1])  # none is dominated by a later one
    rank = 0
    while order.size and len(points) - order.size < least:
        front = _front(values, order)
        ranks[front] = rank
        order = order[ranks[order] < 0]
        rank += 1
    return [int(one) for one in ranks]


def _front(values: npt.NDArray[np.float64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Columns of `values` among `order` that no other dominates; in that order, none is dominated by a later one."""
    left, found = values[:, order], []
    while order.size:
        first = left[:, :1]
        found.append(order[(left == first).all(axis=0)])
        other = ~(left >= first).all(axis=0)
        order, left = order[other], left[:, other]
    return np.concatenate(found)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume that `points` of any dimension dominate, bounded by `reference`; points that do not beat it in everything count nothing.

    Exact; neither the order of the points nor equal ones change a bit of it.
    """
    return next(hypervolumes([points], reference))


def hypervolumes(groups: Iterable[Sequence[Point]], reference: Point) -> Iterator[float]:
    """Hyper-volume of all points so far after each group; only a group that gains something costs more than a look at the front.

    Source: While, Bradstreet, Barone, "A fast way of calculating exact hypervolumes", IEEE TEC 2012 (the WFG algorithm).
    """
    front, volume = list[_Gain](), 0.0
    for points in groups:
        gains = {tuple(abs(value - bound) for value, bound in zip(p, reference, strict=True)) for p in points if _beats(p, reference)}
        new = _maxima({one for one in gains if not _reached(one, front)})
        if new:
            front = sorted([*new, *(one for one in front if not _reached(one, new))])
            volume = _volume(front)
        yield volume


def spread(points: Sequence[Point], count: int, reference: Point, kept: Sequence[Point] = ()) -> list[int]:
    """Places of `count` of `points`, each the one that adds most hyper-volume to those before it and to `kept`; of equal ones the first."""
    found, left = list[int](), list(range(len(points)))
    chosen = list(kept)
    while left and len(found) < count:
        place = max(left, key=lambda one: (hypervolume([*chosen, points[one]], reference), -one))
        left.remove(place)
        found.append(place)
        chosen.append(points[place])
    return found


def _beats(point: Point, reference: Point) -> bool:
    return point[0] > reference[0] and all(value < bound for value, bound in zip(point[1:], reference[1:], strict=True))


def _reached(one: _Gain, others: Iterable[_Gain]) -> bool:
    """Whether one of `others` is nowhere lower than `one`."""
    return any(all(map(_at_least, other, one)) for other in others)


def _at_least(a: float, b: float) -> bool:
    return a >= b


def _maxima(gains: Iterable[_Gain]) -> list[_Gain]:
    """Those of different gains that no other reaches in everything, in order."""
    found: list[_Gain] = []
    for one in sorted(gains, reverse=True):  # none is reached by a later one
        if not _reached(one, found):
            found.append(one)
    return found[::-1]


def _staircase(gains: Iterable[_Gain]) -> list[_Gain]:
    """Those that no other reaches, as `_maxima`, of different gains that differ in the last two coordinates alone."""
    found: list[_Gain] = []
    for one in sorted(gains, reverse=True):
        if not found or one[-1] > found[-1][-1]:
            found.append(one)
    return found[::-1]


def _volume(front: list[_Gain], same: int = 0) -> float:
    """Volume of the union of the boxes from the origin to each of `front`: of each, what those after it do not cover.

    The first `same` coordinates are those of all of them. Where two are left, what is covered is the box that the next one covers.
    """
    total = 0.0
    plane = bool(front) and len(front[0]) - same == 2
    for place, one in enumerate(front):
        if plane:
            covered = math.prod((*one[:-1], front[place + 1][-1])) if place + 1 < len(front) else 0.0
        else:
            later = {tuple(map(min, one, other)) for other in front[place + 1 :]}
            covered = _volume(_staircase(later) if len(one) - same == 3 else _maxima(later), same + 1)
        total += math.prod(one) - covered
    return total
