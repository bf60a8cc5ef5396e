"""What a run will cost: its course, the lines through what was measured, the extremes of its space, and the command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from spnas_core.errors import JobError, UserError
from spnas_core.job import Data, MeasureJob, TrainJob
from spnas_core.jobs.runner import run_job
from spnas_core.monitor.forecast import RUN, MeasuredNet, forecast, job_seconds, speed_of
from spnas_core.monitor.speed import Line, Speed, fit_line, makespan
from spnas_core.run.plan import Counts, Plan
from spnas_core.run.replay import replay
from spnas_core.search.bounds import cost_bounds
from spnas_core.settings.run import Run
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store

COUNTS = Counts(train=240, val=60, test=40, boxes=844, crops=844)  # of the demo
LOG = {"fine_tune": 36.1, "serial": 102.2, "reignite": 5.8, "parallel": 63.1, "full_train": 112.0}  # s of a demo run, graphs kept
WHOLE, COLD = 334.8, (425, 560)  # s of that run, and of runs without any graph
run = CliRunner()


def plan_of(settings: Run, store: str = "memory://forecast", **more: Any) -> Plan:
    data = Data(url="x", fingerprint="f")
    return Plan(settings, Store(store), data, 10, test=data, counts=COUNTS, **more)


def demo_speed(plan: Plan) -> Any:
    """Speed as it was measured on the two cores on which the demo of `LOG` ran."""
    common = {"decode": 0.0013, "prepare": 0.2, "by_operators": 0.05}
    nets = {
        "b_11-21-21-21": {"train_compile": 5.7, "eval_compile": 2.3, "step": 0.0655, "image": 0.0048, "memory_mb": 800.0},
        "b_111-11112-111211-2111_2-2-2-2": {
            "train_compile": 14.4,
            "eval_compile": 6.3,
            "step": 0.152,
            "image": 0.0096,
            "memory_mb": 900.0,
        },
    }
    return speed_of(plan, [MeasuredNet(arch, plan.settings.detector, 4, one | common, 2.8) for arch, one in nets.items()])


@given(st.floats(0, 100), st.floats(0, 100), st.lists(st.floats(0.01, 100), min_size=2, max_size=9, unique=True))
def test_points_of_a_line_give_it_back(base: float, slope: float, places: list[float]) -> None:
    line = fit_line((x, base + slope * x) for x in places)
    for x in places:
        assert line.at(x) == pytest.approx(base + slope * x, rel=1e-3, abs=1e-3)


@given(st.lists(st.tuples(st.floats(0.001, 100), st.floats(0, 100)), min_size=1, max_size=9))
def test_no_line_falls_or_is_below_zero(points: list[tuple[float, float]]) -> None:
    line = fit_line(points)
    assert line.base >= 0
    assert line.slope >= 0


def test_one_point_is_scaled() -> None:
    assert fit_line([(2.0, 3.0)]).at(4.0) == 6.0
    with pytest.raises(ValueError, match="at least one point"):
        fit_line([])


@given(st.lists(st.floats(0, 100), max_size=12), st.integers(1, 5))
def test_devices_share_the_time_of_jobs(seconds: list[float], places: int) -> None:
    whole, longest = sum(seconds), max(seconds, default=0.0)
    time = makespan(seconds, places)
    assert max(longest, whole / places) - 1e-6 <= time <= whole / places + longest + 1e-6
    assert makespan(seconds, 1) == pytest.approx(whole)


SPACES: dict[str, dict[str, Any]] = {
    "plain": {},
    "many stages": {"serial": {"rounds": 6, "mutation": {"add_stage": 0.4}}},
    "doubles move": {"serial": {"mutation": {"move_double": 0.5}}, "arch": "b_1121-1211-12"},
    "types": {"arch": "r_11-21-21-21", "space": {"block_types": ["r", "b"]}, "serial": {"mutation": {"change_type": 0.3}}},
    "budget": {"budget": {"gmacs": [0.05, 0.5]}},
    "taps and stem": {"parallel": {"taps": [[1, 1]]}, "reignite": {"stem": "7x7"}},
}


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=3)
@given(seed=st.integers(0, 1000))
def test_no_candidate_is_beyond_the_extremes(name: str, seed: int) -> None:
    detector = {"image_size": [128, 128], "base_width": 16, "stem": "3x3", "fpn_channels": 32, "head_channels": 64}
    plan = plan_of(Run.model_validate({"arch": "b_11-21-21-21", "detector": detector, "seed": seed, **SPACES[name]}))
    small, large = cost_bounds(plan.settings, plan.cost_of)
    for trial in replay(plan, lambda _: None, seed).ledger[1:]:
        assert trial.metrics
        near = 1.02 if name == "budget" else 1.0  # nets that come near to a limit, not the nearest of all
        assert small.cost.macs / near <= trial.metrics["macs"] <= large.cost.macs * near, (str(small.net), trial.arch, str(large.net))


def test_a_budget_that_no_net_meets_is_a_mistake() -> None:
    plan = plan_of(presets.load_preset("demo", ["budget={gmacs: [null, 0.001]}"]))
    with pytest.raises(UserError, match=r"expected limits that some net of the space meets, got .*gmacs': \[None, 0.001\]"):
        cost_bounds(plan.settings, plan.cost_of)


@pytest.mark.parametrize("kept", [True, False])
def test_the_demo_takes_what_it_took(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    as_it_was = ["devices=[0]", "final.equal_epochs=false", "fine_tune.epochs=8", "full_train.epochs=8", "detector.image_size=[128,128]"]
    monkeypatch.setattr("spnas_core.monitor.forecast.BY_OPERATORS", 0)  # evaluations had graphs
    plan = plan_of(presets.load_preset("demo", as_it_was))
    replays = [replay(plan, lambda _: None, play) for play in range(8)]
    found = forecast(plan, replays, demo_speed(plan), lambda _: kept)
    seconds = {name: one.seconds for name, one in found.items()}
    whole = sum(seconds.values()) + RUN
    if kept:
        assert all(0.7 * took < seconds[name] < 1.3 * took for name, took in LOG.items()), seconds
        assert 0.8 * WHOLE < whole < 1.2 * WHOLE
    else:
        assert 0.8 * COLD[0] < whole < 1.2 * COLD[1]
    assert all(one.least <= one.seconds + 1e-6 <= one.most + 2e-6 for one in found.values())
    counts = {name: (one.jobs, one.epochs, one.held) for name, one in found.items()}
    assert counts | {"serial": ()} == {
        "fine_tune": (1, 8, 0),
        "serial": (),
        "reignite": (1, 2, 0),
        "parallel": (3, 6, 0),
        "full_train": (5, 16, 0),
    }
    assert 6 <= found["serial"].jobs < 7  # now and then a play is stuck, and reignites


def test_an_evaluation_of_few_batches_compiles_nothing() -> None:
    """8 images a batch. Beyond 24 the first 24 take longer and a graph is compiled; in float16 and on Ascend it is from the first."""
    recipe = Recipe(epochs=1)

    def seconds(images: int, scored: int = 1, half: bool = False, **settings: Any) -> float:
        run = presets.load_preset("demo").model_copy(update=settings)
        plan = replace(plan_of(run), counts=COUNTS.model_copy(update={"val": images}))
        job = TrainJob(
            arch=run.arch, detector=run.detector, data=plan.data,
            recipe=recipe.model_copy(update={"epochs": scored, "eval_epochs": 1, "mixed_precision": half}),
        )  # fmt: skip
        speed = Speed(0, Line(0, 0), Line(0, 0), Line(100, 0), Line(0, 0), Line(2, 0), 0, Line(0, 0))
        return job_seconds(plan, job, scored, speed)

    assert seconds(60) == pytest.approx(16)
    assert seconds(60, scored=3) == pytest.approx(48)
    assert seconds(192) == pytest.approx(48)
    assert seconds(193) == seconds(60, scored=4) == pytest.approx(148)
    assert seconds(60, half=True) == seconds(60, device_target="Ascend") == pytest.approx(100)


def test_halving_takes_fewer_epochs() -> None:
    halving = ["serial.candidates=4", "serial.recipe.epochs=4", "serial.halving={rungs: [1], keep: 0.5}"]
    plan = plan_of(presets.load_preset("demo", halving))
    steps = [step for step in replay(plan, lambda _: None).steps if step.stage == "serial" and step.job.kind == "train"]
    assert sum(step.epochs for step in steps) == plan.settings.serial.rounds * (4 * 1 + 2 * 3)


def test_failed_candidates_have_no_children() -> None:
    plan = plan_of(presets.load_preset("demo", ["serial.rounds=5"]))

    def known(job: Any) -> JobError | None:
        return JobError("diverged", "") if isinstance(job, TrainJob) and job.weights and job.recipe == plan.settings.serial.recipe else None

    found = replay(plan, known)
    tried = [trial for trial in found.ledger if trial.stage == "serial"]
    assert {trial.failure for trial in tried} == {"diverged"}
    assert {trial.parent for trial in tried} == {found.ledger[0].digest}


@pytest.mark.training
def test_a_few_steps_are_measured(tiny_data: Path, tmp_path: Path) -> None:
    settings, data = presets.load_preset("smoke"), Data(url=str(tiny_data), fingerprint="f")
    job = MeasureJob(arch=settings.arch, detector=settings.detector, recipe=settings.fine_tune, data=data)
    found = run_job(job, str(tmp_path)).metrics
    assert 0 < found["step"] < found["train_compile"] < 120
    assert 0 < found["image"] < found["eval_compile"] < 120
    assert 0 < found["decode"] < found["prepare"] + found["decode"] < found["inside"]
    assert 50 < found["memory_mb"] < 10_000


@pytest.mark.long
def test_a_plan_measures_this_device(tiny_data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = run.invoke(app, ["plan", "smoke", "--data", str(tiny_data), "--store", str(store), "--json"])
    assert result.exit_code == 0, result.output
    bill = json.loads(result.stdout)
    assert bill["measured"][0]["arch"] == presets.load_preset("smoke").arch
    for one in bill["measured"]:
        assert 0 < one["step"] < one["train_compile"] < 120
        assert 0 < one["image"] < one["eval_compile"] < 120
        assert 50 < one["memory_mb"] < 10_000
    assert bill["total"]["seconds"] > sum(one["train_compile"] for one in bill["measured"])
    assert all(not one["finished"] and one["held"] == 0 and one["seconds"] > 0 for one in bill["stages"].values())
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_a_plan_that_only_counts(tiny_data: Path, tmp_path: Path) -> None:
    args = ["plan", "smoke", "--data", str(tiny_data), "--store", str(tmp_path), "--no-measure"]
    bill = json.loads(run.invoke(app, [*args, "--json"]).stdout)
    assert bill["total"] | {"bytes": 0} == {"jobs": 10, "held": 0, "epochs": 7, "seconds": None, "least": None, "most": None, "bytes": 0}
    assert bill["settings"]["detector.base_width"] == [4, 64]
    assert "serial.rounds" in bill["settings"]
    assert "serial.n_stuck" not in bill["settings"]
    text = run.invoke(app, args).stdout
    assert "detector.base_width = 4" in text
    assert "b_1111-2111_0-0" in text


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    wrong = ["serial.rounds=x", "detector.norm=batch", "foo=1", "bar", "checkpoint=nowhere.pth"]
    sets = [part for one in wrong for part in ("--set", one)]
    result = run.invoke(app, ["plan", "demo", "--data", str(tmp_path / "none"), "--store", "/dev/null/store", *sets])
    assert result.exit_code == 2
    lines = result.stderr.removeprefix("spnas: ").strip().splitlines()
    words = ["bar", "serial.rounds", "detector.norm", "foo", "store", "instances_*.json", "nowhere.pth"]
    assert len(lines) == len(words)
    for word in words:
        assert sum(word in line for line in lines) == 1, (word, lines)
    args = ["plan", "demo", "--data", str(tmp_path), "--store", str(tmp_path / "store"), "--set", "devices_per_job=3"]
    asked = json.loads(run.invoke(app, [*args, "--json"]).stdout)
    assert any("devices" in line for line in asked["mistakes"])
