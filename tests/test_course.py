"""What a search keeps from round to round is what its whole ledger says; ranks and volumes are those of their definitions."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from test_search import LEDGERS, OBJECTIVES, ledger_of, start

from spnas_core.search.course import Course, reignitions
from spnas_core.search.ledger import ranked, ranked_best, winner
from spnas_core.search.pareto import dominates, first_ranks, hypervolumes, pareto_rank
from spnas_core.settings.search import SCORES

COORDINATES = st.integers(0, 6).map(lambda n: n / 7) | st.floats(0, 1)
GROUPS = st.integers(1, 5).flatmap(lambda size: st.lists(st.lists(st.tuples(*[COORDINATES] * size), max_size=4), min_size=1, max_size=5))


def whole_volume(points, reference):
    """Hyper-volume of all points at once, by the definition of the WFG algorithm."""

    def maxima(gains):
        return [a for a in sorted(gains) if not any(a != b and all(x <= y for x, y in zip(a, b, strict=True)) for b in gains)]

    def volume(front):
        total = 0.0
        for place, one in enumerate(front):
            total += math.prod(one) - volume(maxima({tuple(map(min, one, other)) for other in front[place + 1 :]}))
        return total

    inside = [p for p in points if p[0] > reference[0] and all(a < b for a, b in zip(p[1:], reference[1:], strict=True))]
    return volume(maxima({tuple(abs(a - b) for a, b in zip(p, reference, strict=True)) for p in inside}))


@given(GROUPS)
def test_a_volume_kept_up_is_bit_for_bit_that_of_all_points(groups):
    size = max((len(point) for group in groups for point in group), default=1)
    reference = (0.0, *[1.0] * (size - 1))
    expected = [whole_volume([point for group in groups[: n + 1] for point in group], reference) for n in range(len(groups))]
    assert list(hypervolumes(groups, reference)) == expected


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=25), st.integers(0, 30))
def test_the_first_ranks_are_those_of_all(points, least):
    ranks = [0] * len(points)
    for _ in points:  # the longest chain of points that dominate each other
        ranks = [max((1 + r for r, other in zip(ranks, points, strict=True) if dominates(other, one)), default=0) for one in points]
    assert pareto_rank(points) == ranks
    found = first_ranks(points, least)
    shown = [rank for rank in found if rank >= 0]
    assert found == [rank if rank <= max(shown, default=-1) else -1 for rank in ranks]
    assert len(shown) >= min(least, len(points))


def is_stuck(ledger, n_stuck, since, objectives):
    """Whether no trial of the last rounds gains volume over all trials before these rounds."""
    last = max((one.round for one in ledger), default=0)
    if last - since < n_stuck or not (finished := ranked(ledger, objectives)):
        return False
    earlier = [one.point(objectives) for one in finished if one.round <= last - n_stuck]

    def gains(one):
        point = one.point(objectives)
        scored = all(one.value(name) > 0 for name in objectives if name in SCORES)
        return scored and not any(other == point or dominates(other, point) for other in earlier)

    return not any(gains(one) for one in finished if one.round > last - n_stuck)


def whole_reignitions(ledger, n_stuck, most, objectives):
    """Reignitions, judged anew from the whole ledger after every round."""
    found = {}
    for number in range(n_stuck, max((one.round for one in ledger), default=0) + 1):
        finished = [one for one in ledger if one.round <= number]
        left = ranked([one for one in finished if one not in found.values()], objectives)
        if left and len(found) < most and is_stuck(finished, n_stuck, max(found, default=0), objectives):
            found[number] = winner(left, objectives)
    return found


@given(LEDGERS, st.integers(1, 3), st.integers(0, 3), OBJECTIVES, st.integers(1, 6), st.booleans(), st.sets(st.integers(1, 7)))
def test_the_course_of_a_search_is_that_of_its_ledger(rows, n_stuck, most, objectives, n, begun, empty):
    ledger = [one for one in ledger_of(rows) if one.round not in empty]  # rounds without candidates are none of the ledger's
    ledger = [start(0.5), *ledger] if begun and set(objectives) <= {"AP", "macs"} else ledger
    course, so_far = Course((), n_stuck, most, objectives), []
    for number in range(9):
        trials = [one for one in ledger if one.round == number]
        course.add(trials)
        so_far += trials
        assert course.reignitions == whole_reignitions(so_far, n_stuck, most, objectives)
        assert course.best(n) == ranked_best(so_far, n, objectives)
        assert course.tried == {one.net.identity for one in so_far}
    order = np.random.default_rng(n).permutation(len(ledger))
    assert reignitions([ledger[place] for place in order], n_stuck, most, objectives) == course.reignitions
