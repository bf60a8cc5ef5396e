"""A search whose processes are all killed, again and again, and that is started again each time, ends as one that was left alone.

Of either task: a detector, or a net of segmentation. The sha256 of all weights is the same, and so are ledgers and Pareto fronts.
So does one whose store, a real S3 server, is killed too, and started again while the search goes on.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from command_line import SPNAS
from nets import smoke_document
from s3_server import S3Server, serve_bucket

from flows import presets
from spnas_core.monitor.inventory import take_inventory
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord, read_stage
from spnas_core.settings.run import STAGE_NAMES
from spnas_core.settings.task import TaskName
from spnas_core.store.artifacts import Store
from spnas_core.store.storage import sha256_file

pytestmark = [pytest.mark.training, pytest.mark.skipif(sys.platform != "linux", reason="workers die with the flow by prctl")]
SCRIPT, HOOKS = Path(__file__).with_name("searching.py"), Path(__file__).with_name("hooks")
STEPS, INTERVAL = 2, 0.3  # of an epoch; seconds between checkpoints
PATIENCE = 900.0  # seconds without an end after which a search counts as hung
KINDS = {"start", "compile", "checkpoint", "epoch", "writing", "done"}
Event = dict[str, Any]
Moment = tuple[str, str]  # label and event


class Search:
    """One process group that searches, and what its jobs have said so far."""

    def __init__(self, settings: Path, data: Path, store: str, log: Path, pause: str = "") -> None:
        self.log = log
        words = [sys.executable, SCRIPT, settings, data, store, log]
        paths = os.pathsep.join([str(HOOKS), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "SEARCH_LOG": str(log), "SEARCH_PAUSE": pause}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([str(word) for word in words], start_new_session=True, env=environment, **quiet)

    def events(self) -> list[Event]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for(self, moments: Collection[Moment]) -> Moment:
        """Wait until one of these is there, and return it."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            if found := next((moment for event in self.events() if (moment := (event["label"], event["event"])) in moments), None):
                return found
            time.sleep(0.02)
        self.kill()
        return pytest.fail(f"none of {moments} within {PATIENCE} s: {self.events()[-5:]}")

    def finish(self) -> None:
        """Wait for its end."""
        try:
            assert self.process.wait(PATIENCE) == 0
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"no end within {PATIENCE} s: {self.events()[-5:]}")

    def stage(self, moment: Moment) -> str:
        """Stage of the moment's job, or of the one that spoke last; that of the final nets' evaluations is full_train."""
        spoken = [event["label"] for event in self.events() if event["event"] not in ("line", "done")] + [moment[0]]
        word = next((label.split()[0] for label in reversed(spoken) if " " in label), "")
        return "full_train" if word == "evaluate" else word

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def outcome(plan: Plan) -> dict[str, Any]:
    """All that a search leaves, but for times: stages and Pareto fronts as text, and the sha256 of what its jobs left."""
    stages = {name: read_stage(plan.store, plan.keys[name]).model_dump_json() for name in STAGE_NAMES}
    fronts = {name: plan.store.fetch("stage", plan.keys[name], "pareto.json").read_text() for name in STAGE_NAMES}
    files = {}
    for name, artifact in take_inventory(plan.store).artifacts.items():
        assert artifact.manifest, (name, artifact.fault)
        if artifact.manifest.kind != "stage":
            files |= {(name, file): one.sha256 for file, one in artifact.manifest.files.items() if file != "history.json"}
    return {"stages": stages, "fronts": fronts, "files": files}


class Redone:
    """Counts the steps that each training did again after a kill, and the widest gap between two checkpoints that were saved."""

    def __init__(self) -> None:
        self.steps: list[int] = []  # one number per training that was killed in its middle
        self.resumed = self.widest = 0
        self._saved: dict[str, int] = {}  # steps at the newest checkpoint of each job
        self._done: dict[str, int] = {}  # steps that it was seen to have done
        self._ended: set[str] = set()

    def follow(self, events: list[Event]) -> None:
        """Read the events of one start of the search, in their order."""
        for event in events:
            label = event["label"]
            if event["event"] in ("epoch", "step"):
                self._done[label] = (event["epoch"] - 1) * STEPS + event.get("step", STEPS)
            if event["event"] == "done":
                self._ended.add(label)
            if event["event"] in ("resume", "compile"):  # "compile": from its first step
                begun = event.get("done", 0)
                assert label not in self._ended, f"{label} is done twice"
                assert begun >= self._saved.get(label, 0), f"{label} starts over in spite of its checkpoint"
                if label in self._done:
                    self.steps.append(max(0, self._done[label] - begun))
                self.resumed += bool(begun)
            if event["event"] == "checkpoint":
                self.widest = max(self.widest, event["done"] - self._saved.get(label, 0))
                self._saved[label] = event["done"]


class Case(NamedTuple):
    """What is searched: a file of settings, and a data set."""

    settings: Path
    data: Path

    def plan(self, store: str) -> Plan:
        return open_plan(presets.load_preset(str(self.settings)), str(self.data), store)


def write_settings(folder: Path, interval: float, epochs: int, task: TaskName) -> Path:
    """Write the smoke preset with so many seconds between two checkpoints, and so many epochs of each training."""
    whole = smoke_document(task) | {"checkpoint_seconds": interval}
    for recipe in (whole["fine_tune"], whole["full_train"], whole["serial"]["recipe"], whole["parallel"]["recipe"], whole["reignite"]):
        recipe["epochs"] = epochs
    path = folder / "settings.yml"
    path.write_text(yaml.safe_dump(whole))
    return path


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The smoke preset with trainings that are long enough to be killed at any moment: `request.param` is the task, and their epochs."""
    task, epochs = request.param
    data = request.getfixturevalue("tiny_data" if task == "detection" else "tiny_masks")
    return Case(write_settings(tmp_path_factory.mktemp("kills"), INTERVAL, epochs, task), data)


@pytest.fixture(scope="module")
def undisturbed(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Event]]:
    """What a search leaves that nobody kills, and its events."""
    folder = tmp_path_factory.mktemp("undisturbed")
    search = Search(case.settings, case.data, str(folder / "store"), folder / "log")
    search.finish()
    return outcome(case.plan(str(folder / "store"))), search.events()


@pytest.fixture(params=["detection", "segmentation"])
def ended(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Plan, Case]:
    """The plan of a finished run of the smoke preset, of either task, and how to search it again with a checkpoint at every step."""
    task = request.param
    case = Case(write_settings(tmp_path, 0.001, 1, task), request.getfixturevalue("tiny_data" if task == "detection" else "tiny_masks"))
    if task == "detection":
        return request.getfixturevalue("finished")[0], case
    store = str(tmp_path / "ended")
    search = Search(case.settings, case.data, store, tmp_path / "log of the first")
    search.finish()
    return case.plan(store), case


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    """An S3 server with an empty bucket, for one test alone: it will be killed."""
    with serve_bucket(tmp_path / "s3", "kills") as server:
        yield server


def test_a_killed_search_ends_as_one_left_alone(ended: tuple[Plan, Case], tmp_path: Path) -> None:
    """One kill when the first of two steps is in a checkpoint, one when the files of a training are written and their manifest is not.

    The store has what needs no training again: the start net, the reignition, the full trainings.
    """
    plan, case = ended
    expected, redone = outcome(plan), Redone()
    *_, serial, parallel = (_, *candidates) = read_stage(plan.store, plan.keys["parallel"]).ledger
    folder = Path(shutil.copytree(plan.store.local or "", tmp_path / "store"))
    for name in (*(f"train/{one.digest}" for one in candidates), *(f"stage/{plan.keys[stage]}" for stage in STAGE_NAMES[1:])):
        shutil.rmtree(folder / name)
    store = str(folder)
    for number, moment in enumerate(((f"checkpoints/train/{serial.digest}", "written"), (f"train/{parallel.digest}", "writing"))):
        search = Search(case.settings, case.data, store, tmp_path / f"log{number}", " ".join(moment))
        assert search.wait_for([moment]) == moment
        search.kill()
        redone.follow(search.events())
    last = Search(case.settings, case.data, store, tmp_path / "log")
    last.finish()
    redone.follow(last.events())
    assert redone.resumed >= 2  # and what was trained beside the first
    assert redone.steps
    assert max(redone.steps) <= redone.widest
    assert outcome(case.plan(store)) == expected


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "kills", "deaths", "kinds"),
    [
        (("detection", 40), 2, 0, {"checkpoint", "writing"}),
        (("detection", 100), 3, 2, {"checkpoint"}),
        (("detection", 100), 20, 0, KINDS),
        (("detection", 100), 20, 2, KINDS),
        (("segmentation", 40), 10, 0, KINDS),
    ],
    indirect=["case"],
)
def test_a_search_that_is_killed_anywhere_ends_as_one_left_alone(
    case: Case,
    undisturbed: tuple[dict[str, Any], list[Event]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kills: int,
    deaths: int,
    kinds: set[str],
) -> None:
    """Kills are spread over all stages: as a job says that it starts, compiles, trains, saves a checkpoint or has ended, or a bit later.

    Every second one is between the files and the manifest of a checkpoint, an artifact or a stage's record, where the search waits for it.
    A moment that has passed already is made up for by the next one.
    With `deaths`, the store is on S3, and its server is killed so often in between, and back a second later: the search waits for it.
    Work redone is counted in steps: of each training that a kill hits, at most those between two checkpoints.
    """
    expected, events = undisturbed
    server = request.getfixturevalue("server") if deaths else None
    store = "s3://kills/store" if deaths else str(tmp_path / "store")
    rng = np.random.default_rng(kills)
    moments = list(dict.fromkeys((event["label"], event["event"]) for event in events if event["event"] in kinds))
    places = [int(place) for place in np.linspace(0, len(moments) - 1, kills + deaths + 2)[1:-1]]
    for number in range(1, len(places), 2) if "writing" in kinds else ():
        places[number] = next(place for place in range(places[number], len(moments)) if moments[place][1] == "writing")
    fatal = set(np.linspace(0, len(places) - 1, deaths + 2).astype(int)[1:-1].tolist())  # of the server
    redone, search = Redone(), None
    stages: list[str] = []  # of the kills
    half: list[str] = []  # what was half-written at a kill
    for number, place in enumerate(places):
        if search is None:
            label, kind = moments[next(places[n] for n in range(number, len(places)) if n not in fatal)]
            pause = f"{label} {kind}" if kind == "writing" else ""
            search = Search(case.settings, case.data, store, tmp_path / f"log{number}", pause)
        moment = search.wait_for(moments[place:])
        if number in fatal:
            server.kill()
            time.sleep(1.0)
            assert search.process.poll() is None
            server.start()
            continue
        if " ".join(moment) == pause:
            half.append(moment[0])
        else:
            time.sleep(float(rng.random()) * 2 * INTERVAL)
        assert search.process.poll() is None
        search.kill()
        stages.append(search.stage(moment))
        redone.follow(search.events())
        search = None
    last = Search(case.settings, case.data, store, tmp_path / "log")
    last.finish()
    redone.follow(last.events())
    print(f"{redone.resumed} trainings went on, {redone.steps} steps again, at most {redone.widest} between checkpoints")
    print(f"kills in {stages}, half-written: {half}")
    assert len(stages) == kills
    assert redone.resumed
    assert max(redone.steps) <= redone.widest
    if kinds == KINDS:
        assert set(stages) >= set(STAGE_NAMES)
        assert {label.split("/")[0] for label in half} >= {"checkpoints", "train"}
    assert outcome(case.plan(store)) == expected


@pytest.mark.long
@pytest.mark.parametrize("case", [("detection", 40)], indirect=True)
@pytest.mark.parametrize("command", ["resume", "extend"])
def test_the_commands_take_a_killed_search_on(
    case: Case, undisturbed: tuple[dict[str, Any], list[Event]], tmp_path: Path, command: str
) -> None:
    """`spnas resume NAME` ends as the search would have; `spnas extend NAME` keeps all of its rounds, and adds one."""
    expected, events = undisturbed
    label = next(event["label"] for event in events if event["label"].startswith("serial r1 c1 "))
    store = str(tmp_path / "store")
    search = Search(case.settings, case.data, store, tmp_path / "log")
    search.wait_for([(label, "checkpoint")])
    search.kill()
    assert not [event for event in search.events() if (event["label"], event["event"]) == (label, "done")]
    words = [*SPNAS, command, "smoke", "--store", store, "--json"]
    more = ["--rounds", "1"] if command == "extend" else []
    ended = subprocess.run([*words, *more], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert f"{label}: compile" not in ended.stderr  # it goes on from its checkpoint
    assert "fine_tune b_1111-2111: compile" not in ended.stderr
    assert re.search(r"parallel r1 c1 \S+: compile", ended.stderr)
    if command == "resume":
        assert outcome(case.plan(store)) == expected
        return
    found = read_stage(Store(store), json.loads(ended.stdout)["key"]).ledger
    before = [one for one in StageRecord.model_validate_json(expected["stages"]["full_train"]).ledger if one.stage != "parallel"]
    assert list(found[: len(before)]) == before
    assert [(one.stage, one.round) for one in found[len(before) :]] == [("serial", 2), ("serial", 2), ("parallel", 1)]
    for one in before:
        weights = Store(store).fetch("train", one.digest, "weights.safetensors")
        assert sha256_file(weights) == expected["files"][f"train/{one.digest}", "weights.safetensors"]
