"""What trackers are told of a search, and a search whose tracker is away, slow or dies: with a real MLflow server."""

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import SPNAS, spnas
from mlflow_server import MlflowServer

from flows import presets
from spnas_core.errors import UserError
from spnas_core.job import Data
from spnas_core.jobs.progress_file import ProgressFile
from spnas_core.monitor.status import Watcher
from spnas_core.names import HISTORY_FILE
from spnas_core.run.plan import Plan
from spnas_core.run.record import read_stage
from spnas_core.settings.run import Run
from spnas_core.store.artifacts import Store
from spnas_core.track import following
from spnas_core.track.following import catch_up, open_trackers, tracked
from spnas_core.track.mlflow import Mlflow
from spnas_core.track.tracked import TrackedRun
from spnas_core.track.view import SearchView

NAMES = ["smoke", "fine_tune", "serial r1 c1", "serial r1 c2", "reignite", "parallel r1 c1", "full_train final", "full_train start"]
DOCUMENT = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    one = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    one.start()
    yield one
    one.kill()


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an experiment of this test's own."""
    name = uuid.uuid4().hex
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    return name


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Lines of the log about trackers."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("tracker "):
                found.append(record.getMessage())

    handler, log = Keep(), logging.getLogger("spnas_core")
    log.addHandler(handler)
    with caplog.at_level(logging.INFO, "spnas_core"):
        yield found
    log.removeHandler(handler)


@pytest.fixture
def dead() -> str:
    """Address at which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


def short(name: str) -> str:
    return re.sub(r" b_\S+$", "", name)


class Kept:
    """A tracker that keeps what it is told, or breaks."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[TrackedRun] = []
        self.error = error

    def tell(self, run: TrackedRun) -> None:
        if self.error:
            raise self.error
        self.told.append(run)


@pytest.mark.training
def test_a_view_tells_what_the_store_holds(finished: tuple[Plan, dict[str, Any]]) -> None:
    plan, summary = finished
    search, *trainings = SearchView(plan).look("done")
    assert [short(one.name) for one in (search, *trainings)] == NAMES
    assert [one.version for one in SearchView(plan).look("done")] == [one.version for one in (search, *trainings)]
    assert len({one.key for one in (search, *trainings)}) == len(NAMES)
    assert {one.parent for one in trainings} == {search.key}
    ledger = read_stage(plan.store, plan.keys["full_train"]).ledger
    nets = [one for one in trainings if one.parameters["role"] != "reignite"]
    by_place = {(one.parameters["stage"], one.parameters.get("candidate", 1)): one for one in nets}
    for trial in ledger:
        one = by_place[trial.stage, trial.index + 1]
        history = json.loads(plan.store.fetch("train", trial.digest, HISTORY_FILE).read_text())
        assert one.curves["epoch/loss"] == {record["epoch"]: record["loss"] for record in history}
        assert trial.metrics is not None
        assert (one.parameters["arch"], one.scores["AP"], one.scores["macs"]) == (trial.arch, trial.score, trial.metrics["macs"])
        assert one.parameters["macs"] == trial.metrics["macs"]
        assert one.begun is not None
        assert one.ended is not None
        assert one.begun < one.ended
    assert by_place["serial", 2].parameters["mutation"] == "expand: 2 new blocks in stage 1, 2 new blocks in stage 2"
    assert by_place["serial", 2].parameters["parent"] == "start net"
    assert search.curves["trial/AP"] == dict(enumerate(trial.score for trial in ledger))
    final = next(row for row in summary["table"] if row["net"] == "final, test split")
    assert search.scores["final/test/AP"] == final["AP"]
    assert search.files["report.html"].read() == plan.store.read("runs/smoke/report.html")
    assert {"model/weights.safetensors", "model/model.json", "trials.csv"} <= search.files.keys()


@pytest.mark.training
def test_mlflow_shows_a_search_once_however_often_it_is_told(
    finished: tuple[Plan, dict[str, Any]], server: MlflowServer, experiment: str, tmp_path: Path, lines: list[str]
) -> None:
    plan, _ = finished
    catch_up(plan, {"mlflow": Mlflow(server.address)})
    runs = {short(one.info.run_name): one for one in server.runs(experiment)}
    assert sorted(runs) == sorted(NAMES)
    assert {one.info.status for one in runs.values()} == {"FINISHED"}
    search, *trainings = SearchView(plan).look("done")
    assert [runs[short(one.name)].data.tags["mlflow.parentRunId"] for one in trainings] == [runs["smoke"].info.run_id] * 7
    for told in (search, *trainings):
        run = runs[short(told.name)]
        assert run.data.params == {name: str(value) for name, value in told.parameters.items()}
        assert {name: run.data.metrics[name] for name in told.scores} == told.scores
        assert {name: dict(server.curve(run, name)) for name in told.curves} == told.curves
    client = server.client
    for path in ("report.html", "model/weights.safetensors"):
        assert Path(client.download_artifacts(runs["smoke"].info.run_id, path, str(tmp_path))).read_bytes() == search.files[path].read()
    number = runs["serial r1 c1"].info.run_id
    client.set_tag(number, "spnas.version", "of a telling that broke off")
    catch_up(plan, {"mlflow": Mlflow(server.address)})
    again = {short(one.info.run_name): one for one in server.runs(experiment)}
    assert {name: one.info.run_id for name, one in again.items()} == {name: one.info.run_id for name, one in runs.items()}
    assert again["serial r1 c1"].data.tags == runs["serial r1 c1"].data.tags
    for told in trainings:
        assert all(len(server.curve(again[short(told.name)], name)) == len(curve) for name, curve in told.curves.items())
        assert all(len(server.curve(again[short(told.name)], name)) == 1 for name in told.scores)
    assert lines == []


@pytest.mark.training
def test_a_search_that_failed_and_goes_on_has_the_same_runs(
    finished_copy: Plan, server: MlflowServer, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its full training is taken away, and comes back; meanwhile that is half-way."""
    plan, store = finished_copy, finished_copy.store
    assert store.local
    final = next(step for step in Watcher(store, "smoke").steps() if str(step.label).startswith("full_train final"))
    kept = [f"stage/{plan.keys['full_train']}", f"train/{final.key}"]
    for number, folder in enumerate(kept):
        shutil.move(store.local / folder, tmp_path / str(number))
    history = json.loads((tmp_path / "1" / HISTORY_FILE).read_text())
    store.remove(f"logs/train/{final.key}.json")
    half = ProgressFile(Store(store.url), final.job)
    half({"event": "start"})
    half({"event": "epoch", "epochs": 2, "steps": 2, "timing": {}, "loss": history[0]["loss"], "epoch": 1})
    half.close()

    monkeypatch.setattr(following, "LOOKS", 0.1)
    failure, until = ZeroDivisionError(), time.monotonic() + 180
    with contextlib.suppress(ZeroDivisionError), tracked(plan, {"mlflow": Mlflow(server.address)}):
        while time.monotonic() < until and len(server.runs(experiment)) < 7:
            time.sleep(0.2)
        raise failure
    before = {short(one.info.run_name): one for one in server.runs(experiment)}
    failed = {name for name, one in before.items() if one.info.status == "FAILED"}
    assert failed == {"smoke", "full_train final"}
    assert server.curve(before["full_train final"], "epoch/loss") == [(1, history[0]["loss"])]
    assert "AP" not in before["full_train final"].data.metrics

    for number, folder in enumerate(kept):
        shutil.move(tmp_path / str(number), store.local / folder)
    catch_up(plan, {"mlflow": Mlflow(server.address)})
    after = {short(one.info.run_name): one for one in server.runs(experiment)}
    assert sorted(after) == sorted(NAMES)
    assert {one.info.status for one in after.values()} == {"FINISHED"}
    assert {name: after[name].info.run_id for name in before} == {name: one.info.run_id for name, one in before.items()}
    assert server.curve(after["full_train final"], "epoch/loss") == [(one["epoch"], one["loss"]) for one in history]


@pytest.mark.training
def test_a_score_that_changes_is_shown_as_it_is_now(server: MlflowServer, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls, and the clock of the host that says so is behind."""
    run = TrackedRun(key="1", parent="", name="one", state="running", scores={"AP": 0.5})
    Mlflow(server.address).tell(run)
    monkeypatch.setattr("spnas_core.track.mlflow.time", SimpleNamespace(time=lambda: 1e9))
    Mlflow(server.address).tell(replace(run, scores={"AP": 0.4}))
    (found,) = server.runs(experiment)
    assert found.data.metrics == {"AP": 0.4}


@pytest.mark.training
def test_what_a_dead_server_missed_is_sent_when_it_is_back(
    finished: tuple[Plan, dict[str, Any]], tmp_path: Path, experiment: str, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _ = finished
    own = MlflowServer(tmp_path / "server")
    monkeypatch.setattr(following, "LOOKS", 0.2)
    try:
        with tracked(plan, {"mlflow": Mlflow(own.address)}):
            until = time.monotonic() + 180
            while time.monotonic() < until and not lines:
                time.sleep(0.1)
            time.sleep(1)  # of further attempts
            assert len(lines) == 1
            own.start()
            while time.monotonic() < until + 180 and len(own.runs(experiment)) < len(NAMES):
                time.sleep(0.2)
        assert sorted(short(one.info.run_name) for one in own.runs(experiment)) == sorted(NAMES)
        assert {one.info.status for one in own.runs(experiment)} == {"FINISHED"}
        own.kill()
        begun = time.monotonic()
        catch_up(plan, {"mlflow": Mlflow(own.address)})
        assert time.monotonic() - begun < 10
    finally:
        own.kill()
    assert len(lines) == 2
    assert all(re.fullmatch(r"tracker mlflow: expected an answer, got \w+: .*same command is started again", line) for line in lines)


@pytest.mark.training
def test_a_server_that_never_answers_costs_seconds(finished: tuple[Plan, dict[str, Any]], lines: list[str]) -> None:
    plan, _ = finished
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and that is all
        tracker = Mlflow(f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        with tracked(plan, {"mlflow": tracker}, patience=1.0):
            pass
        assert time.monotonic() - begun < 4
    assert len(lines) == 1
    assert "expected to have sent all by now" in lines[0]


@pytest.mark.training
def test_a_tracker_that_breaks_does_not_touch_the_search_or_another_tracker(
    finished: tuple[Plan, dict[str, Any]], lines: list[str]
) -> None:
    plan, _ = finished
    sound, broken = Kept(), Kept(ValueError("refused\nby http://me:secret@host/"))
    with tracked(plan, {"broken": broken, "sound": sound}):
        result = 1
    assert result == 1
    assert sound.told[0].parent == ""
    assert {short(one.name): one.state for one in sound.told} == dict.fromkeys(NAMES, "done")  # the last word on each
    assert [line.split("; ")[0] for line in lines] == ["tracker broken: expected an answer, got ValueError: refused"]


@pytest.mark.training
def test_the_line_hides_a_password(finished: tuple[Plan, dict[str, Any]], lines: list[str]) -> None:
    catch_up(finished[0], {"one": Kept(OSError("no answer from http://me:secret@host/api"))})
    assert "no answer from http://***@host/api" in lines[0]


@pytest.mark.training
def test_the_tracker_of_the_documentation_works(finished: tuple[Plan, dict[str, Any]], tmp_path: Path) -> None:
    plan, _ = finished
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "my_package.py").write_text(source)
    entry = tmp_path / "my_package-1.dist-info"
    entry.mkdir()
    (toml,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert '[project.entry-points."spnas.trackers"]\nlines = "my_package:Lines"' in toml
    (entry / "entry_points.txt").write_text("[spnas.trackers]\nlines = my_package:Lines\n")
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
    path = tmp_path / "told.jsonl"
    settings = plan.settings.model_copy(update={"tracker": {"lines": str(path)}})
    script = (
        "import sys; from spnas_core.run.register import plan_of, read_run; from spnas_core.settings.run import Run; "
        "from spnas_core.store.artifacts import Store; from spnas_core.track.following import catch_up, open_trackers; "
        "store = Store(sys.argv[1]); plan = plan_of(read_run(store, 'smoke'), store); "
        "catch_up(plan, open_trackers(Run.model_validate_json(sys.argv[2])))"
    )
    command = [sys.executable, "-c", script, plan.store.url, settings.model_dump_json()]
    for _ in range(2):
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}, timeout=120)
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [short(one["name"]) for one in told] == NAMES * 2
    assert told[: len(NAMES)] == told[len(NAMES) :]


def test_a_tracker_is_in_no_key(tmp_path: Path) -> None:
    settings = presets.load_preset("smoke")
    plan = Plan(settings, Store(str(tmp_path)), Data(url="/nowhere", fingerprint="0" * 64), 2)
    other = replace(plan, settings=presets.load_preset("smoke", ["tracker.mlflow=http://127.0.0.1:5000"]))
    assert other.settings.tracker == {"mlflow": "http://127.0.0.1:5000"}
    assert other.keys == plan.keys


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("tracker.nobody=x", "tracker: expected one of mlflow, got nobody"),
        ("tracker.mlflow=http://me:secret@host", "expected one without user and password"),
        ("tracker.mlflow=1", "tracker.mlflow: expected a valid string, got 1"),
    ],
)
def test_a_wrong_tracker_is_one_line(setting: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        open_trackers(presets.load_preset("smoke", [setting]))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_plan_names_a_wrong_tracker_beside_all_else(tmp_path: Path) -> None:
    status, _, errors = spnas("plan", "smoke", "--data", tmp_path / "none", "--store", tmp_path / "store", "--set", "tracker.nobody=x")
    first, second = errors.splitlines()
    assert (status, first) == (2, "spnas: tracker: expected one of mlflow, got nobody")
    assert second.startswith(f"{tmp_path}/none: expected")


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, dead: str, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"expected MLflow or its client to be installed"):
        open_trackers(Run(tracker={"mlflow": dead}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead)
    with caplog.at_level(logging.INFO, "spnas_core"):
        assert open_trackers(Run()) == {}
    assert "MLFLOW_TRACKING_URI is set, but MLflow is not installed" in caplog.text


def test_the_environment_names_mlflow_too(monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert open_trackers(Run()) == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead)
    assert list(open_trackers(Run())) == ["mlflow"]


@pytest.mark.long
def test_a_search_whose_server_dies_half_way_has_the_same_ledger(
    finished: tuple[Plan, dict[str, Any]], tmp_path: Path, experiment: str
) -> None:
    """A whole run in a process of its own; the short variants are above."""
    plan, summary = finished
    own, store = MlflowServer(tmp_path / "server"), tmp_path / "store"
    own.start()
    try:
        options = ["--data", plan.data.url, "--store", str(store), "--set", f"tracker.mlflow={own.address}", "--json"]
        process = subprocess.Popen([*SPNAS, "run", "smoke", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 300
        while time.monotonic() < until and not any(one.info.status == "FINISHED" for one in own.runs(experiment)):
            assert process.poll() is None
            time.sleep(0.5)
    finally:
        own.kill()
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0
    found = json.loads(out)
    assert (found["key"], found["table"], found["rounds"]) == (summary["key"], summary["table"], summary["rounds"])
    record = read_stage(Store(str(store)), plan.keys["full_train"])
    assert record == read_stage(plan.store, plan.keys["full_train"])
    assert errors.count("tracker mlflow: expected an answer") == 1
    own.start()
    try:
        subprocess.run([*SPNAS, "resume", "smoke", "--store", str(store)], check=True, capture_output=True, timeout=300)
        assert sorted(short(one.info.run_name) for one in own.runs(experiment)) == sorted(NAMES)
        assert {one.info.status for one in own.runs(experiment)} == {"FINISHED"}
    finally:
        own.kill()
