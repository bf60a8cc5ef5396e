"""A whole run whose serial search has a supernet, by real jobs: ledger, replay, status, report, and what its store keeps."""

from pathlib import Path
from typing import Any

import pytest

from flows import presets
from flows.spnas import spnas
from spnas_core.job import SupernetJob, TrainJob
from spnas_core.monitor.housekeeping import needs
from spnas_core.monitor.inventory import take_inventory
from spnas_core.monitor.status import Watcher
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord, read_stage
from spnas_core.run.replay import known_results, replay
from spnas_core.store.manifest import Manifest

pytestmark = pytest.mark.training
SETTINGS = (
    "serial.evaluator=supernet",
    "serial.supernet.family={inner: [4, 8]}",
    "serial.supernet.recipe={epochs: 1, batch: 4, lr: 0.01, warmup_steps: 2, clip_norm: 10.0}",
    "serial.supernet.calibration=2",
    "serial.supernet.evolution={generations: 2, draws: 3}",
    "serial.supernet.finalists=2",
)


@pytest.fixture(scope="module")
def searched(prefect_server: str, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, StageRecord, dict[str, Any]]:
    store = (tmp_path_factory.mktemp("supernet") / "store").as_uri()
    settings = presets.load_preset("smoke", SETTINGS)
    summary = spnas(settings, str(tiny_data), store)
    plan = open_plan(settings, str(tiny_data), store)
    return plan, read_stage(plan.store, plan.keys["full_train"]), summary


def test_finalists_enter_the_ledger_and_the_run_goes_on_as_any_other(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, summary = searched
    finalists = [trial for trial in final.ledger if trial.stage == "serial"]
    assert [(trial.round, trial.index, trial.parent) for trial in finalists] == [(1, 0, None), (1, 1, None)]
    for trial in finalists:
        assert trial.weights
        assert trial.weights.kind == "train"
        assert 0 <= trial.value("path_AP") <= 1
        manifest = plan.store.find("train", trial.digest)
        assert isinstance(manifest, Manifest)
        assert manifest.job["weights"][0]["kind"] == "supernet"
        assert manifest.metrics["inherited"] == 1.0
    assert [trial.stage for trial in final.ledger[3:]] == ["parallel"]
    assert final.results.keys() == {"start", "final"}
    text = plan.store.read(f"runs/{plan.settings.name}/report.md").decode()
    assert "Finalists of the supernet" in text
    assert "Finalists of the supernet" in plan.store.read(f"runs/{plan.settings.name}/report.html").decode()
    assert summary["timing"]["serial"]["compile"] > 0


def test_its_replay_is_the_run_and_its_status_and_store_know_its_jobs(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, _ = searched
    found = replay(plan, known_results(plan))
    assert all(step.ended for step in found.steps)
    assert found.ledger == final.ledger
    kinds = [step.job.kind for step in found.steps if step.stage == "serial"]
    assert kinds == ["supernet", "paths", "paths", "train", "train"]
    assert Watcher(plan.store, plan.settings.name).look().state == "finished"
    needed = needs(take_inventory(plan.store))
    assert {f"{step.job.kind}/{step.key}" for step in found.steps} <= needed.keys()


def test_more_finalists_train_no_supernet_again(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, _, _ = searched
    settings = presets.load_preset("smoke", (*SETTINGS, "serial.supernet.finalists=3"))
    other = open_plan(settings, plan.data.url, plan.store.url)
    assert other.keys["serial"] != plan.keys["serial"]
    steps = [step for step in replay(other, known_results(other)).steps if step.stage == "serial"]
    assert [step.ended is not None for step in steps if isinstance(step.job, SupernetJob)] == [True]
    assert sum(step.ended is None for step in steps if isinstance(step.job, TrainJob)) == 1
