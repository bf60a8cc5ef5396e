"""Estimates of candidates: gains over parents that train on, further seeds of the best, means of the last epochs."""

import hashlib
from collections import Counter
from typing import Any

import pytest
from crews import ScriptedCrew
from hypothesis import given
from hypothesis import strategies as st
from trials import trial_of

from spnas_core.errors import JobError
from spnas_core.job import Data, Job, TrainJob
from spnas_core.metrics import STATS
from spnas_core.run.candidates import Round, train_each
from spnas_core.run.crew import Label
from spnas_core.run.estimates import SEED_STEP
from spnas_core.run.plan import Plan
from spnas_core.search.estimate import estimated
from spnas_core.search.ledger import Trial, best
from spnas_core.search.net import net_of
from spnas_core.search.propose import Proposal
from spnas_core.settings.run import Run
from spnas_core.settings.search import Halving, Race, Serial
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store
from spnas_core.study.methods import search_epochs

SHORT = Recipe(epochs=4)
DATA = Data(url="x", fingerprint="f")
ARCHES = ("b_11-21-21-21", "b_11-21-21-211")
PARENTS = [
    trial_of(arch, "serial", 1, n, None, f"p{n}", {**dict.fromkeys(STATS, 0.4 + 0.1 * n), "macs": 5}) for n, arch in enumerate(ARCHES)
]
CHILDREN = [Proposal(net_of(f"b_11-21-21{'1' * n}-21", Run().detector), PARENTS[n % 2]) for n in range(1, 5)]


def score_of(job: TrainJob) -> float:
    """A score that looks random, between 0.2 and 0.8."""
    return 0.2 + int(hashlib.sha256(f"{job.arch} {job.seed}".encode()).hexdigest()[:6], 16) / 0xFFFFFF * 0.6


def play(settings: Serial, fails: frozenset[tuple[str, int]] = frozenset()) -> tuple[list[Trial], ScriptedCrew]:
    """One round of four children of two parents; `fails`: the role and the seed of trainings that fail."""

    def answer(label: Label, job: Job) -> dict[str, Any] | JobError:
        assert isinstance(job, TrainJob)
        assert job.seed == 7 + SEED_STEP * label.seed
        if (label.role, label.seed) in fails:
            return JobError("diverged", "x")
        return {**dict.fromkeys(STATS, score_of(job)), "macs": len(job.arch)}

    crew = ScriptedCrew(answer)
    plan = Plan(Run(seed=7, serial=settings), Store("memory://estimates"), DATA, 1)
    return train_each(plan, crew, Round("serial", 2), CHILDREN, {}), crew


def jobs_of(crew: ScriptedCrew, role: str) -> list[tuple[str, int]]:
    return [(job.arch, job.seed) for group in crew.asked for label, job in group if label.role == role and isinstance(job, TrainJob)]


def test_without_settings_nothing_is_estimated_and_nothing_else_is_trained() -> None:
    trials, crew = play(Serial(recipe=SHORT))
    assert [one.estimate for one in trials] == [None] * 4
    assert [len(group) for group in crew.asked] == [4]


def test_a_child_is_ranked_by_its_gain_over_its_parent_trained_on() -> None:
    trials, crew = play(Serial(recipe=SHORT, control=True))
    plain, _ = play(Serial(recipe=SHORT))
    (group,) = crew.asked  # both at once
    assert Counter(label.role for label, _ in group) == {"control": 2, "candidate": 4}
    controls = {job.arch: job for label, job in group if label.role == "control" and isinstance(job, TrainJob)}
    assert set(controls) == {one.arch for one in PARENTS}
    for trial, child, alone in zip(trials, CHILDREN, plain, strict=True):
        control = controls[child.parent.arch]
        assert control.weights[0] == child.parent.weights
        assert control.recipe == SHORT
        gain = trial.metrics["AP"] - score_of(control)
        assert trial.value("AP") == pytest.approx(child.parent.value("AP") + gain)
        assert trial.metrics == alone.metrics
        assert trial.score == trial.metrics["AP"]  # what is shown is measured
        assert len(trial.controls) == 1
        assert not trial.repeats


@given(st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_the_best_get_further_seeds(count: int, seeds: int, control: bool) -> None:
    first, _ = play(Serial(recipe=SHORT, control=control))
    trials, crew = play(Serial(recipe=SHORT, control=control, race=Race(best=count, seeds=seeds)))
    raced = {one.index for one in best(first, count)}
    expected = {(trials[index].arch, 7 + SEED_STEP * seed) for index in raced for seed in range(1, seeds + 1)}
    assert set(jobs_of(crew, "repeat")) == expected
    assert len(jobs_of(crew, "repeat")) == len(expected)
    for before, trial, child in zip(first, trials, CHILDREN, strict=True):
        if trial.index not in raced:
            assert trial == before
            continue
        jobs = [7 + SEED_STEP * seed for seed in range(seeds + 1)]
        gains = [score_of(_like(trial.arch, seed)) - (score_of(_like(child.parent.arch, seed)) if control else 0.0) for seed in jobs]
        base = child.parent.value("AP") if control else 0.0
        assert trial.value("AP") == pytest.approx(min(1.0, max(0.0, base + sum(gains) / len(gains))))
        assert len(trial.repeats) == seeds
        assert len(trial.controls) == (seeds + 1 if control else 0)


def _like(arch: str, seed: int) -> TrainJob:
    return TrainJob(arch=arch, detector=Run().detector, recipe=SHORT, data=DATA, seed=seed)


@pytest.mark.parametrize("fails", [("control", 0), ("control", 1), ("repeat", 1), ("candidate", 0)])
def test_what_fails_beside_the_candidates_only_leaves_its_seed_out(fails: tuple[str, int]) -> None:
    trials, _ = play(Serial(recipe=SHORT, control=True, race=Race(best=4, seeds=2)), frozenset([fails]))
    if fails == ("candidate", 0):
        assert {one.failure for one in trials} == {"diverged"}
        return
    for trial, child in zip(trials, CHILDREN, strict=True):
        seeds = [seed for seed in range(3) if seed != fails[1]]
        gains = [
            score_of(_like(trial.arch, 7 + SEED_STEP * seed)) - score_of(_like(child.parent.arch, 7 + SEED_STEP * seed)) for seed in seeds
        ]
        assert trial.value("AP") == pytest.approx(child.parent.value("AP") + sum(gains) / 2)


def test_candidates_that_stop_at_a_rung_have_no_estimate() -> None:
    trials, crew = play(Serial(recipe=SHORT, control=True, halving=Halving(rungs=(1,), keep=0.5)))
    assert [one.estimate is None for one in trials] == [one.rung == 1 for one in trials]
    assert len(jobs_of(crew, "control")) == 2
    assert Counter(one.rung for one in trials) == {1: 2, None: 2}


def test_the_mean_of_the_last_epochs_counts_where_a_recipe_asks_for_it() -> None:
    metrics = {**dict.fromkeys(STATS, 0.5), "mean_AP": 0.3, "mean_AP50": 0.4}
    assert estimated([metrics]) == {"AP": 0.3, "AP50": 0.4}
    assert estimated([dict.fromkeys(STATS, 0.5)]) is None
    assert estimated([metrics, dict.fromkeys(STATS, 0.5)]) == {"AP": 0.4, "AP50": 0.45}


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1))
def test_estimates_are_scores_or_undefined(ours: float, theirs: float, base: float) -> None:
    parent = trial_of("b_11-21-21-21", "fine_tune", 0, 0, None, "s", {**dict.fromkeys(STATS, base), "macs": 5})
    found = (estimated([dict.fromkeys(STATS, ours)], parent, [dict.fromkeys(STATS, theirs)]) or {"AP": ours})["AP"]
    assert found == -1.0 or (min(ours, theirs) >= 0 and 0 <= found <= 1) or found == ours


def test_epochs_beside_the_candidates_are_counted_too() -> None:
    trials, crew = play(settings := Serial(recipe=SHORT, control=True, race=Race(best=2, seeds=1)))
    run = Run(fine_tune=Recipe(epochs=9), serial=settings)
    start = trial_of("b_11-21-21-21", "fine_tune", 0, 0, None, "s", {**dict.fromkeys(STATS, 0.4), "macs": 5})
    asked = {(label.role, label.index, label.arch, label.seed) for group in crew.asked for label, _ in group}
    assert search_epochs([start, *trials], run, 0) == 9 + 4 * len(asked)
