"""A whole search by real jobs with all that a short one leaves out: reignitions, rungs, measured objectives, block types."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from flows import presets
from flows.spnas import spnas
from spnas_core.arch import parse
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord, read_stage
from spnas_core.run.replay import known_results, replay
from spnas_core.search.course import reignitions
from spnas_core.settings.run import STAGE_NAMES
from spnas_core.store.manifest import Manifest
from spnas_core.weights.lineage import lineage

pytestmark = [pytest.mark.training, pytest.mark.long]
SETTINGS = (
    "serial.rounds=4",
    "serial.candidates=3",
    "serial.n_stuck=1",
    "serial.max_reignite=2",
    "serial.recipe.epochs=3",
    "serial.halving={rungs: [1, 2], keep: 0.5}",
    "serial.mutation={change_type: 0.4, move_double: 0.2}",
    "space.block_types=[b, r]",
    "objectives=[AP50, params, latency_ms]",
    "budget={latency_ms: [null, 60000], memory_mb: [null, 100000]}",
    "reignite.mixup=0.0",
    "reignite.label_smoothing=0.1",
    "parallel.candidates=2",
)


@pytest.fixture(scope="module")
def searched(prefect_server: None, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, StageRecord, dict[str, Any]]:
    store = (tmp_path_factory.mktemp("whole") / "store").as_uri()
    settings = presets.load_preset("smoke", SETTINGS)
    summary = spnas(settings, str(tiny_data), store)
    plan = open_plan(settings, str(tiny_data), store)
    return plan, read_stage(plan.store, plan.keys["full_train"]), summary


def manifest_of(plan: Plan, digest: str) -> Manifest:
    found = plan.store.find("train", digest)
    assert found
    return found


def test_it_reignites_and_goes_on_from_the_reignited_net(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, summary = searched
    settings = plan.settings
    found = {n: net for n, net in reignitions(final.ledger, 1, 2, settings.objectives).items() if n < settings.serial.rounds}
    assert found  # a net of 4 channels that trains on eight images for three epochs finds nothing
    assert len({net.digest for net in found.values()}) == len(found) <= 2
    shown = {one["round"]: one["reignited"] for one in summary["rounds"] if one["stage"] == "serial" and one["reignited"]}
    assert shown == {number: net.arch for number, net in found.items()}
    assert {net.digest for net in found.values()} <= final.reignited.keys() == final.top1.keys()
    for number, net in found.items():
        children = [one for one in final.ledger if one.stage == "serial" and one.round == number + 1]
        assert children
        for one in children:
            assert one.parent == net.digest
            if not one.failure:
                weights = manifest_of(plan, one.digest).job["weights"]
                reignited = ("reignite", final.reignited[net.digest].digest)
                assert [(w["kind"], w["digest"]) for w in weights] == [("train", net.digest), reignited]
    assert [one["top1"] for one in summary["reignited"]] == list(final.top1.values())


def test_rungs_in_the_ledger(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, _ = searched
    for number in range(1, 5):
        trials = [one for one in final.ledger if one.stage == "serial" and one.round == number]
        if len(trials) == 3 and not any(one.failure for one in trials):
            assert sorted(str(one.rung) for one in trials) == ["1", "2", "None"]
        for one in trials:
            if not one.failure:
                assert (one.metrics or {})["epochs"] == (one.rung or 3) == manifest_of(plan, one.digest).metrics["epochs"]
    rows = list(csv.DictReader((Path(plan.store.local or "") / "runs" / "smoke" / "trials.csv").read_text().splitlines()))
    assert [row["rung"] for row in rows] == [str(one.rung or "") for one in final.ledger]
    parents = {one.parent for one in final.ledger if one.parent}
    assert all(one.rung is None for one in final.ledger if one.digest in parents)


def test_what_was_measured_is_in_the_ledger_and_the_store(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, _ = searched
    assert len(final.benchmarks) == len(final.ledger)  # no net was tried twice
    for one, benchmark in zip(final.ledger, final.benchmarks, strict=True):
        found = plan.store.find("benchmark", benchmark)
        assert found
        assert found.job["arch"] == one.arch
        if one.metrics:
            assert one.metrics["latency_ms"] == found.metrics["latency_ms"]
            assert "latency_ms" not in manifest_of(plan, one.digest).metrics
    first = read_stage(plan.store, plan.keys["fine_tune"])
    assert "latency_ms" not in (first.ledger[0].metrics or {})


def test_types_change_and_every_child_descends_from_its_parent(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, _ = searched
    arch_of = {one.digest: one.arch for one in final.ledger}
    assert len({parse(one.arch).block_type for one in final.ledger}) == 2
    for one in final.ledger:
        if one.stage == "serial" and one.parent:
            lineage(parse(arch_of[one.parent]), parse(one.arch))
        if one.parent and not one.failure:
            audit = json.loads(plan.store.fetch("train", one.digest, "audit.json").read_text())
            assert 0 < audit["share"] <= 1


def test_its_replay_is_the_search(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, _ = searched
    found = replay(plan, known_results(plan))
    assert found.ledger == final.ledger
    assert all(step.sure and step.ended is not None for step in found.steps)


def test_started_again_it_is_the_same(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    """Also where a stage was lost: what was measured is not measured again."""
    plan, final, summary = searched
    for name in STAGE_NAMES[1:]:
        (Path(plan.store.local or "") / "stage" / plan.keys[name] / "manifest.json").unlink()
    for number in range(1, 5):
        (Path(plan.store.local or "") / "stage" / plan.after(number).keys["serial"] / "manifest.json").unlink(missing_ok=True)
    assert spnas(plan.settings, plan.data.url, plan.store.url) == summary
    assert read_stage(plan.store, plan.keys["full_train"]) == final
