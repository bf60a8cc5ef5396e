"""The front of a run: what one may take of it, and what differences mean; a net of it trained to the end, exported and scored."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import spnas
from reported import CHILD, COPIES, START, WIDER, Maker, make_data, make_run

from spnas_core.arch import parse
from spnas_core.errors import UserError
from spnas_core.job import Weights, digest
from spnas_core.monitor.housekeeping import garbage
from spnas_core.monitor.inventory import take_inventory
from spnas_core.report.front import Front, read_front, recommend
from spnas_core.report.intervals import interval, match_detections, score_draws
from spnas_core.report.offered import all_fronts, front_trials, full_training, net_of_front, note_trained, trained_nets
from spnas_core.run.clocks import import_latencies
from spnas_core.run.plan import Plan
from spnas_core.run.record import Result, StageRecord, publish_stage
from spnas_core.run.register import announce_run
from spnas_core.search.clock import ClockedNet, DeviceClock
from spnas_core.search.costs import candidate_cost
from spnas_core.search.ledger import pareto_front
from spnas_core.settings.run import STAGE_NAMES


def rising(folder: Path) -> tuple[Plan, StageRecord]:
    """A finished run, made without training, whose nets score the better the more they cost."""
    plan, stage = make_run(folder, make_data(folder / "data"))
    plan = replace(plan, settings=plan.settings.model_copy(update={"seed": 1}))  # other keys than those of `make_run`
    maker, ledger = Maker(plan), list(stage.ledger)
    seeds = sorted(range(30, 42), key=lambda seed: maker.scores(START, seed)[1]["AP"])
    for number, seed in ((0, seeds[0]), (1, seeds[6]), (4, seeds[-1])):
        trial, recipe = ledger[number], plan.settings.serial.recipe.model_copy(update={"epochs": 7})
        key, metrics = maker.train(plan.train_net(trial.net, recipe), seed, folder / f"rising{number}")
        weights = Weights(kind="train", digest=key, arch=trial.arch)
        ledger[number] = replace(trial, digest=key, metrics=metrics, score=metrics["AP"], weights=weights, parent=None)
    results = {}
    for name, number, seed in (("start", 0, seeds[3]), ("final", 4, seeds[5])):
        job = full_training(plan, ledger[number])
        key, metrics = maker.train(job, seed, folder / f"full{number}")
        results[name] = Result(arch=job.arch, digest=key, scores={"val": metrics})
    for name in STAGE_NAMES:
        done = results if name == "full_train" else {}
        stage = StageRecord(name=name, key=plan.keys[name], ledger=tuple(ledger[: 1 if name == "fine_tune" else 5]), results=done)
        publish_stage(plan, stage, 1.0)
    announce_run(plan)
    return plan, stage


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, StageRecord]:
    return rising(tmp_path_factory.mktemp("front"))


@pytest.fixture(scope="module")
def front(made: tuple[Plan, StageRecord]) -> Front:
    return read_front(made[0].store, "mine")


def test_the_front_is_that_of_the_objectives_with_its_trainings(front: Front, made: tuple[Plan, StageRecord]) -> None:
    _, stage = made
    assert [one.trial for one in front.nets] == pareto_front(stage.ledger)
    assert len(front.nets) == 3
    assert [stage.ledger[one.number] for one in front.nets] == [one.trial for one in front.nets]
    assert [one.costs["macs"] for one in front.nets] == sorted(one.costs["macs"] for one in front.nets)
    for one in front.nets:
        assert one.short.ap
        assert one.short.ap.mean == pytest.approx(one.short.score)
        assert one.short.ap.low <= one.short.score <= one.short.ap.high
        assert (one.full.train if one.full else None) == {
            stage.ledger[0].digest: stage.results["start"].digest,
            stage.ledger[4].digest: stage.results["final"].digest,
        }.get(one.trial.digest)
    assert front.finished


def test_neighbours_are_compared_in_pairs_of_images(front: Front, made: tuple[Plan, StageRecord]) -> None:
    annotations = make_annotations(made[0])
    matched = [
        score_draws(
            match_detections(annotations, json.loads(made[0].store.fetch("train", one.trial.digest, "detections.json").read_text()))
        )
        for one in front.nets
    ]
    assert front.nets[0].short.gain is None
    for number, one in enumerate(front.nets[1:], start=1):
        assert one.short.gain == interval(matched[number], matched[number - 1])


def make_annotations(plan: Plan) -> dict[str, object]:
    from spnas_core.data.splits import open_split

    return open_split(plan.data.url, "val").annotations


def test_the_best_within_a_limit_is_recommended(front: Front) -> None:
    for most in front.nets:
        limits = {"macs": most.costs["macs"]}
        inside = [one for one in front.nets if one.costs["macs"] <= limits["macs"]]
        chosen = recommend(front, limits)
        assert chosen.net in inside
        assert chosen.net
        if not all(one.full for one in inside):
            assert chosen.net.trial.value("AP") == max(one.trial.value("AP") for one in inside)
        if chosen.tie:
            assert chosen.tie.costs["macs"] <= chosen.net.costs["macs"]
    assert recommend(front, {"macs": 1.0}).net is None


def test_a_cost_that_the_search_did_not_look_at_adds_the_nets_that_are_best_within_it(made: tuple[Plan, StageRecord]) -> None:
    plan, stage = made
    wider = front_trials(plan, stage, ["params"])
    assert set(front_trials(plan, stage, ())) <= set(wider)
    for trial in stage.ledger:
        if trial.metrics and trial.rung is None:
            best = max(one.value("AP") for one in stage.ledger if one.rung is None and one.value("params") <= trial.value("params"))
            assert best == max(one.value("AP") for one in wider.values() if one.value("params") <= trial.value("params"))


def test_a_net_is_named_by_number_text_or_digest(made: tuple[Plan, StageRecord]) -> None:
    plan, stage = made
    trials = front_trials(plan, stage)
    for number, trial in trials.items():
        for text in (str(number), str(trial.net), trial.arch, trial.digest[:9], trial.digest):
            assert net_of_front(trials, text, "mine") is trial
    for wrong in ("2", "99", "b_1-1-1-1", "abc", ""):
        with pytest.raises(UserError, match=r"^run mine: expected a net of its front \(.*\), got '.*', which none of them is$"):
            net_of_front(trials, wrong, "mine")


def test_what_was_trained_of_a_front_is_kept_with_its_run(made: tuple[Plan, StageRecord], tmp_path: Path) -> None:
    from spnas_core.store.artifacts import Store

    plan, stage = made
    store = Store(str(shutil.copytree(plan.store.local or "", tmp_path / "store")))
    job = full_training(plan, stage.ledger[1])
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "weights.safetensors").write_bytes(b"x")
    store.publish(job, tmp_path / "made", {"AP": 0.5}, 1.0)
    assert f"train/{digest(job)}" in garbage(take_inventory(store), ["mine"])
    note_trained(store, "mine", [digest(job)])
    note_trained(store, "mine", [digest(job), stage.results["final"].digest])
    assert trained_nets(store, "mine") == sorted([digest(job), stage.results["final"].digest])
    inventory = take_inventory(store)
    assert f"train/{digest(job)}" not in garbage(inventory, ["mine"])
    assert "mine" in inventory.finished


def test_the_command_prints_the_front_and_recommends(front: Front, made: tuple[Plan, StageRecord]) -> None:
    place, most = ("--store", made[0].store.url), front.nets[-1]
    status, text, error = spnas("front", "mine", *place, "--gmacs", 1e-9 * most.costs["macs"] * 1.001)
    assert (status, error) == (0, "")
    head, *lines = text.splitlines()
    assert head.split()[:4] == ["net", "place", "architecture", "AP"]
    assert [int(line.lstrip("* ").split()[0]) for line in lines[: len(front.nets)]] == [one.number for one in front.nets]
    assert sum(line.startswith("*") for line in lines) == 1
    document = json.loads(spnas("front", "mine", *place, "--gmacs", 1e-9 * most.costs["macs"] * 1.001, "--json")[1])
    assert [one["arch"] for one in document["nets"]] == [one.trial.arch for one in front.nets]
    assert document["recommended"][0]["net"] in [one.number for one in front.nets]
    for one, shown in zip(front.nets, document["nets"], strict=True):
        assert shown["short"]["interval"] == [one.short.ap.low, one.short.ap.high] if one.short.ap else True
        assert shown["model"].endswith(f"/train/{one.train}")
    several = json.loads(spnas("front", "mine", *place, "--gmacs", 1, "--gmacs", 1e4, "--params", 1e3, "--json")[1])["recommended"]
    assert [one["limits"] for one in several] == [{"macs": 1e9, "params": 1e9}, {"macs": 1e13, "params": 1e9}]


def test_another_device_is_a_column_measured_or_predicted(tmp_path: Path) -> None:
    plan, _ = rising(tmp_path)
    detector, archs = plan.settings.detector, [START, WIDER, CHILD, "b_1-1-21-1111111", "b_1111-2-21-11_3-0-0-1", "b_11-21-2111111111-21"]
    taken = {one: 1e-9 * candidate_cost(parse(one), detector, 3).macs for one in archs}
    nets = tuple(ClockedNet(arch=one, detector=detector, classes=3, latency_ms=ms, spread_ms=(ms, ms)) for one, ms in taken.items())
    import_latencies(plan.store, "board", DeviceClock(device="d", threads=1, provider="p", runtime="r", nets=nets))
    front = read_front(plan.store, "mine", limits=[{"latency_ms@board": 1e9}])
    by_arch = {one.trial.arch: one for one in front.nets}
    for one in front.nets:
        assert one.predicted == (set() if parse(one.trial.arch) in map(parse, archs) else {"latency_ms@board"})
        assert one.costs["latency_ms@board"] == pytest.approx(1e-9 * one.costs["macs"], rel=0.2)
    assert str(parse(COPIES)) in by_arch
    limit = by_arch[str(parse(START))].costs["latency_ms@board"] * 1.001
    status, text, error = spnas("front", "mine", "--store", plan.store.url, "--latency-ms", f"{limit}@board", "--latency-ms", "1e9@board")
    assert (status, error) == (0, "")
    assert "ms board" in text.splitlines()[0]
    assert "~" in next(line for line in text.splitlines() if COPIES in line)
    assert "~: not measured, predicted from the measured nets." in text
    assert [line.split(":")[1].split(",")[0] for line in text.splitlines() if line.startswith("at most")] == [" net 0", " net 4"]
    status, _, error = spnas("front", "mine", "--store", plan.store.url, "--latency-ms", "3@phone")
    assert (status, "expected a limit of latency_ms@board, macs, params, got one of latency_ms@phone" in error) == (2, True)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("nope",), "expected one of its runs (mine), got 'nope'"),
        (("mine", "--gmacs", "few"), "--gmacs: expected a number above 0, got 'few'"),
        (("mine", "--params", "-1"), "--params: expected a number above 0, got '-1'"),
        (
            ("mine", "--latency-ms", "20"),
            "run mine: expected a limit of macs, params, got one of latency_ms, which no net of the front has",
        ),
        (("mine", "--train", "77"), "got '77', which none of them is"),
    ],
)
def test_mistakes_are_told_in_one_line(words: tuple[str, ...], line: str, made: tuple[Plan, StageRecord]) -> None:
    status, text, error = spnas("front", *words, "--store", made[0].store.url)
    assert (status, text) == (2, "")
    assert len(error.splitlines()) == 1
    assert line in error


def test_an_unfinished_run_shows_its_front_and_trains_none(tmp_path: Path) -> None:
    plan, stage = make_run(tmp_path, make_data(tmp_path / "data"))
    announce_run(plan)
    plan.store.remove(f"stage/{plan.keys['full_train']}")
    publish_stage(
        plan, stage.model_copy(update={"name": "serial", "key": plan.keys["serial"], "results": {}, "ledger": stage.ledger[:3]}), 1
    )
    status, text, _ = spnas("front", "mine", "--store", plan.store.url)
    assert status == 0
    assert "The run is not finished: this is its front up to the stage serial" in text
    assert COPIES not in text
    number = next(iter(all_fronts(plan, read_front(plan.store, "mine").stage)))
    status, text, error = spnas("front", "mine", "--store", plan.store.url, "--train", number)
    assert (status, text) == (2, "")
    assert error.startswith("spnas: run mine: expected a finished run to train and measure nets of")
    assert len(error.splitlines()) == 1
    shutil.rmtree(tmp_path / "data")
    status, text, _ = spnas("front", "mine", "--store", plan.store.url)
    assert status == 0
    assert "No intervals, since the data cannot be read" in text
    assert START in text or WIDER in text


@pytest.mark.training
def test_a_net_of_a_front_is_trained_measured_exported_and_scored(finished_copy: Plan, tmp_path: Path) -> None:
    """By real jobs: what was trained is an artifact like any other, done once, and what export and eval then take."""
    store = finished_copy.store
    before = read_front(store, "smoke")
    net = next((one for one in before.nets if one.full is None), before.nets[0])
    place = ("--store", store.url)
    status, text, error = spnas("front", "smoke", *place, "--train", net.number, "--measure", "--json")
    assert status == 0, error
    document = json.loads(text)
    shown = next(one for one in document["nets"] if one["number"] == net.number)
    assert all(one["costs"]["latency_ms"] > 0 for one in document["nets"])
    assert shown["full"]["train"] in trained_nets(store, "smoke")
    assert f"train/{shown['full']['train']}" not in garbage(take_inventory(store), ["smoke"])
    assert json.loads(spnas("front", "smoke", *place, "--train", net.trial.arch, "--measure", "--json")[1]) == document
    limit = document["nets"][0]["costs"]["latency_ms"] * 1.001
    within = json.loads(spnas("front", "smoke", *place, "--latency-ms", limit, "--json")[1])["recommended"]
    assert within[0]["net"] is not None
    status, text, error = spnas("export", "smoke", "--net", net.number, "--format", "onnx", "--out", tmp_path / "out", *place)
    assert status == 0, error
    assert "weights of its full training" in error
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert card["arch"] == net.trial.arch
    status, text, error = spnas("eval", "smoke", "--net", net.number, "--data", finished_copy.data.url, "--json", *place)
    assert status == 0, error
    assert json.loads(text)["AP"] == pytest.approx(shown["full"]["AP"], abs=1e-6)
