"""The clock of another device: what was measured there, what is predicted from it, and what a search and its front make of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import spnas
from crews import ScriptedCrew
from hypothesis import given
from hypothesis import strategies as st
from nets import SMALL, SMOKE

from flows import presets
from spnas_core import arch as architecture
from spnas_core import job as jobs
from spnas_core.cost import backbone_cost
from spnas_core.errors import UserError
from spnas_core.job import Data, Job
from spnas_core.metrics import STATS
from spnas_core.run.candidates import Round, train_jobs
from spnas_core.run.clocks import clocks_of_run, import_latencies, parse_latencies, read_clock
from spnas_core.run.crew import Label
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import read_stage
from spnas_core.run.register import announce_run, plan_of, read_run
from spnas_core.run.replay import replay
from spnas_core.search.block_features import FEATURES, net_features
from spnas_core.search.clock import LEAST_CLOCKED, ClockedNet, DeviceClock, fit_of, net_identity, net_latency
from spnas_core.search.costs import candidate_cost
from spnas_core.search.net import net_of
from spnas_core.search.sample import sample_nets
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import STAGE_NAMES, Run
from spnas_core.store.artifacts import Store

ARCHS = [
    "b_1111-1111", "b_1111-2111", "b_11111-21111_2-0", "b_1112-1211-11", "b_1-1-2-1111111_0-1-0-2", "b_211111-1111", "b_1111111111-1-2",
    "b_1111-1111_3-3", "b_12-121111", "b_11-1111-11-1121",
]  # fmt: skip
COSTS = dict(zip(FEATURES, (2.0, 150.0, 0.0, 0.0, 30.0, 1.5, 0.04, 10.0), strict=True))


def taken(arch: str, detector: Detector = SMALL) -> float:
    """Latency on a device whose features cost COSTS."""
    return sum(COSTS[name] * value for name, value in net_features(architecture.parse(arch), detector, 2).items())


def clock(archs: list[str] = ARCHS, detector: Detector = SMALL, **facts: Any) -> DeviceClock:
    nets = tuple(
        ClockedNet(arch=one, detector=detector, classes=2, latency_ms=taken(one), spread_ms=(taken(one), taken(one))) for one in archs
    )
    return DeviceClock(**{"device": "a board", "threads": 1, "provider": "CPU", "runtime": "r 1", "nets": nets, **facts})


def document(found: DeviceClock) -> dict[str, Any]:
    """What benchmark.py would have written."""
    nets = [{"folder": "x", **one.model_dump(mode="json"), "int8": False, "rounds_ms": [1.0], "images": 9} for one in found.nets]
    return {"form": "spnas-latency-1", **found.model_dump(mode="json", exclude={"nets"}), "system": "s", "nets": nets}


@pytest.mark.parametrize("kind", ["b", "r", "x(4x32d)"])
@given(st.sampled_from(ARCHS), st.booleans(), st.sampled_from([(64, 64), (75, 101)]))
def test_the_work_of_all_kinds_is_the_net_s(kind: str, text: str, share: bool, size: tuple[int, int]) -> None:
    arch = replace(architecture.parse(text), block_type=architecture.BlockType(kind))
    detector = SMOKE.model_copy(update={"share_weights": share, "image_size": size, "base_width": 16})
    found = net_features(arch, detector, 3)
    assert 1e9 * sum(found[name] for name in ("3x3", "1x1", "grouped")) == pytest.approx(backbone_cost(arch, size, 16, "7x7").macs)
    assert 1e9 * sum(found[name] for name in ("3x3", "1x1", "grouped", "neck and head")) == pytest.approx(
        candidate_cost(arch, detector, 3).macs
    )
    assert bool(found["grouped"]) == (kind == "x(4x32d)")


def test_a_measured_net_is_taken_at_its_measurement_and_others_by_what_their_features_cost() -> None:
    found = clock()
    for one in ARCHS:
        assert net_latency(found, architecture.parse(one), SMALL, 2) == (taken(one), True)
    other = SMALL.model_copy(update={"max_boxes": 5, "norm_epsilon": 0.1, "roi_batch": 4})  # a training's
    assert net_latency(found, architecture.parse(ARCHS[0]), other, 2) == (taken(ARCHS[0]), True)
    for text, detector in (("b_11111-2111", SMALL), ("b_1121-111-11_0-1-0", SMALL), (ARCHS[0], SMALL.model_copy(update={"base_width": 6}))):
        latency, measured = net_latency(found, architecture.parse(text), detector, 2)
        assert not measured
        assert latency == pytest.approx(taken(text, detector), rel=0.05)
    fit = fit_of(found, SMALL, 2)
    assert all(cost >= 0 for cost in fit.costs.values())
    assert len(fit.errors) == len(ARCHS)
    assert fit.mean_error <= fit.worst_error


@pytest.mark.parametrize(
    ("kind", "of_training", "of_inference"),
    [
        (
            "retinanet",
            {"focal_alpha": 0.5, "focal_gamma": 1.5, "foreground_iou": 0.6, "background_iou": 0.3, "box_loss": "giou"},
            "anchor_octave",
        ),
        ("fcos", {"focal_alpha": 0.5, "focal_gamma": 1.5, "centre_radius": 2.0, "first_distance": 0.0}, "depth"),
    ],
)
def test_what_only_a_training_of_a_one_stage_head_has_makes_no_other_net(kind: str, of_training: dict[str, Any], of_inference: str) -> None:
    net, trained_otherwise, other = (Detector(head={"kind": kind, **head}) for head in ({}, of_training, {of_inference: 2}))
    known, same, different = (net_identity(ARCHS[0], one, 2) for one in (net, trained_otherwise, other))
    assert known == same != different


@given(st.lists(st.floats(0.5, 2.0), min_size=len(ARCHS), max_size=len(ARCHS)))
def test_the_error_told_is_that_of_nets_that_the_fit_has_not_seen(noise: list[float]) -> None:
    found = clock()
    nets = [one.model_copy(update={"latency_ms": one.latency_ms * factor}) for one, factor in zip(found.nets, noise, strict=True)]
    whole = fit_of(found.model_copy(update={"nets": tuple(nets)}), SMALL, 2)
    for number, one in enumerate(nets):
        others = found.model_copy(update={"nets": tuple(nets[:number] + nets[number + 1 :])})
        latency, measured = net_latency(others, architecture.parse(one.arch), SMALL, 2)
        assert not measured
        assert latency / one.latency_ms - 1 == pytest.approx(whole.errors[number], abs=1e-9)


def test_too_few_measured_nets_predict_no_other() -> None:
    few = clock(ARCHS[: LEAST_CLOCKED - 1])
    assert net_latency(few, architecture.parse(ARCHS[0]), SMALL, 2).measured
    with pytest.raises(
        UserError, match=f"^device a board: expected at least {LEAST_CLOCKED} measured nets like these .*, got {LEAST_CLOCKED - 1}$"
    ):
        net_latency(few, architecture.parse("b_11111-2111"), SMALL, 2)
    head = SMALL.model_copy(update={"proposals_test": 7})
    for detector, classes in ((head, 2), (SMALL, 3)):
        with pytest.raises(UserError, match=r"got 0, and 10 with other heads or classes$"):
            net_latency(clock(), architecture.parse(ARCHS[0]), detector, classes)


def test_imports_add_up_for_one_device_alone(tmp_path: Path) -> None:
    store, place = Store(str(tmp_path / "store")), ("--store", tmp_path / "store")

    def write(found: DeviceClock, **changes: Any) -> Path:
        file = tmp_path / f"latency{len(list(tmp_path.iterdir()))}.json"
        file.write_text(json.dumps(document(found) | changes))
        return file

    status, text, error = spnas("latency", "import", write(clock(ARCHS[:4])), "--name", "board", *place)
    assert (status, error) == (0, "")
    assert f"no prediction of others: device a board: expected at least {LEAST_CLOCKED} measured nets" in text
    again = clock(ARCHS[3:])
    slower = again.model_copy(update={"nets": (again.nets[0].model_copy(update={"latency_ms": 99.0}), *again.nets[1:])})
    status, text, error = spnas("latency", "import", write(slower), "--name", "board", *place)
    assert (status, error) == (0, "")
    assert f"other nets are predicted from {len(ARCHS)}: left out one by one, these are" in text
    assert {one.arch: one.latency_ms for one in read_clock(store, "board").nets}[str(architecture.parse(ARCHS[3]))] == 99.0
    assert spnas("latency", "show", "board", *place)[1] == text
    shown = json.loads(spnas("latency", "show", "board", *place, "--json")[1])
    assert shown["fits"][0]["nets"] == len(ARCHS)
    other = write(clock(threads=4))
    status, _, error = spnas("latency", "import", other, "--name", "board", *place)
    assert (status, error.count("\n")) == (2, 1)
    assert "--name board: expected measurements of a board, CPU, 1 thread, got some of a board, CPU, 4 threads; take another name" in error
    assert spnas("latency", "import", other, "--name", "board", "--replace", *place)[0] == 0
    assert read_clock(store, "board") == clock(threads=4)
    for words, line in (
        (
            (write(clock(), form="other"), "--name", "board"),
            "expected a file of benchmark.py in the form spnas-latency-1, got the form 'other'",
        ),
        ((write(clock(), nets=[{"int8": True}]), "--name", "b"), "expected networks in float32, as a search has them, got net 1 in INT8"),
        ((write(clock(), nets=[{"arch": "b_1"}]), "--name", "b"), "expected a file that benchmark.py has written, got: "),
        ((tmp_path / "gone.json", "--name", "b"), "expected a file that benchmark.py has written, got: No such file"),
        ((write(clock()), "--name", "A b"), "--name: expected a-z, 0-9"),
    ):
        status, _, error = spnas("latency", "import", *words, *place)
        assert (status, error.count("\n")) == (2, 1), error
        assert line in error
    status, _, error = spnas("latency", "show", "phone", *place)
    assert (status, "expected a device that was imported (board), got 'phone'" in error) == (2, True)


def plan_with(store: Store, found: DeviceClock, **settings: Any) -> Plan:
    run = Run.model_validate({"name": "mine", "arch": ARCHS[0], "detector": SMALL, "objectives": ("AP", "latency_ms@board"), **settings})
    return Plan(run, store, Data(url="x", fingerprint="f"), 2, clocks={"board": found})


def test_a_search_depends_on_what_was_measured_and_no_training_does() -> None:
    store = Store("memory://clocks/keys")
    plan, same = plan_with(store, clock()), plan_with(store, clock(ARCHS[::-1], runtime="r 2"))
    other = plan_with(store, clock(ARCHS[:-1]))
    assert plan.keys == same.keys
    assert [name for name in STAGE_NAMES if other.keys[name] != plan.keys[name]] == list(STAGE_NAMES[1:])
    assert not plan.settings.measures
    recipe = plan.settings.serial.recipe
    assert jobs.digest(plan.train(ARCHS[1], SMALL, recipe)) == jobs.digest(
        Plan(Run(arch=ARCHS[0], detector=SMALL), store, plan.data, 2).train(ARCHS[1], SMALL, recipe)
    )
    announce_run(plan)
    assert plan_of(read_run(store, "mine"), store).keys == plan.keys  # whatever is imported later


def test_trials_have_their_latency_there_and_what_is_over_a_limit_is_not_trained() -> None:
    limit = sorted(map(taken, ARCHS[1:]))[4]
    plan = plan_with(Store("memory://clocks/trials"), clock(), budget={"device_ms": {"board": (None, limit)}})

    def answer(label: Label, job: Job) -> dict[str, Any]:
        return {**dict.fromkeys(STATS, 0.1 + label.index / 20), "macs": 10, "seconds": 3.0}

    crew = ScriptedCrew(answer)
    trials = train_jobs(plan, crew, Round("serial", 1), [(plan.train(one, SMALL, plan.settings.serial.recipe), None) for one in ARCHS[1:]])
    for text, trial in zip(ARCHS[1:], trials, strict=True):
        assert trial.failure == (None if taken(text) <= limit else "over_budget")
        assert trial.failure or trial.value("latency_ms@board") == taken(text)
    assert {job.kind for group in crew.asked for _, job in group} == {"train"}


def test_every_trial_of_a_run_has_its_latency_there(tiny_data: Path, tmp_path: Path) -> None:
    """All stages, played without a training; a run is opened with what its store has of the device."""
    settings = presets.load_preset("smoke", ["objectives=[AP, latency_ms@board, macs]", "serial.rounds=2"])
    with pytest.raises(UserError, match="expected a device that was imported"):
        open_plan(settings, str(tiny_data), str(tmp_path / "store"))
    import_latencies(Store(str(tmp_path / "store")), "board", clock(detector=SMOKE))
    plan = open_plan(settings, str(tiny_data), str(tmp_path / "store"))
    found = replay(plan, lambda job: None)
    assert len(found.ledger) > 5
    assert {trial.stage for trial in found.ledger} == {"fine_tune", "serial", "parallel"}
    for trial in found.ledger:
        assert trial.value("latency_ms@board") == net_latency(plan.clocks["board"], trial.net.arch, trial.net.detector(SMOKE), 2).ms
    assert all(step.job.kind != "benchmark" for step in found.steps)


def test_a_run_without_the_clock_that_it_needs_is_one_line(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    run = Run.model_validate({"arch": ARCHS[0], "detector": SMALL, "objectives": ("AP", "latency_ms@board")})
    with pytest.raises(
        UserError, match=r"expected a device that was imported \(there is none\), got 'board'; spnas latency import adds one$"
    ):
        clocks_of_run(store, run, 2)
    import_latencies(store, "board", clock(ARCHS[:3]))
    with pytest.raises(
        UserError, match=f"^latency_ms@board: device a board: expected at least {LEAST_CLOCKED} .* spnas latency sample makes nets"
    ):
        clocks_of_run(store, run, 2)
    import_latencies(store, "board", clock())
    assert clocks_of_run(store, run, 2) == {"board": read_clock(store, "board")}
    assert clocks_of_run(store, Run(), 2) == {}
    for objectives in (("AP", "latency_ms@"), ("AP", "latency_ms@A"), ("latency_ms@board", "AP"), ("AP", "speed")):
        with pytest.raises(ValueError, match="expected"):
            Run.model_validate({"objectives": objectives})


def test_a_sample_is_of_the_space_and_the_budget_and_the_same_every_time() -> None:
    run = presets.load_preset("smoke", ["serial.rounds=6", "budget={gmacs: [null, 0.012]}", "space.block_types=[b, r]"])
    found = sample_nets(run, 8, lambda net: candidate_cost(net.arch, net.detector(run.detector), 2), 2)
    assert found[0] == net_of(run.arch, run.detector)
    assert len(set(map(str, found))) == 8
    assert found == sample_nets(run, 8, lambda net: candidate_cost(net.arch, net.detector(run.detector), 2), 2)
    for net in found:
        assert candidate_cost(net.arch, net.detector(run.detector), 2).macs <= 12e6
    rows = np.array([list(net_features(net.arch, run.detector, 2).values()) for net in found])
    assert (np.ptp(rows, axis=0)[[1, 4, 5, 6]] > 0).all()


@pytest.mark.training
def test_nets_are_measured_by_a_program_of_their_own_and_come_back_as_a_clock(tmp_path: Path) -> None:
    """The shipped script in a process that does not know this program; all but one net predict that one."""
    out, place = tmp_path / "nets", ("--store", tmp_path / "store")
    status, _, error = spnas("latency", "sample", "smoke", "--classes", 2, "--nets", 7, "--set", "serial.rounds=4", "--out", out)
    assert (status, error) == (0, "")
    status, _, error = spnas("latency", "sample", "smoke", "--classes", 2, "--out", out)
    assert (status, "expected a new or empty folder" in error) == (2, True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-c", BESIDE, "--threads", "1", "--rounds", "2", "--seconds", "0.05", "--pause", "0", "--device", "here"]
    done = subprocess.run(words, cwd=out, env=environment, capture_output=True, text=True, check=True)
    assert "here, CPUExecutionProvider, 1 threads" in done.stdout
    measured = json.loads((out / "latency.json").read_text())
    assert len(measured["nets"]) == 7
    assert all(one["spread_ms"][0] <= one["latency_ms"] <= one["spread_ms"][1] for one in measured["nets"])
    found = parse_latencies((out / "latency.json").read_bytes(), "x")
    assert (found.device, found.threads) == ("here", 1)
    assert found.runtime.startswith("onnxruntime ")
    status, text, error = spnas("latency", "import", out / "latency.json", "--name", "here", *place)
    assert (status, error) == (0, "")
    assert "other nets are predicted from 7" in text
    wrong = subprocess.run([*words, "--provider", "No"], cwd=out, env=environment, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


@pytest.mark.training
def test_a_search_for_another_device(prefect_server: str, tiny_data: Path, tmp_path: Path) -> None:
    """The whole run, by real jobs; its record holds the measurements, so that a later import does not change what it is."""
    store = tmp_path / "store"
    found = clock(detector=SMOKE)
    limit = max(one.latency_ms for one in found.nets)
    import_latencies(Store(str(store)), "board", found)
    words = ("objectives=[AP, latency_ms@board]", "serial.candidates=1", f"budget={{device_ms: {{board: [null, {limit}]}}}}")
    status, _, error = spnas("run", "smoke", "--data", tiny_data, "--store", store, *(part for word in words for part in ("--set", word)))
    assert status == 0, error
    import_latencies(Store(str(store)), "board", clock(ARCHS[:3], detector=SMOKE), replace=True)
    plan = plan_of(read_run(Store(str(store)), "smoke"), Store(str(store)))
    assert plan.clocks == {"board": found}
    ledger = read_stage(plan.store, plan.keys["full_train"]).ledger
    assert {trial.stage for trial in ledger} == {"fine_tune", "serial", "parallel"}
    for trial in ledger:
        assert trial.failure == "over_budget" or trial.value("latency_ms@board") == plan.clock_latencies(trial.net)["latency_ms@board"]
    assert not list(store.glob("benchmark/*"))
    assert "latency on board" in (store / "runs" / "smoke" / "report.html").read_text()
    assert "latency_ms@board" in (store / "runs" / "smoke" / "trials.csv").read_text().splitlines()[0]


BESIDE = """
import runpy, sys
sys.argv = ["benchmark.py", *sys.argv[1:]]
runpy.run_path("benchmark.py", run_name="__main__")
assert not [name for name in sys.modules if name.startswith(("spnas", "flows", "PIL", "mindspore"))]
"""
