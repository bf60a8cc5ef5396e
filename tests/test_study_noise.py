"""Noise of scores: what made-up tables are known to have is found in them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spnas_core.study.noise import (
    NoisyScore,
    common_noise_removed,
    noise_of,
    ratio_interval,
    report_noise,
    seeds_needed,
    seeds_table,
    spread_of,
    tau_expected,
)


def table(spread: float, noise: float, common: float = 0.0, nets: int = 400, seeds: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, spread, (nets, 1)) + rng.normal(0, noise, (nets, seeds)) + rng.normal(0, common, (1, seeds))


@pytest.mark.parametrize(("spread", "noise"), [(1.0, 0.5), (0.5, 1.0), (0.0, 1.0)])
def test_spread_and_noise_of_a_table_are_found(spread: float, noise: float) -> None:
    found = table(spread, noise)
    assert noise_of(found) == pytest.approx(noise, rel=0.05)
    assert common_noise_removed(found) == pytest.approx(noise, rel=0.05)
    assert spread_of(found) == pytest.approx(spread, abs=0.12)


def test_what_a_seed_does_to_all_nets_changes_no_ranking() -> None:
    found = table(1.0, 0.5, common=3.0)
    assert noise_of(found) > 1.0
    assert common_noise_removed(found) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("spread", "noise"), [(1.0, 0.5), (1.0, 1.0), (0.8, 2.2)])
def test_the_expected_tau_is_that_of_drawn_scores(spread: float, noise: float) -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(0, spread, 20000)
    tau = stats.kendalltau(true, true + rng.normal(0, noise, 20000)).statistic
    assert tau_expected(spread, noise) == pytest.approx(tau, abs=0.02)


@given(st.floats(0.1, 5), st.floats(0.1, 5))
def test_as_many_seeds_as_needed_come_to_the_tau_and_one_less_does_not(spread: float, noise: float) -> None:
    count = seeds_needed(spread, noise)
    assert count is not None
    assert tau_expected(spread, noise / count**0.5) >= 0.5 - 1e-9
    assert count == 1 or tau_expected(spread, noise / (count - 1) ** 0.5) < 0.5 + 1e-9
    assert seeds_needed(0.0, noise) is None
    assert tau_expected(0.0, noise) == 0.0


def test_half_the_noise_is_told_with_its_interval() -> None:
    plain, half = table(1.0, 1.0, nets=30), table(1.0, 0.5, nets=30, seed=1)
    ratio, low, high = ratio_interval(half, plain)
    assert low < ratio < high < 0.8
    assert ratio == pytest.approx(0.5, abs=0.1)
    assert ratio_interval(plain, plain) == (1.0, 1.0, 1.0)


def test_equal_scores_have_no_noise_and_no_share_of_it() -> None:
    same = np.full((4, 3), 0.25)
    assert np.isnan(ratio_interval(same, same)).all()
    equal = [one.model_copy(update={"plain": (0.25, 0.25)}) for one in scores()]
    found = report_noise(equal).computed["scores"]["AP at the end"]
    assert (found["noise"], found["tau"], found["seeds"]) == (0.0, 0.0, None)


def scores() -> list[NoisyScore]:
    rng, found = np.random.default_rng(3), []
    controls = rng.normal(0.4, 0.01, 5)
    for net in range(6):
        true = rng.normal(0.4, 0.02)
        for seed in range(5):
            control = float(controls[seed])
            plain = (0.1, 0.2, true + rng.normal(0, 0.02), true + rng.normal(0, 0.02))
            averaged = (0.1, 0.2, true + rng.normal(0, 0.005), true + rng.normal(0, 0.005))
            one = {"arch": f"b_11-21-21-2{'1' * (net + 1)}", "artifacts": (), "seed": seed, "macs": 10**8}
            found.append(NoisyScore(**one, plain=plain, averaged=averaged, control=((0.1, 0.2, control, control),) * 2))
    return found


def test_the_report_has_every_way_to_score() -> None:
    report = report_noise(scores())
    found = report.computed["scores"]
    assert found["average of weights"]["ratio"] < 0.5
    assert found["average of weights"]["seeds"] == 1
    assert found["AP at the end"]["ratio"] == 1.0
    assert found["gain over the parent"]["ranks"] == pytest.approx(
        found["AP at the end"]["ranks"]
    )  # the same control for all nets of a seed
    assert len(report.parts[1]) == 7
    assert report.picture.startswith(b"\x89PNG")


def test_nets_need_the_same_seeds() -> None:
    with pytest.raises(ValueError, match="expected equal seeds for all nets"):
        seeds_table(scores()[:-1], lambda one: one.plain[-1])
