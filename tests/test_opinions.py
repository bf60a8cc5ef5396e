"""Second opinions: the entropy of MAE-DET by hand, agreement of scores, use of inserted blocks, and blocks left out."""

import math
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spnas_core.arch import Arch, blocks, parse
from spnas_core.search.agreement import agreement, cost_bands
from spnas_core.search.entropy import StageFans, backbone_entropy, entropy
from spnas_core.search.opinions import opinions_of
from spnas_core.settings.detector import Detector
from spnas_core.study.methods import bootstrap_interval
from spnas_core.weights.gammas import inserted_uses

STAGE = st.text("1", min_size=1, max_size=4)
ARCHS = st.builds(lambda kind, stages: parse(f"{kind}_{'-'.join(stages)}"), st.sampled_from("br"), st.lists(STAGE, min_size=1, max_size=6))


def test_entropy_of_resnet_50_by_hand() -> None:
    """Bottlenecks: half of log in, log 9 mid and log mid; stages of 3, 4, 6, 3; weights 0, 0, 1, 1, 6."""

    def bottlenecks(count: int, first: int, mid: int) -> float:
        return sum(0.5 * (log(inputs) + log(9 * mid) + log(mid)) for inputs in [first] + [4 * mid] * (count - 1))

    c1 = 0.5 * log(3 * 49)
    c2 = c1 + bottlenecks(3, 64, 64)
    c3 = c2 + bottlenecks(4, 256, 128)
    c4 = c3 + bottlenecks(6, 512, 256)
    c5 = c4 + bottlenecks(3, 1024, 512)
    expected = c3 + log(512) + c4 + log(1024) + 6 * (c5 + log(2048))
    assert backbone_entropy(parse("r_111-2111-211111-211")) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(1174.298, abs=0.001)


def test_entropy_of_a_basic_net_with_the_other_stem_by_hand() -> None:
    """One block a stage at width 8: two 3x3 each; the 3x3 stem has 3 -> 4 -> 8."""
    c2 = 0.5 * (log(27) + log(36)) + 0.5 * (log(72) + log(72))
    c3 = c2 + 0.5 * (log(72) + log(144))
    assert backbone_entropy(parse("b_1-2"), 8, "3x3") == pytest.approx(
        0.5 * (log(27) + log(36)) + log(8) + c2 + log(8) + 6 * (c3 + log(16))
    )


def test_entropy_of_grouped_blocks_counts_the_inputs_of_one_group() -> None:
    narrow, wide = (backbone_entropy(parse(f"x({groups}x{width}d)_1-1-1")) for groups, width in ((32, 2), (1, 64)))
    assert wide - narrow == pytest.approx(0.5 * log(32) * (1 * 1 + 2 * 1 + 3 * 6))


def test_entropy_of_mae_dets_own_net() -> None:
    """MAE-DET-M as its authors list it (configs/detection/models/maedet_m.txt): kernels of 5, stages of 2, 10, 10 and 8 blocks."""
    parts = ((64, 120, 64, 3, 2), (120, 512, 72, 5, 10), (512, 1632, 112, 5, 10), (1632, 2048, 184, 5, 8))
    stages = [StageFans((27,), 64)]
    for first, out, mid, kernel, count in parts:
        fans = [fan for inputs in [first] + [out] * (count - 1) for fan in (inputs, mid * kernel**2, mid)]
        stages.append(StageFans(tuple(fans), out))
    medium = entropy(stages)
    c1 = 0.5 * log(27)
    c2 = c1 + 0.5 * (log(64) + log(120)) + 2 * 0.5 * log(64 * 9 * 64)
    c3 = c2 + 0.5 * (log(120) + 9 * log(512)) + 10 * 0.5 * log(72 * 25 * 72)
    c4 = c3 + 0.5 * (log(512) + 9 * log(1632)) + 10 * 0.5 * log(112 * 25 * 112)
    c5 = c4 + 0.5 * (log(1632) + 7 * log(2048)) + 8 * 0.5 * log(184 * 25 * 184)
    assert medium == pytest.approx(c3 + log(512) + c4 + log(1632) + 6 * (c5 + log(2048)))
    assert medium > backbone_entropy(parse("r_111-2111-211111-211"))  # at ResNet-50's cost the search for entropy found more of it


@given(ARCHS, st.integers(0, 5))
def test_entropy_rises_with_every_block_and_stage_and_not_with_copies(arch: Arch, number: int) -> None:
    stage = number % len(arch.stages)
    longer = parse(f"{arch.block_type.text}_" + "-".join(s + "1" * (n == stage) for n, s in enumerate(arch.stages)))
    assert backbone_entropy(longer) > backbone_entropy(arch)
    assert backbone_entropy(parse(f"{arch.block_type.text}_{arch.serial_text}-1")) > backbone_entropy(arch)
    assert backbone_entropy(arch.with_parallel((1,) * len(arch.stages))) == backbone_entropy(arch)


def tau_of(rows: np.ndarray) -> float:
    return float(stats.kendalltau(rows[:, 0], rows[:, 1]).statistic)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=5, max_size=30))
def test_agreement_is_kendalls_tau(pairs: list[tuple[int, int]]) -> None:
    rows = np.array(pairs, float)
    found, expected = agreement(rows[:, 0].tolist(), rows[:, 1].tolist()), tau_of(rows)
    assert found.tau == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert math.isnan(expected) or found.low <= found.high


def test_its_interval_is_that_of_the_studies() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack((rng.integers(0, 8, 12), rng.integers(0, 30, 12)), 1).astype(float)
    found = agreement(rows[:, 0].tolist(), rows[:, 1].tolist())
    assert (found.low, found.high) == pytest.approx(bootstrap_interval(tau_of, rows), abs=1e-6)


def test_agreement_inside_groups_compares_no_others() -> None:
    ours = [1.0, 2.0, 3.0, 11.0, 12.0, 13.0]
    theirs = [0.3, 0.2, 0.1, 0.9, 0.8, 0.7]  # rising from group to group, falling in each
    assert agreement(ours, theirs).tau == pytest.approx((9 - 6) / 15)
    assert agreement(ours, theirs, ["a"] * 3 + ["b"] * 3).tau == pytest.approx(-1)


def test_agreement_says_nothing_of_few_nets_or_of_one_value() -> None:
    few = agreement([1.0, 2.0, 3.0, 4.0, math.nan], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert few.nets == 4
    assert math.isnan(few.tau)
    assert not few.agrees
    flat = agreement([1.0] * 6, list(map(float, range(6))))
    assert math.isnan(flat.tau)
    assert math.isnan(flat.low)
    assert agreement(list(map(float, range(12))), list(map(float, range(12)))).agrees


@given(st.lists(st.floats(0, 1e12), max_size=80))
def test_bands_of_cost_hold_five_nets_at_least_and_follow_the_cost(costs: list[float]) -> None:
    bands = cost_bands(costs)
    if len(costs) < 10:
        assert bands is None
        return
    assert bands is not None
    sizes = np.bincount(bands)
    assert sizes.min() >= 5
    assert sizes.max() - sizes.min() <= 1
    assert len(sizes) <= 10
    assert all(a <= b for (a, x) in zip(costs, bands, strict=True) for (b, y) in zip(costs, bands, strict=True) if x < y)


def test_opinions_of_a_training_of_an_earlier_version_are_missing() -> None:
    detector = Detector(base_width=8, stem="3x3")
    found = opinions_of(parse("b_1-2"), detector, 7, {})
    assert (found["macs"], found["gammas"], found["AP_inherited"]) == (7.0, None, None)
    full = opinions_of(parse("b_1-2"), detector, 7, {"block_gammas": [0.5, 0.25], "AP_inherited": 0.125})
    assert (full["gammas"], full["AP_inherited"]) == (0.75, 0.125)


def test_use_is_measured_by_the_inherited_blocks_of_the_stage() -> None:
    parent, child = parse("b_111-21-21"), parse("b_111-2111-21-1")
    gammas = [1.0, 1.0, 1.0, 0.8, 0.4, 0.06, 0.003, 1.0, 1.0, 0.9]
    uses = inserted_uses(parent, child, gammas)
    assert [(one.stage, one.position) for one in uses] == [(2, 3), (2, 4)]  # the added stage has no inherited block
    assert [one.share for one in uses] == pytest.approx([0.06 / 0.6, 0.003 / 0.6])
    assert uses[1].is_unused
    assert uses[1].words == "block 4 of stage 2: used 0 % as much as its neighbours"
    assert inserted_uses(parent, parent, gammas[: len(blocks(parent))]) == ()


def test_a_block_put_in_where_another_was_taken_out_elsewhere_is_judged() -> None:
    """By number alone no block would be new, and a block that nobody uses would go unseen."""
    parent, child = parse("b_111-2111-211"), parse("b_11-2111-2111")
    gammas = [1.0] * 9 + [0.02]
    (use,) = inserted_uses(parent, child, gammas, leaves_out=True)
    assert (use.stage, use.position, round(use.share, 3), use.is_unused) == (3, 4, 0.02, True)
