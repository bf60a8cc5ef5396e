"""A small structural search by real jobs: over heads and necks, killed in its middle, gone on with, started again; and on three hosts."""

import contextvars
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import linux
from postgres_server import needs_postgres, serve_postgres
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect_client import Host, runs_named, wait_for
from s3_server import free_ports, serve_bucket, upload
from test_kills import Search

from flows import presets, services
from flows.spnas import spnas
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import STOCK, Plan
from spnas_core.run.record import StageRecord, read_stage
from spnas_core.run.replay import known_results, replay
from spnas_core.search.costs import candidate_cost

pytestmark = [pytest.mark.training, linux]
CHANGED: dict[str, Any] = {
    "objectives": ["AP", "macs"],
    "space": {"min_blocks": 5, "block_types": ["b", "r"], "image_sizes": [[96, 96]], "proposals": [5], "necks": ["nasfpn8x1"]},
    "structures": {
        "rounds": 2, "candidates": 2, "chosen": 2, "finals": 1,
        "mutation": {"num_mutate": 3, "head": 0.4, "neck": 0.2, "image_size": 0.1, "proposals": 0.1, "add_stage": 0.0, "change_type": 0.1},
    },
    "final": {"choose": "best"},
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = presets.load_preset("smoke", ["serial.candidates=1", "parallel.taps=[]"]).model_dump(mode="json")
    whole["detector"]["other_heads"] = [{"kind": "retinanet", "depth": 1}, {"kind": "fcos", "depth": 1, "norm_groups": 4}]
    whole |= {**CHANGED, "structures": {**CHANGED["structures"], "recipe": whole["fine_tune"]}}
    path = tmp_path_factory.mktemp("settings") / "structures.yml"
    path.write_text(yaml.safe_dump(whole))
    return path


@pytest.fixture(scope="module")
def alone(settings: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, StageRecord]:
    """A search that nobody kills."""
    folder = tmp_path_factory.mktemp("alone")
    Search(settings, tiny_data, str(folder / "store"), folder / "log").finish()
    plan = open_plan(presets.load_preset(str(settings)), str(tiny_data), str(folder / "store"))
    return plan, read_stage(plan.store, plan.keys["full_train"])


def test_children_of_other_heads_train_on_what_they_inherit(alone: tuple[Plan, StageRecord]) -> None:
    plan, final = alone
    structures = [one for one in final.ledger if one.stage == "structures"]
    assert len(structures) == 4
    assert {one.failure for one in final.ledger} == {None}
    assert len({one.net.head for one in structures}) > 1
    for one in structures:
        cost = candidate_cost(one.net.arch, one.net.detector(plan.settings.detector), plan.classes)
        assert ((one.metrics or {})["params"], (one.metrics or {})["macs"]) == (cost.params, cost.macs)
        audit = json.loads(plan.store.fetch("train", one.digest, "audit.json").read_text())
        assert 0 < audit["copied_params"] <= cost.params
    assert {one.stage for one in final.ledger} == {"fine_tune", "structures", "serial", "parallel"}
    stock = [one for name, one in final.results.items() if name.startswith(STOCK)]
    assert len(stock) >= 4
    epochs = {(plan.store.manifest(f"train/{one.digest}")).metrics["epochs"] for one in stock}  # type: ignore[union-attr]
    assert len(epochs) == 1
    assert replay(plan, known_results(plan)).ledger == final.ledger
    summary = json.loads((Path(plan.store.local or "") / "runs" / "smoke" / "summary.json").read_text())
    assert summary["fronts"]["hypervolume"].keys() == {"found", "stock"}


def test_a_killed_search_ends_as_one_left_alone_and_computes_nothing_again(
    alone: tuple[Plan, StageRecord], settings: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The store has all but two structures, one of each round, and what follows from the second; it is killed while it trains both."""
    plan, final = alone
    folder = Path(shutil.copytree(plan.store.local or "", tmp_path / "store"))
    lost = [one for one in final.ledger if one.stage == "structures" and one.index == 0]
    keys = [*(plan.keys[name] for name in plan.settings.stages[1:]), plan.after(1, "structures").keys["structures"]]
    for name in (*(f"train/{one.digest}" for one in lost), *(f"stage/{key}" for key in keys)):
        shutil.rmtree(folder / name)
    shutil.rmtree(folder / "runs")
    for number, one in enumerate(lost):
        search = Search(settings, tiny_data, str(folder), tmp_path / f"log{number}", f"train/{one.digest} writing")
        assert search.wait_for([(f"train/{one.digest}", "writing")])
        search.kill()
    Search(settings, tiny_data, str(folder), tmp_path / "last").finish()
    again = open_plan(plan.settings, str(tiny_data), str(folder))
    assert read_stage(again.store, again.keys["full_train"]) == final
    begun = time.monotonic()
    search = Search(settings, tiny_data, str(folder), tmp_path / "nothing")
    search.finish()
    assert {event["event"] for event in search.events()} <= {"line", "over"}
    print(f"started again after its end: {time.monotonic() - begun:.1f} s")


@pytest.mark.long
@needs_postgres
def test_three_hosts_of_which_one_is_killed_find_the_same_front(
    alone: tuple[Plan, StageRecord], settings: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share no more than a store on S3 and a server of Prefect on PostgreSQL."""
    plan, final = alone
    folder, hosts = tmp_path / "prefect", list[Host]()

    def kill_one() -> None:
        """Kill a host that trains a structure."""
        wait_for("structures", lambda: runs_named("structures r1"))
        wait_for("a host at work", lambda: next((host for host in hosts if host.works()), None)).kill()

    with serve_postgres() as database, serve_bucket(tmp_path / "s3", "hosts"), ThreadPoolExecutor(1) as thread:
        monkeypatch.setenv("DATABASE", database.url)
        try:
            url = services.start_server(folder, *free_ports(1))
            services.deploy(folder, url)
            with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                hosts += [Host(tmp_path / name, url) for name in ("one", "two", "three")]
                killed = thread.submit(contextvars.copy_context().run, kill_one)
                own = presets.load_preset(str(settings), ["executor=work_pool", "lease_seconds=6"])
                there = open_plan(own, upload(tiny_data, "s3://hosts"), "s3://hosts/store")
                summary = spnas(own, there.data.url, there.store.url)
                killed.result()
                ended = [run.state.name for run in runs_named("structures") if run.state]
            assert ended.count("Crashed") == 1
            assert there.keys == plan.keys
            assert read_stage(there.store, there.keys["full_train"]) == final
        finally:
            for host in hosts:
                if host.process.poll() is None:
                    host.kill()
            services.down(folder)
    assert summary["fronts"] == json.loads((Path(plan.store.local or "") / "runs" / "smoke" / "summary.json").read_text())["fronts"]
