"""The watch over data sets: what is new or has changed is searched on, once; what is unchanged is left alone."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faulty import FaultyFileSystem
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
from prefect_client import prefect, read_run, runs_named, wait_for
from pydantic import ValidationError

from flows import services
from flows.research import WatchedData, watch
from spnas_core.errors import StoreError, UserError
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import read_stage
from spnas_core.run.register import announce_run
from spnas_core.search.ledger import winner
from spnas_core.settings.run import Run
from spnas_core.store import retries

pytestmark = pytest.mark.training


@pytest.fixture
def parked(prefect_up: str) -> Iterator[None]:
    """Runs that are started wait, and are deleted in the end: no worker may take them."""
    with get_client(sync_client=True) as client:
        client.update_work_pool(services.FLOWS, WorkPoolUpdate(is_paused=True))
        before = {run.id for run in client.read_flow_runs()}
        yield
        for run in client.read_flow_runs():
            if run.id not in before:
                client.delete_flow_run(run.id)
        client.update_work_pool(services.FLOWS, WorkPoolUpdate(is_paused=False))


def annotations(data: Path) -> Path:
    return data / "annotations" / "instances_train.json"


def change(data: Path) -> None:
    """Take one box away."""
    path = annotations(data)
    document = json.loads(path.read_text())
    del document["annotations"][0]
    path.write_text(json.dumps(document))


def searches() -> list[Any]:
    """Runs that the watch has started."""
    with get_client(sync_client=True) as client:
        return [run for run in client.read_flow_runs() if "watch" in run.tags]


def test_new_unchanged_and_changed_data(parked: None, tiny_data: Path, tmp_path: Path) -> None:
    sets, store = tmp_path / "sets", (tmp_path / "store").as_uri()
    for name in ("cells", "Cells 2"):
        shutil.copytree(tiny_data, sets / name)
    (sets / "notes").mkdir()
    cells, others = str(sets / "cells"), str(sets / "Cells 2")
    first = watch(store, str(sets), settings="smoke")
    assert list(first) == [others, cells]
    assert all(text.startswith("new: run cells-") for text in first.values())
    assert {run.parameters["name"] for run in searches()} == {text.split()[2] for text in first.values()}
    begun = time.monotonic()
    again = watch(store, str(sets), settings="smoke")
    assert time.monotonic() - begun < 5
    assert again[cells] == f"unchanged since run {first[cells].split()[2]}"
    assert len(searches()) == 2

    change(sets / "cells")
    changed = watch(store, str(sets), settings="smoke")
    assert changed[cells].startswith("changed: run cells-")
    assert changed[others].startswith("unchanged")
    assert len(searches()) == 3
    (record,) = [path for path in (tmp_path / "store" / "watch").iterdir() if json.loads(path.read_text())["url"] == cells]
    assert json.loads(record.read_text())["before"] == [first[cells].split()[2]]
    only, documents = (WatchedData(url=cells, settings="smoke"),), [annotations(path).read_bytes() for path in (tiny_data, sets / "cells")]
    started = {one[cells].split()[-1] for one in (first, changed)}
    for number, document in enumerate(documents, start=1):  # as it was at first, and as it was after that: each time it has changed
        annotations(sets / "cells").write_bytes(document)
        back = watch(store, data=only)[cells]
        assert back.startswith("changed: run cells-")
        started.add(back.split()[-1])
        assert len(started) == 2 + number
    assert watch(store, data=only)[cells].startswith("unchanged")
    assert len(searches()) == 5
    record.unlink()
    assert watch(store, data=only)[cells].split()[-1] == changed[cells].split()[-1]  # the same run
    assert len(searches()) == 5


def test_a_data_set_that_cannot_be_read_is_named_and_keeps_nobody_else_waiting(parked: None, tiny_data: Path, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    for name in ("broken", "whole"):
        shutil.copytree(tiny_data, sets / name)
    (sets / "broken" / "images" / "train_0.png").unlink()
    with pytest.raises(UserError, match=r"train_0\.png") as caught:
        watch((tmp_path / "store").as_uri(), str(sets), settings="smoke")
    assert "\n" not in str(caught.value)
    assert [run.parameters["data"] for run in searches()] == [str(sets / "whole")]
    with pytest.raises(UserError, match="expected at least one data set"):
        watch((tmp_path / "store").as_uri(), str(tmp_path / "nowhere"))


def test_trouble_of_any_kind_with_one_data_set_is_told_in_the_end(
    parked: None, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lies in a store that does not answer, of one the record is broken; the last is searched on."""
    sets, store = tmp_path / "sets", tmp_path / "store"
    broken, whole = (str(shutil.copytree(tiny_data, sets / name)) for name in ("broken", "whole"))
    watch(store.as_uri(), data=(WatchedData(url=broken),), settings="smoke")
    (record,) = (store / "watch").iterdir()
    record.write_text("{")
    FaultyFileSystem.begin(0, 1.0)
    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=lambda _: None))
    data = tuple(WatchedData(url=url) for url in ("faulty://bucket/set", broken, whole))
    with pytest.raises(ExceptionGroup, match=r"faulty://bucket/set: not looked at: .*faulty(?s:.*)broken: not looked at: .*JSON") as caught:
        watch(store.as_uri(), data=data, settings="smoke")
    assert [type(error) for error in caught.value.exceptions] == [StoreError, ValidationError]
    assert {run.parameters["data"] for run in searches()} == {whole, broken}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": ("AP", "latency_ms")}, "from the start net, since the ledger of {} has no latency_ms"),
        (
            {"arch": "r_1111-2112", "space": {"block_types": ("r",)}},
            "from the start net, since the best of {} does not fit: .*block type 'b'",
        ),
    ],
)
def test_a_warm_search_whose_settings_the_last_best_net_does_not_fit_is_a_cold_one(
    parked: None, finished_copy: Plan, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    data, plan = Path(shutil.copytree(finished_copy.data.url, tmp_path / "cells")), finished_copy
    name = watch(plan.store.url, data=(WatchedData(url=str(data), settings=plan.settings),))[str(data)].split()[2]
    announce_run(open_plan(plan.settings.model_copy(update={"name": name}), plan.data.url, plan.store.url))
    change(data)
    asked = Run.model_validate({**plan.settings.model_dump(), **changes})
    after = watch(plan.store.url, data=(WatchedData(url=str(data), settings=asked),), warm=True)[str(data)]
    assert re.search(words.format(name), after)
    (run,) = [run for run in searches() if run.parameters["name"] == after.split()[2]]
    assert Run.model_validate(run.parameters["settings"]) == asked


def test_a_warm_search_starts_from_the_best_serial_net_of_the_last_one(parked: None, finished_copy: Plan, tmp_path: Path) -> None:
    data, plan = Path(shutil.copytree(finished_copy.data.url, tmp_path / "cells")), finished_copy
    watched = (WatchedData(url=str(data), settings=plan.settings),)
    before = watch(plan.store.url, data=watched, warm=True)[str(data)]
    assert "from the best net" not in before
    name = before.split()[2]
    announce_run(open_plan(plan.settings.model_copy(update={"name": name}), plan.data.url, plan.store.url))
    change(data)
    after = watch(plan.store.url, data=watched, warm=True)[str(data)]
    assert f"from the best net of {name}" in after
    (run,) = [run for run in searches() if run.parameters["name"] == after.split()[2]]
    settings = Run.model_validate(run.parameters["settings"])
    ledger = read_stage(plan.store, plan.keys["parallel"]).ledger
    best = winner([trial for trial in ledger if trial.stage != "parallel"])
    assert (settings.arch, settings.checkpoint) == (best.arch, f"{plan.store.url}/train/{best.digest}/weights.safetensors")
    assert (
        open_plan(settings, str(data), plan.store.url).train(settings.arch, settings.detector, settings.fine_tune).checkpoint
        == settings.checkpoint
    )


@pytest.mark.long
def test_an_event_starts_a_search(prefect_up: str, finished_copy: Plan, tmp_path: Path) -> None:
    """A real event, emitted by the command line, the automation of prefect.yaml, and two runs by a worker; all is in the store already."""
    plan = finished_copy
    data = shutil.copytree(plan.data.url, tmp_path / "Event")
    with get_client(sync_client=True) as client:
        nightly = client.read_deployment_by_name("spnas-watch/nightly")
        assert [one.active for one in nightly.schedules] == [False]
        client.update_deployment(nightly.id, DeploymentUpdate(parameters={"store": plan.store.url, "settings": "smoke"}))
    payload = json.dumps({"data": str(data)})
    assert prefect(prefect_up, "event", "emit", "spnas.data.changed", "--resource-id", "spnas.data.x", "--payload", payload).returncode == 0
    (search,) = wait_for("search", lambda: runs_named("event-"), 60)
    assert wait_for("end", lambda: (run := read_run(search.id)).state.is_final() and run, 60).state.name == "Completed"
    assert json.loads((Path(plan.store.local or "") / "runs" / search.parameters["name"] / "summary.json").read_text())["trials"] == 4
