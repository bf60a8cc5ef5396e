import contextlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from trials import trial_of
from typer.testing import CliRunner

from flows.cli.app import app
from spnas_core.errors import UserError
from spnas_core.job import Data
from spnas_core.monitor.housekeeping import garbage
from spnas_core.monitor.inventory import take_inventory
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord, newest_round, publish_stage
from spnas_core.run.register import announce_run, read_run
from spnas_core.settings.run import Run
from spnas_core.store.artifacts import Store

LEFT = {"report.md": b"# Run", "trials.csv": b"1,2", "model/model.json": b"{}", "model/weights.safetensors": b"w" * 1000}


def plan_of(store: Store, **settings: Any) -> Plan:
    return Plan(Run(name="mine", **settings), store, Data(url="/data", fingerprint="f" * 64), 1)


def leave(plan: Plan) -> dict[str, bytes]:
    """Begin a run and leave what it has at its end; returns all its files."""
    announce_run(plan)
    for path, content in LEFT.items():
        plan.store.write(f"runs/mine/{path}", content)
    return files(plan.store, "mine")


def files(store: Store, name: str) -> dict[str, bytes]:
    return {path: store.read(f"runs/{name}/{path}") for path in store.files(f"runs/{name}")}


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Store:
    return Store(store_url, tmp_path / "cache", delays=())


def test_a_run_begun_again_is_the_same(store: Store) -> None:
    before = leave(plan_of(store))
    assert before.keys() == {"run.json", "stages.json", *LEFT}
    announce_run(plan_of(store))
    assert files(store, "mine") == before
    announce_run(plan_of(store, devices=(0, 1), threads=4))  # not what the results depend on
    assert files(store, "mine") == before | {"run.json": store.read("runs/mine/run.json")}
    assert read_run(store, "mine").settings.devices == (0, 1)


def test_another_run_of_the_same_name_loses_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, second, third = plan_of(store), plan_of(store, seed=7, threads=5), plan_of(store, serial={"rounds": 9})
    before = leave(first)
    assert "mine-1" not in caplog.text
    announce_run(second)
    assert files(store, "mine-1") == before
    assert files(store, "mine").keys() == {"run.json", "stages.json"}
    assert [m for m in caplog.messages if "mine-1" in m] == [
        f"run 'mine' of {store.url} was another (seed 0, now 7; threads 2, now 5): what it left is now run 'mine-1', nothing is lost"
    ]
    leave(second)
    leave(third)
    leave(first)  # its number is there already, and is used again when the next one comes
    leave(second)
    inventory = take_inventory(store)
    assert list(inventory.runs) == ["mine", "mine-1", "mine-2", "mine-3"]
    found = [json.loads(store.read(f"runs/{name}/stages.json")) for name in inventory.runs]
    assert found == [second.keys, first.keys, second.keys, third.keys]
    assert read_run(store, "mine-1").settings == first.settings.model_copy(update={"name": "mine-1"})
    assert not garbage(inventory, list(inventory.runs))
    assert not store.files("claims")


@pytest.mark.parametrize("writes", range(1, 10))
def test_a_move_that_is_cut_off_loses_nothing(tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"))
    first, second = plan_of(store), plan_of(store, seed=7)
    before, left, write = leave(first), [writes], Store.write

    def cut_off(self: Store, path: str, content: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        write(self, path, content)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):  # at the last of these numbers all is done
        patch.setattr(Store, "write", cut_off)
        announce_run(second)
    announce_run(second)
    assert files(store, "mine-1") == before
    assert json.loads(store.read("runs/mine/stages.json")) == second.keys
    assert list(take_inventory(store).runs) == ["mine", "mine-1"]


def test_two_that_begin_at_once_lose_nothing(tmp_path: Path) -> None:
    plans = [plan_of(Store(str(tmp_path / "store")), seed=seed) for seed in range(4)]
    threads = [threading.Thread(target=announce_run, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = take_inventory(plans[0].store).runs
    keys = [json.loads(plans[0].store.read(f"runs/{name}/stages.json")) for name in names]
    assert sorted(map(str, keys)) == sorted(str(plan.keys) for plan in plans)


def test_a_run_that_is_not_there_or_not_ours_is_one_line(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"expected one of its runs \(there is none\), got 'mine'"):
        read_run(store, "mine")
    leave(plan_of(store))
    for name in ("other", "../mine", "", "mine/model"):
        with pytest.raises(UserError, match=r"expected one of its runs \(mine\), got"):
            read_run(store, name)
    for content in (b"", b"[]", b"{}", b'{"settings": {"seed": -1}, "data": {}}', b"\xff"):
        store.write("runs/mine/run.json", content)
        with pytest.raises(UserError, match=r"runs/mine/run.json: .*expected settings as this version has them, got: .*") as caught:
            read_run(store, "mine")
        assert "\n" not in str(caught.value)
    announce_run(plan_of(store, seed=1))
    assert files(store, "mine-1").keys() == {"run.json", "stages.json", *LEFT}


@pytest.mark.parametrize("command", [["resume", "nope"], ["extend", "nope", "--rounds", "2"], ["extend", "nope", "--rounds", "0"]])
def test_commands_for_a_run_that_is_not_there(command: list[str], tmp_path: Path) -> None:
    found = CliRunner().invoke(app, [*command, "--store", str(tmp_path / "store")])
    assert found.exit_code == 2
    assert "Traceback" not in found.stderr
    assert "expected one of its runs" in found.stderr or "--rounds" in found.stderr


def test_a_search_with_a_supernet_has_no_rounds_to_add_to(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    announce_run(plan_of(store, serial={"evaluator": "supernet"}))
    found = CliRunner().invoke(app, ["extend", "mine", "--rounds", "1", "--store", store.url])
    assert found.exit_code == 2
    assert "run mine: expected a serial search in rounds to add some to, got one with a supernet" in found.stderr


def test_a_search_goes_on_from_its_newest_round(tmp_path: Path) -> None:
    plan = plan_of(Store(str(tmp_path / "store")), serial={"rounds": 5})
    start = StageRecord(
        name="fine_tune", key=plan.keys["fine_tune"], ledger=(trial_of(plan.settings.arch, "fine_tune", 0, 0, None, "a" * 64),)
    )
    assert newest_round(plan, start) == (0, start)
    rounds = [start]
    for number in (1, 2, 3):
        trial = trial_of("b_111-21-21-21_0-0-0-0", "serial", number, 0, "a" * 64, str(number) * 64, failure="timeout")
        until = plan.after(number)
        rounds.append(StageRecord(name="serial", key=until.keys["serial"], ledger=(*rounds[-1].ledger, trial)))
        publish_stage(until, rounds[-1], 1.0)
    assert newest_round(plan, start) == (3, rounds[3])
    assert newest_round(plan.after(2), start) == (2, rounds[2])
    assert newest_round(plan_of(plan.store, serial={"rounds": 5, "n_stuck": 1}), start) == (0, start)
    assert plan.after(5).keys == plan.keys
