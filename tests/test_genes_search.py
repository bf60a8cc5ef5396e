"""A small whole search in which nets become narrower, shorter and of other sizes too: it ends, is told, and ends the same after a loss."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from flows import presets
from flows.spnas import spnas
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord, read_stage
from spnas_core.run.replay import known_results, replay
from spnas_core.search.costs import candidate_cost
from spnas_core.search.net import net_of, parse_net

pytestmark = pytest.mark.training
SETTINGS = (
    "serial.rounds=2",
    "serial.candidates=3",
    "serial.n_stuck=1",
    "serial.max_reignite=1",
    "serial.mutation={num_mutate: 4, add_stage: 0.0, change_type: 0.0, shrink: 0.2, inner_width: 0.2, base_width: 0.2, "
    "image_size: 0.2, neck_channels: 0.2}",
    "space={min_blocks: 5, inner_widths: [4, 6, 12], base_widths: [2, 6], image_sizes: [[48, 64], [64, 96]], neck_channels: [4, 12]}",
)


@pytest.fixture(scope="module")
def searched(prefect_server: None, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, StageRecord, dict[str, Any]]:
    store = (tmp_path_factory.mktemp("genes") / "store").as_uri()
    settings = presets.load_preset("smoke", SETTINGS)
    summary = spnas(settings, str(tiny_data), store)
    plan = open_plan(settings, str(tiny_data), store)
    return plan, read_stage(plan.store, plan.keys["full_train"]), summary


def test_all_children_train_and_their_metrics_are_those_of_their_genes(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, summary = searched
    own = plan.settings.detector
    children = [one for one in final.ledger if one.parent]
    assert summary["failed"] == 0
    assert any(one.net.width for one in children)
    assert any(one.net.size for one in children)
    assert any(one.net.neck.channels != own.neck.channels for one in children)
    assert any(one.net.arch.inner for one in children)
    for one in children:
        cost = candidate_cost(one.net.arch, one.net.detector(own), plan.classes)
        assert ((one.metrics or {})["params"], (one.metrics or {})["macs"]) == (cost.params, cost.macs)
        found = plan.store.find("train", one.digest)
        assert found
        assert tuple(found.job["detector"]["image_size"]) == one.net.detector(own).image_size
        audit = json.loads(plan.store.fetch("train", one.digest, "audit.json").read_text())
        assert audit["copied_params"] + audit["new_params"] == cost.params
    net = parse_net(next(csv.DictReader((Path(plan.store.local or "") / "runs" / "smoke" / "trials.csv").read_text().splitlines()))["net"])
    assert net == net_of(plan.settings.arch, own)


def test_the_report_tells_the_edits(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, _ = searched
    page = (Path(plan.store.local or "") / "runs" / "smoke" / "report.html").read_text()
    for kind, made in (
        ("base width", any(one.net.width for one in final.ledger)),
        ("image size", any(one.net.size for one in final.ledger)),
        ("neck channels", True),
        ("inner width", True),
    ):
        assert (f"<b>{kind}</b>" in page) == made, kind
    assert "<th>lost</th>" in page


def test_the_final_net_is_evaluated_in_its_own_size(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, _ = searched
    model = json.loads((Path(plan.store.local or "") / "runs" / "smoke" / "model" / "model.json").read_text())
    trained = plan.store.find("train", final.results["final"].digest)
    assert trained
    assert model["detector"]["image_size"] == trained.job["detector"]["image_size"]
    assert model["detector"]["base_width"] == trained.job["detector"]["base_width"]


def test_its_replay_is_the_search_and_after_a_loss_it_ends_the_same(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    """As a search that was killed in its second round: the records of the stages are gone, and one of its trainings."""
    plan, final, summary = searched
    assert replay(plan, known_results(plan)).ledger == final.ledger
    folder = Path(plan.store.local or "")
    for key in (*(plan.keys[name] for name in ("serial", "reignite", "parallel", "full_train")), plan.after(1).keys["serial"]):
        (folder / "stage" / key / "manifest.json").unlink(missing_ok=True)
    lost = next(one for one in final.ledger if one.stage == "serial" and one.round == 2)
    (folder / "train" / lost.digest / "manifest.json").unlink()
    again = spnas(plan.settings, plan.data.url, plan.store.url)
    assert {name: value for name, value in again.items() if name != "timing"} == {n: value for n, value in summary.items() if n != "timing"}
    assert read_stage(plan.store, plan.keys["full_train"]).ledger == final.ledger
