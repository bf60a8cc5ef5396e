"""Points of a search: the first number is better when higher (AP), every other when lower (costs)."""

from collections.abc import Sequence

Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b`, and somewhere better."""
    worse = a[0] < b[0] or any(x > y for x, y in zip(a[1:], b[1:], strict=True))
    return not worse and tuple(a) != tuple(b)


def pareto_rank(points: Sequence[Point]) -> list[int]:
    """Sort by dominance: 0 for points that none dominates, 1 for those that only rank 0 dominates, and so on; equal points share a rank.

    Source: NSGA-II (Deb et al. 2002), section III-A.
    """
    ranks = [-1] * len(points)
    left = list(range(len(points)))
    rank = 0
    while left:
        front = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        for i in front:
            ranks[i] = rank
        left = [i for i in left if ranks[i] < 0]
        rank += 1
    return ranks


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area that `points` (gain up, cost down) dominate, bounded by `reference`; points that do not beat it in both count nothing."""
    area, height = 0.0, reference[0]
    for gain, cost in sorted(points, key=lambda point: (point[1], -point[0])):
        if cost < reference[1] and gain > height:
            area += (gain - height) * (reference[1] - cost)
            height = gain
    return area
