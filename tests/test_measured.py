"""Latency and memory: measured on the device by jobs of their own, only where the settings ask for them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crews import ScriptedCrew
from hypothesis import given
from hypothesis import strategies as st
from nets import SMALL

from spnas_core import job as jobs
from spnas_core.errors import JobError
from spnas_core.job import BenchmarkJob, Data, Job
from spnas_core.jobs.runner import run_job
from spnas_core.metrics import STATS
from spnas_core.run.candidates import Round, train_jobs
from spnas_core.run.crew import Label
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord
from spnas_core.search.costs import over_budget
from spnas_core.search.ledger import Trial, best, pareto_front
from spnas_core.search.net import net_of
from spnas_core.settings.run import STAGE_NAMES, Run
from spnas_core.settings.search import Budget, Serial
from spnas_core.store.artifacts import Store

ARCHS = [f"b_{'1' * (4 + number)}-1111_0-0" for number in range(8)]
LIMITS = st.none() | st.floats(1, 100)


def plan_of(**settings: Any) -> Plan:
    run = Run.model_validate({"arch": "b_1111-1111", "detector": SMALL, "serial": Serial(), **settings})
    return Plan(run, Store("memory://measured"), Data(url="x", fingerprint="f"), 2)


def play(plan: Plan, latencies: list[float | None]) -> tuple[list[Trial], list[Job]]:
    """Train made-up candidates of these latencies, None for one whose measurement crashes; the AP rises with the index."""

    def answer(label: Label, job: Job) -> dict[str, Any] | JobError:
        latency = latencies[label.index]
        if not isinstance(job, BenchmarkJob):
            return {**dict.fromkeys(STATS, 0.1 + label.index / 10), "macs": 10, "seconds": 3.0}
        return JobError("out_of_memory", "x") if latency is None else {"latency_ms": latency, "reference_ms": 8.0, "memory_mb": 700.0}

    crew = ScriptedCrew(answer)
    work = [(plan.train(arch, SMALL, plan.settings.serial.recipe), None) for arch, _ in zip(ARCHS, latencies, strict=False)]
    trials = train_jobs(plan, crew, Round("serial", 1), work, plan.settings.serial.halving)
    return trials, [job for group in crew.asked for _, job in group]


@given(st.lists(st.none() | st.floats(1, 100), max_size=8), LIMITS, LIMITS)
def test_what_is_over_a_measured_limit_is_never_trained_nor_ranked(
    latencies: list[float | None], low: float | None, high: float | None
) -> None:
    plan = plan_of(budget={"latency_ms": (low, high)}, objectives=("AP", "latency_ms"))
    trials, asked = play(plan, latencies)
    trained = {job.arch for job in asked if job.kind == "train"}
    assert [job.arch for job in asked if job.kind == "benchmark"] == ARCHS[: len(latencies)]
    assert [one.arch for one in trials] == ARCHS[: len(latencies)]
    for one, latency in zip(trials, latencies, strict=True):
        fits = latency is not None and (low is None or latency >= low) and (high is None or latency <= high)
        assert (one.arch in trained) == fits
        assert one.failure == (None if fits else "out_of_memory" if latency is None else "over_budget")
        assert (one.metrics is None) == (not fits)
        if one.metrics:
            assert (one.metrics["latency_ms"], one.metrics["memory_mb"]) == (latency, 700.0)
            assert "seconds" not in one.metrics
    assert {one.arch for one in best(trials, 99, plan.settings.objectives)} == trained
    front = pareto_front(trials, ("AP", "latency_ms"))
    assert all(a.score < b.score and a.value("latency_ms") < b.value("latency_ms") for a, b in zip(
        sorted(front, key=lambda t: t.score), sorted(front, key=lambda t: t.score)[1:], strict=False
    ))  # fmt: skip


def test_nothing_is_measured_unless_the_settings_ask_for_it() -> None:
    trials, asked = play(plan_of(), [1.0, 2.0])
    assert {job.kind for job in asked} == {"train"}
    assert all(one.metrics and "latency_ms" not in one.metrics for one in trials)
    assert plan_of().benchmarks(trials) == ()
    assert StageRecord(name="serial", key="k", ledger=tuple(trials)).benchmarks == ()


@pytest.mark.parametrize(
    ("settings", "measures"),
    [
        ({}, False),
        ({"budget": {"gmacs": (None, 3.0), "params_m": (1.0, 2.0)}, "objectives": ("AP50", "params")}, False),
        ({"budget": {"latency_ms": (None, 40.0)}}, True),
        ({"budget": {"memory_mb": (100.0, None)}}, True),
        ({"objectives": ("AP", "memory_mb")}, True),
        ({"objectives": ("AP", "macs", "latency_ms")}, True),
    ],
)
def test_a_measured_search_depends_on_its_threads_and_no_training_does(settings: dict[str, Any], measures: bool) -> None:
    plan, other = plan_of(**settings), plan_of(**settings, threads=7)
    assert plan.settings.measures == measures
    assert [name for name in STAGE_NAMES if other.keys[name] != plan.keys[name]] == (list(STAGE_NAMES[1:]) if measures else [])
    assert jobs.digest(other.benchmark(net_of(ARCHS[0], SMALL))) != jobs.digest(plan.benchmark(net_of(ARCHS[0], SMALL)))
    assert _training(other) == _training(plan_of())


def test_measurements_and_trainings_depend_on_the_kind_of_device() -> None:
    plan, other = plan_of(), plan_of(device_target="Ascend")
    assert [name for name in STAGE_NAMES if other.keys[name] != plan.keys[name]] == list(STAGE_NAMES)
    assert jobs.digest(other.benchmark(net_of(ARCHS[0], SMALL))) != jobs.digest(plan.benchmark(net_of(ARCHS[0], SMALL)))
    assert _training(other) != _training(plan)


def _training(plan: Plan) -> str:
    return jobs.digest(plan.train(ARCHS[0], SMALL, plan.settings.serial.recipe))


def test_a_latency_is_that_at_the_speed_which_the_device_had_for_the_start_net(tmp_path: Path) -> None:
    """By hand: the reference took 8 ms beside the start net, and 12 beside the other, so its 30 ms were 20 then; memory is as it is."""
    plan = replace(plan_of(objectives=("AP", "latency_ms")), store=Store(str(tmp_path / "store")))
    start, other = (plan.benchmark(net) for net in (plan.start, net_of(ARCHS[1], SMALL)))
    (tmp_path / "empty").mkdir()
    found = [
        plan.store.publish(job, tmp_path / "empty", {"latency_ms": ms, "reference_ms": own, "memory_mb": 9.0}, 1.0)
        for job, ms, own in ((start, 15.0, 8.0), (other, 30.0, 12.0))
    ]
    assert plan.measured(*found) == [{"latency_ms": ms, "memory_mb": 9.0} for ms in (15.0, 20.0)]


def test_a_limit_says_what_it_wanted() -> None:
    budget = Budget(latency_ms=(None, 40.0), memory_mb=(10.0, None))
    assert over_budget({"latency_ms": 40.0, "memory_mb": 10.0}, budget) is None
    assert over_budget({"latency_ms": 51.234, "memory_mb": 10.0}, budget) == "latency_ms: expected 0 to 40, got 51.23"
    assert over_budget({"latency_ms": 1.0, "memory_mb": 9.0}, budget) == "memory_mb: expected 10 to inf, got 9"


@pytest.mark.training
def test_a_benchmark_is_measured_once(tmp_path: Path) -> None:
    """By a real process; then it is in the store, and every later search sees the same numbers."""
    store = Store(str(tmp_path / "store"))
    plan = plan_of(objectives=("AP", "latency_ms"))
    job = plan.benchmark(net_of(ARCHS[0], SMALL))
    found = run_job(job, store.url, threads=job.threads)
    assert 0 < found.metrics["latency_ms"] < 10_000
    assert 50 < found.metrics["memory_mb"] < 10_000
    assert 0 < found.metrics["reference_ms"] < 10_000
    assert 24 <= found.metrics["images"] <= 160
    assert found.files == {}
    assert run_job(job, store.url).metrics == found.metrics
