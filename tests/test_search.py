import itertools
import json
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from trials import trial_of

from spnas_core.arch import check_space, parse
from spnas_core.cost import Cost, backbone_cost, stage_macs
from spnas_core.errors import UserError
from spnas_core.job import Weights
from spnas_core.run.record import StageRecord
from spnas_core.search.bounds import cost_bounds
from spnas_core.search.costs import candidate_cost, within
from spnas_core.search.course import Course, reignitions
from spnas_core.search.ledger import Trial, best, pareto_front, ranked, ranked_best, volumes, winner
from spnas_core.search.net import Net, net_of, parse_net
from spnas_core.search.pareto import dominates, hypervolume, pareto_rank
from spnas_core.search.propose import propose_parallel, propose_serial
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run
from spnas_core.settings.search import Budget, Mutation, Parallel, Serial

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=25)
SMALL = Detector(image_size=(64, 96), base_width=16, fpn_channels=16, head_channels=16)


def cost_of(net):
    """Cost of a candidate, or of the plain detector of an architecture."""
    return candidate_cost(net.arch, net.detector(SMALL), 3) if isinstance(net, Net) else candidate_cost(net, SMALL, 3)


def settings_of(**keys):
    return Run(arch="b_11-21-21-21", detector=SMALL, **keys)


OBJECTIVES = st.permutations(["AP50", "params", "macs", "latency_ms", "memory_mb"]).flatmap(
    lambda names: st.integers(0, 4).map(lambda n: ("AP", *names[:n]))
)
FIVE = st.tuples(*[st.integers(0, 3)] * 6)
LEDGERS = st.lists(st.none() | FIVE, max_size=14)


def ledger_of(rows):
    """One serial trial per row of metrics, two in a round; None failed."""
    names = ("AP", "AP50", "params", "macs", "latency_ms", "memory_mb")
    found = []
    for number, row in enumerate(rows):
        metrics = None if row is None else dict(zip(names, row, strict=True)) | {"AP": row[0] / 4, "AP50": row[1] / 4}
        failure = "crashed" if row is None else None
        found.append(trial_of("b_11-21-21-21", "serial", 1 + number // 2, number % 2, None, f"{number:02d}", metrics, failure))
    return found


def trial(ap, macs=1, stage="serial", number=1, index=0, arch="b_11-21-21-21", failure=None):
    metrics = None if ap is None else {"AP": ap, "macs": macs}
    key = f"{arch}-{stage}-{number}-{index}"
    return trial_of(str(parse(arch)), stage, number, index, None, key, metrics, failure, detector=SMALL)


def _net(net):
    return str(net.arch), net.neck.reads(net.arch)


def start(ap=0.3):
    return trial(ap, 100, "fine_tune", 0)


@given(POINTS)
def test_ranks_are_those_of_non_dominated_sorting(points):
    ranks = pareto_rank(points)
    for (a, rank), (b, other) in itertools.product(zip(points, ranks, strict=True), repeat=2):
        if a == b:
            assert rank == other
        if dominates(a, b):
            assert rank < other
    for point, rank in zip(points, ranks, strict=True):
        above = [other for other, r in zip(points, ranks, strict=True) if r == rank - 1]
        assert rank == 0 or any(dominates(other, point) for other in above)


@given(st.permutations(range(8)))
def test_ranks_do_not_depend_on_the_order(order):
    points = [(3, 1), (5, 4), (3, 1), (2, 2), (5, 5), (1, 1), (0, 9), (4, 2)]
    ranks = pareto_rank(points)
    assert ranks == [0, 0, 0, 1, 1, 1, 2, 0]
    assert pareto_rank([points[i] for i in order]) == [ranks[i] for i in order]


def test_more_than_two_objectives():
    assert pareto_rank([(0.5, 3, 3), (0.5, 3, 2), (0.4, 1, 9), (0.4, 1, 9), (0.3, 4, 4)]) == [1, 0, 0, 0, 2]
    assert pareto_rank([]) == []


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0),
        ([(0.5, 2)], 0.5 * 8),
        ([(0.5, 2), (0.5, 2)], 0.5 * 8),
        ([(0.5, 2), (0.4, 3)], 0.5 * 8),
        ([(0.5, 2), (0.75, 6)], 0.5 * 8 + 0.25 * 4),
        ([(0.75, 6), (0.5, 2), (0.25, 1)], 0.25 * 9 + 0.25 * 8 + 0.25 * 4),
        ([(0.9, 10), (0.0, 1), (0.9, 11)], 0),
    ],
)
def test_known_hypervolumes(points, area):
    assert hypervolume(points, (0.0, 10.0)) == pytest.approx(area)


@given(POINTS)
def test_hypervolume_counts_unit_cells(points):
    cells = {(gain, cost) for ap, low in points for gain in range(ap) for cost in range(low, 7)}
    assert hypervolume(points, (0, 7)) == len(cells)


@settings(max_examples=60)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 4), max_size=9))
def test_hypervolume_counts_cells_in_four_dimensions(points):
    cells = set()
    for gain, *costs in points:
        cells |= set(itertools.product(range(gain), *(range(cost, 4) for cost in costs)))
    assert hypervolume(points, (0, 4, 4, 4)) == len(cells)


@pytest.mark.parametrize(("dimensions", "count"), [(1, 5), (3, 20), (4, 12), (6, 10)])
def test_hypervolume_agrees_with_monte_carlo(dimensions, count):
    rng, samples = np.random.default_rng(dimensions), 200_000
    points = rng.random((count, dimensions))
    draws = rng.random((samples, dimensions))
    covered = np.zeros(samples, bool)
    for gain, *costs in points:
        covered |= (draws[:, 0] < gain) & (draws[:, 1:] > costs).all(1)
    share = covered.mean()
    volume = hypervolume([tuple(map(float, point)) for point in points], (0.0, *[1.0] * (dimensions - 1)))
    assert volume == pytest.approx(share, abs=5 * (share * (1 - share) / samples) ** 0.5)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), max_size=8), st.randoms(use_true_random=False))
def test_neither_order_nor_copies_change_a_bit_of_the_hypervolume(points, random):
    shuffled = points + points[:3]
    random.shuffle(shuffled)
    assert hypervolume(shuffled, (0.0, 1.0, 1.0)) == hypervolume(points, (0.0, 1.0, 1.0))


def test_a_hypervolume_of_many_points_takes_no_time():
    rng = np.random.default_rng(0)
    costs = rng.random((80, 3))
    points = [(float(1 - row.mean() + 0.1 * rng.random()), *map(float, row)) for row in costs]
    begun = time.perf_counter()
    assert 0 < hypervolume(points, (0.0, 1.0, 1.0, 1.0)) < 1
    assert time.perf_counter() - begun < 20


@given(LEDGERS, OBJECTIVES, st.randoms(use_true_random=False))
def test_the_order_of_the_ledger_changes_no_rank(rows, objectives, random):
    """Nor the best, the front, the volumes and the reignitions; equal points share a rank, failed trials have none."""
    ledger = ledger_of(rows)
    shuffled = list(ledger)
    random.shuffle(shuffled)
    ranks = ranked_best(ledger, 99, objectives)
    assert ranked_best(shuffled, 99, objectives) == ranks
    assert pareto_front(shuffled, objectives) == pareto_front(ledger, objectives)
    assert volumes(shuffled, objectives) == volumes(ledger, objectives)
    assert reignitions(shuffled, 2, 9, objectives) == reignitions(ledger, 2, 9, objectives)
    assert {t.digest for _, t in ranks} == {t.digest for t in ledger if t.failure is None}
    by_point = {}
    for rank, one in ranks:
        assert by_point.setdefault(one.point(objectives), rank) == rank
    for (rank, a), (other, b) in itertools.product(ranks, repeat=2):
        better = [a.value(n) >= b.value(n) if n in ("AP", "AP50") else a.value(n) <= b.value(n) for n in objectives]
        if all(better) and a.point(objectives) != b.point(objectives):
            assert rank < other


@given(LEDGERS, OBJECTIVES)
def test_the_volume_grows_with_what_no_other_beats(rows, objectives):
    ledger = ledger_of(rows)
    found = list(volumes(ledger, objectives).values())
    assert found == sorted(found)
    assert all(0 <= volume <= 1 for volume in found)
    for number, (before, after) in enumerate(itertools.pairwise(found), start=2):
        earlier = [t.point(objectives) for t in ranked(ledger, objectives) if t.round < number]
        new = [t.point(objectives) for t in ranked(ledger, objectives) if t.round == number]
        gained = [a for a in new if a[0] > 0 and not any(b == a or dominates(b, a) for b in earlier)]
        if not gained:
            assert after == before
        elif all(value < 0 for one in gained for name, value in zip(objectives, one, strict=True) if name == "AP50"):
            assert after > before


def test_a_search_by_AP50_and_parameters():  # noqa: N802
    ledger = ledger_of([(3, 1, 9, 1, 1, 1), (1, 3, 2, 1, 1, 1), (2, 2, 1, 9, 1, 1), (0, 3, 2, 0, 1, 1)])
    assert winner(ledger, ("AP50", "params")).index == 1
    assert [t.digest for t in best(ledger, 9, ("AP50", "params"))] == ["01", "03", "02", "00"]
    assert [t.digest for t in pareto_front(ledger, ("AP50",))] == ["03", "01"]
    with pytest.raises(KeyError):  # a bug, and no trial to pass over
        pareto_front([start()], ("AP", "latency_ms"))


@pytest.mark.parametrize("objectives", [[], ["macs", "AP"], ["AP", "macs", "macs"], ["AP", "speed"]])
def test_objectives_that_cannot_be(objectives):
    with pytest.raises(ValidationError, match=r"AP or AP50 first|expected|Input should be"):
        settings_of(objectives=objectives)


def test_failed_trials_are_never_ranked():
    failed = [trial(None, index=1, failure="diverged"), trial(0.9, index=2, failure="timeout")]
    ledger = [start(), *failed, trial(float("nan"), index=3), trial(-1.0, index=4)]
    assert ranked(ledger) == pareto_front(ledger) == best(ledger, 9) == [start()]
    assert winner(ledger) == start()
    with pytest.raises(UserError, match="every candidate failed"):
        winner(ledger[1:])


def test_best_by_rank_then_ap_then_digest():
    ledger = [trial(0.5, 5, index=0), trial(0.6, 9, index=1), trial(0.5, 6, index=2), trial(0.5, 5, index=3), trial(0.1, 1, index=4)]
    assert [t.index for t in best(ledger, 5)] == [1, 0, 3, 4, 2]
    assert [t.index for t in pareto_front(ledger)] == [4, 0, 3, 1]


def test_the_winner_is_the_cheapest_of_the_best():
    assert winner([trial(0.5, 5, index=0), trial(0.6, 9, index=1), trial(0.6, 8, index=3), trial(0.6, 8, index=2)]).index == 2


def test_a_trial_is_json():
    trials = TypeAdapter(Trial)
    assert trials.validate_json(trials.dump_json(start())) == start()
    assert json.loads(trials.dump_json(start()))["net"] == "b_11-21-21-21_0-0-0-0+fpn16+7x7+faster_rcnn"


def test_budget_is_two_sided():
    budget = Budget(params_m=(1, 2), gmacs=(None, 3))
    assert within(Cost(1_500_000, 3_000_000_000), budget)
    assert not within(Cost(999_999, 1), budget)
    assert within(Cost(999_999, 1), budget, lower=False)
    assert not within(Cost(2_000_001, 1), budget, lower=False)
    assert not within(Cost(1_500_000, 3_000_000_001), budget)


def stuck(ledger, n_stuck, since=0, objectives=("AP", "macs")):
    return Course(ledger, objectives=objectives).is_stuck(n_stuck, since)


def rounds(*aps):
    """One trial per round, dearer each time."""
    return [start(aps[0]), *(trial(ap, 100 + number, number=number) for number, ap in enumerate(aps[1:], start=1))]


def test_stuck_means_no_gain_for_n_rounds_since_the_last_reignition():
    assert not stuck(rounds(0.3), 1)
    assert stuck(rounds(0.3, 0.2), 1)
    assert not stuck(rounds(0.3, 0.2), 2)
    assert stuck(rounds(0.3, 0.2, 0.3), 2)
    assert not stuck(rounds(0.3, 0.2, 0.4), 2)
    assert not stuck(rounds(0.3, 0.4, 0.3), 2)
    assert not stuck(rounds(0.3, 0.2, 0.3), 2, since=1)
    assert stuck([*rounds(0.3, 0.2), trial(None, number=2, failure="crashed")], 2)  # a round of failures gains nothing
    assert not stuck([trial(None, number=2, failure="crashed")], 2)


@given(LEDGERS, st.integers(1, 3), OBJECTIVES)
def test_stuck_is_that_the_volume_did_not_rise(rows, n_stuck, objectives):
    ledger = ledger_of(rows)
    last = max((one.round for one in ledger), default=0)
    found = volumes(ledger, objectives)
    before = max((volume for (_, number), volume in found.items() if number <= last - n_stuck), default=0.0)
    expected = last >= n_stuck and bool(ranked(ledger, objectives)) and found["serial", last] <= before
    assert stuck(ledger, n_stuck, 0, objectives) == expected


def test_reignitions_follow_from_the_ledger_alone():
    ledger = rounds(0.3, 0.2, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4)
    assert tuple(reignitions(ledger, 2, 9)) == (2, 5, 7)
    assert [net.round for net in reignitions(ledger, 2, 9).values()] == [0, 3, 4]  # each time the best that was not reignited before
    assert tuple(reignitions(ledger, 2, 1)) == (2,)
    assert reignitions(ledger, 2, 0) == {}
    for finished in range(1, 8):
        prefix = [t for t in ledger if t.round <= finished]
        assert tuple(reignitions(prefix, 2, 9)) == tuple(n for n in (2, 5, 7) if n <= finished)


@given(LEDGERS, st.integers(1, 3), st.integers(0, 3), OBJECTIVES)
def test_when_a_search_reignites(rows, n_stuck, most, objectives):
    """At most so often, at least so far apart, never before a round could gain, always after rounds without gain, no net twice."""
    ledger = ledger_of(rows)
    found = reignitions(ledger, n_stuck, most, objectives)
    times = [0, *found]
    assert len(found) <= most
    assert len({net.digest for net in found.values()}) == len(found)
    assert all(b - a >= n_stuck for a, b in itertools.pairwise(times))
    for number, net in found.items():
        finished = [t for t in ledger if t.round <= number]
        gains = list(volumes(finished, objectives).values())[-n_stuck - 1 :]
        assert gains[-1] == (gains[0] if len(gains) > n_stuck else 0)
        assert net in ranked(finished, objectives)
    if len(found) < most:  # nowhere else was the search stuck with a net left to reignite
        for number in set(range(1, 1 + len(rows) // 2)) - set(found):
            since = max(n for n in times if n < number)
            finished = [t for t in ledger if t.round <= number]
            left = [t for t in ranked(finished, objectives) if t not in found.values() or t in [found[n] for n in found if n > number]]
            assert not left or not stuck(finished, n_stuck, since, objectives)


def test_the_round_after_a_reignition_comes_of_the_reignited_net():
    texts = ["b_1111-1111-1111", "b_111-11111-1111", "b_11-111111-1111", "b_1-1111111-1111"]
    run = settings_of(serial=Serial(candidates=8, n_stuck=2, max_reignite=1))
    ledger = [start(0.5), *(trial(0.4 - n / 10, 200, number=1 + n, arch=text) for n, text in enumerate(texts[:2]))]
    assert {child.parent.round for child in propose_serial(ledger, run, 3, cost_of)} == {0}
    ledger.append(trial(0.2, 50, number=3, arch=texts[2]))
    assert len({child.parent.round for child in propose_serial(ledger, run, 4, cost_of)}) > 1


def test_the_children_of_a_reignited_net_have_its_stem():
    """And those of other nets do not; the budget counts the stem that a child gets."""
    run = settings_of(serial=Serial(candidates=8), parallel=Parallel(candidates=2, parents=2))
    first, second = start(0.5), trial(0.6, 200, arch="b_111-21-21-21")
    weights = Weights(kind="reignite", digest="0" * 64, arch=first.arch)
    now = StageRecord(name="serial", key="k", ledger=(first, second), reignited={first.digest: weights})
    assert now.parents(None) == now.ledger
    stems = {}
    for child in (*propose_serial(now.parents("3x3"), run, 2, cost_of), *propose_parallel(now.parents("3x3"), run, cost_of)):
        stems.setdefault(child.parent.digest, set()).add(child.net.stem)
    assert stems == {first.digest: {"3x3"}, second.digest: {"7x7"}}
    counted = []
    propose_serial(now.parents("3x3")[:1], run, 2, lambda net: counted.append(net.stem) or Cost(1, 1))
    assert set(counted) == {"3x3"}


def ledger_after(count, seed=5):
    """Play `count` serial rounds of a made-up search."""
    run = settings_of(seed=seed, serial=Serial(candidates=4))
    ledger = [start()]
    for number in range(1, count + 1):
        for index, (child, *_) in enumerate(propose_serial(ledger, run, number, cost_of)):
            score = 0.3 + sum(map(ord, str(child.arch))) % 17 / 100
            ledger.append(trial(None if index == 3 else score, cost_of(child).macs, "serial", number, index, str(child.arch)))
    return run, ledger


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_proposing_does_not_depend_on_the_order_of_trials(random):
    run, ledger = ledger_after(2)
    expected = propose_serial(ledger, run, 3, cost_of)
    shuffled = list(ledger)
    random.shuffle(shuffled)
    assert propose_serial(shuffled, run, 3, cost_of) == expected
    # what a killed round 3 left behind changes nothing
    half = [*shuffled, trial(0.99, 1, "serial", 3, 0, str(expected[0].net.arch)), trial(0.99, 1, "parallel", 0, 0)]
    assert propose_serial(half, run, 3, cost_of) == expected


def test_children_are_new_and_in_the_space_and_within_the_budget():
    run, ledger = ledger_after(3)
    texts = [t.arch for t in ledger]
    assert len(set(texts)) == len(texts) == 13
    limit = 1.3 * cost_of(parse(run.arch)).params / 1e6
    tight = run.model_copy(update={"budget": Budget(params_m=(None, limit))})
    found = propose_serial(ledger, tight, 4, cost_of)
    assert found
    for child, parent in found:
        check_space(child.arch)
        assert within(cost_of(child), tight.budget)
        assert str(child.arch) not in texts
        assert parent in best(ledger, run.serial.max_optimal)
    assert propose_serial(ledger, run, 4, cost_of) != propose_serial(ledger, run.model_copy(update={"seed": 6}), 4, cost_of)


def test_a_budget_that_nothing_meets_gives_fewer():
    run = settings_of(budget=Budget(params_m=(None, 1e-6)))
    assert propose_serial([start()], run, 1, cost_of) == []
    assert propose_parallel([start()], run, cost_of) == []


def test_without_a_trial_to_start_from():
    with pytest.raises(UserError, match="round 1"):
        propose_serial([trial(None, stage="fine_tune", number=0, failure="diverged")], settings_of(), 1, cost_of)
    with pytest.raises(UserError, match="parallel"):
        propose_parallel([], settings_of(), cost_of)


def test_better_parents_are_more_likely():
    texts = ["b_1111-1111-1111", "b_111-11111-1111", "b_11-111111-1111"]
    ledger = [start(0.1), *(trial(ap, 50, index=i, arch=text) for i, (ap, text) in enumerate(zip((0.5, 0.4, 0.3), texts, strict=True)))]
    run = settings_of(serial=Serial(candidates=200))
    counts = Counter(parent.index for _, parent in propose_serial(ledger, run, 2, lambda _: Cost(1, 1)) if parent.stage == "serial")
    assert counts[0] > counts[1] > counts[2] > 0


def test_parallel_children_are_their_parents_with_copies():
    run = settings_of(parallel=Parallel(candidates=12, max_parallel=2))
    parents = [start(), trial(0.4, arch="b_111-21-211-21")]
    found = propose_parallel(parents, run, cost_of)
    assert len({str(child) for child, *_ in found}) == 12
    assert {parent.arch for _, parent in found} == {parent.arch for parent in parents}
    for child, parent in found:
        assert child.arch.serial() == parse(parent.arch)
        assert sum(child.arch.parallel) >= 1
        assert max(child.arch.parallel) <= 2
    tried = [trial(0.1, stage="parallel", number=0, arch=str(child.arch)) for child, *_ in found]
    again = propose_parallel(parents, run, cost_of, ledger=tried)
    assert not {str(child) for child, *_ in again} & {str(child) for child, *_ in found}


def test_stages_are_drawn_by_one_over_macs():
    arch = parse("b_1111-1-2-1111")
    rarity = 1 / np.array(stage_macs(arch, SMALL.image_size, SMALL.base_width))
    run = settings_of(parallel=Parallel(candidates=1), budget=Budget(gmacs=(None, 1)))  # which any second copy breaks
    parents, draws = [trial(0.4, arch=str(arch))], 2000
    runs = (run.model_copy(update={"seed": seed}) for seed in range(draws))
    children = [propose_parallel(parents, one, lambda net: Cost(0, sum(net.arch.parallel) * 10**9))[0].net for one in runs]
    counts = Counter(child.arch.parallel.index(1) for child in children)
    for stage, chance in enumerate(rarity / rarity.sum()):
        assert counts[stage] / draws == pytest.approx(chance, abs=4 * (0.25 / draws) ** 0.5)


def test_copies_stop_at_the_budget():
    plain = cost_of(parse("b_11-21-21-21"))
    run = settings_of(parallel=Parallel(candidates=8), budget=Budget(gmacs=(None, plain.macs * 1.2 / 1e9)))
    found = propose_parallel([start()], run, cost_of)
    assert found
    assert all(within(cost_of(child), run.budget) for child, *_ in found)
    assert max(sum(child.arch.parallel) for child, *_ in found) < 12


def test_taps_are_drawn_for_each_child():
    allowed = ((0, 1, 2, 3), (1, 1, 2, 3), (0, 1))  # the first and the last are the same pyramid: the plain one
    run = settings_of(parallel=Parallel(candidates=20, max_parallel=1, taps=allowed))
    parents = [start()]
    found = propose_parallel(parents, run, cost_of)
    counts = Counter(one.net.neck.taps for one in found)
    assert set(counts) == set(allowed)
    assert all(one.net.detector(SMALL) == SMALL.model_copy(update={"taps": one.net.neck.taps}) for one in found)
    assert len({_net(one.net) for one in found}) == len(found) == 20  # of 16 sets of copies times two pyramids
    tried = [replace(trial(0.1, stage="parallel", number=1, arch=str(one.net.arch)), net=one.net) for one in found[:5]]
    again = propose_parallel(parents, run, cost_of, ledger=tried)
    assert not {_net(one.net) for one in again} & {_net(t.net) for t in tried}


def test_without_taps_to_draw_from_a_child_has_those_of_its_parent():
    parent = replace(start(), net=net_of(start().arch, SMALL.model_copy(update={"taps": (1, 1, 2, 3)})))
    run = settings_of(parallel=Parallel(candidates=4))
    children = propose_parallel([parent], run, cost_of)
    assert {one.net.neck.taps for one in (*children, *propose_serial([parent], run, 1, cost_of))} == {(1, 1, 2, 3)}
    assert [one.net.arch for one in children] == [one.net.arch for one in propose_parallel([start()], run, cost_of)]


@pytest.mark.parametrize(
    "keys", [{"detector": SMALL.model_copy(update={"taps": (0, 4)})}, {"parallel": Parallel(taps=((0, 1, 2, 3), (0, 1, 2, 3, 3)))}]
)
def test_taps_must_fit_the_start_net(keys):
    with pytest.raises(ValidationError, match=r"expected taps of at most 4 levels, each from 0 to 3, got \[0"):
        Run(arch="b_11-21-21-21", **keys)


def test_candidate_cost_reads_the_settings():
    arch = parse("b_11-21-21-21_0-0-1-0")
    shared = candidate_cost(arch, SMALL, 3)
    own = candidate_cost(arch, SMALL.model_copy(update={"share_weights": False}), 3)
    copy = backbone_cost(arch, (64, 96), 16, share_weights=False).params - backbone_cost(arch, (64, 96), 16).params
    assert own == Cost(shared.params + copy, shared.macs)


@pytest.mark.parametrize("genes", ["", "+w24", "+96x128", "+w24+96x128"])
def test_genes_that_a_search_chooses_stand_in_the_text_of_a_net(genes):
    text = f"b_11-21-21-21_0-0-0-0_8-6-8-8+fpn32+3x3+faster_rcnn{genes}"
    net, run = parse_net(text), Detector(base_width=16, image_size=(64, 64))
    assert str(net) == text
    detector = net.detector(run)
    assert detector.base_width == (24 if "w24" in genes else 16)
    assert detector.image_size == ((96, 128) if "x" in genes else (64, 64))
    assert net_of(net.arch, detector, run) == net


@pytest.mark.parametrize("genes", ["+24", "+w0", "+96x128+w24", "+w24+w24", "+96x0", "+"])
def test_other_genes_are_refused(genes):
    with pytest.raises(UserError, match=r"expected \+wWIDTH, \+HxW and \+pPROPOSALS after faster_rcnn, got"):
        parse_net(f"b_11-21-21-21_0-0-0-0+fpn32+3x3+faster_rcnn{genes}")


def test_bounds_know_the_inner_widths_of_the_start_net():
    run = Run(arch="b_11-21-21-21_0-0-0-0_4-4-4-4", detector=SMALL, serial=Serial(rounds=1, mutation=Mutation(add_stage=0.0)))
    small, large = cost_bounds(run, cost_of)
    assert {small.net.arch.inner, large.net.arch.inner} == {(4, 4, 4, 4)}
    assert small.cost.macs <= cost_of(net_of(run.arch, SMALL)).macs <= large.cost.macs
