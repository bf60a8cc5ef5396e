"""A search whose processes are all killed, again and again, and that is started again each time, ends as one that was left alone.

So does one whose store, a real S3 server, is killed too, and started again while the search goes on.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from s3_server import KEYS, S3Server

from flows import presets
from spnas_core.inventory import take_inventory
from spnas_core.plan import STAGE_NAMES, open_plan
from spnas_core.stages import read_stage

pytestmark = [pytest.mark.training, pytest.mark.skipif(sys.platform != "linux", reason="workers die with the flow by prctl")]
SCRIPT = Path(__file__).with_name("searching.py")
STEPS, INTERVAL = 2, 0.3  # of an epoch; seconds between checkpoints
PATIENCE = 240.0  # seconds without an end after which a search counts as hung
KINDS = {"start", "compile", "checkpoint", "epoch", "done"}
Event = dict[str, Any]


class Search:
    """One process group that searches, and what its jobs have said so far."""

    def __init__(self, settings: Path, data: Path, store: str, log: Path) -> None:
        self.log = log
        words = [sys.executable, SCRIPT, settings, data, store, log]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([str(word) for word in words], start_new_session=True, **quiet)

    def events(self) -> list[Event]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for(self, label: str, kind: str) -> bool:
        """Wait until a job has said so; False where the search comes to its end before."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if any((event["label"], event["event"]) == (label, kind) for event in self.events()):
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.02)
        self.kill()
        return pytest.fail(f"no {kind} of {label} within {PATIENCE} s: {self.events()[-5:]}")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def outcome(settings: Path, data: Path, store: str) -> dict[str, Any]:
    """All that a search leaves, but for times: stages and Pareto fronts as text, and the sha256 of what its jobs left."""
    plan = open_plan(presets.load(str(settings)), str(data), store)
    stages = {name: read_stage(plan.store, plan.keys[name]).model_dump_json() for name in STAGE_NAMES}
    fronts = {name: plan.store.fetch("stage", plan.keys[name], "pareto.json").read_text() for name in STAGE_NAMES}
    files = {}
    for name, artifact in take_inventory(plan.store).artifacts.items():
        assert artifact.manifest, (name, artifact.fault)
        if artifact.manifest.kind != "stage":
            files |= {(name, file): one.sha256 for file, one in artifact.manifest.files.items() if file != "history.json"}
    return {"stages": stages, "fronts": fronts, "files": files}


class Redone:
    """Counts the steps that jobs did again after a kill, and the widest gap between two checkpoints that were saved."""

    def __init__(self) -> None:
        self.resumed = self.steps = self.widest = 0
        self._saved: dict[str, int] = {}  # steps at the newest checkpoint of each job
        self._done: dict[str, int] = {}  # steps that it was seen to have done

    def follow(self, events: list[Event]) -> None:
        """Read the events of one start of the search, in their order."""
        for event in events:
            label = event["label"]
            if event["event"] == "epoch":
                self._done[label] = event["epoch"] * STEPS
            if event["event"] == "resume":
                assert event["done"] >= self._saved.get(label, 0)
                self.steps += max(0, self._done.get(label, 0) - event["done"])
                self.resumed += 1
            if event["event"] == "checkpoint":
                self.widest = max(self.widest, event["done"] - self._saved.get(label, 0))
                self._saved[label] = event["done"]


@pytest.fixture(scope="module")
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke preset with trainings that are long enough to be killed: of `request.param` epochs."""
    whole = presets.load("smoke").model_dump(mode="json") | {"checkpoint_seconds": INTERVAL}
    for recipe in (whole["fine_tune"], whole["full_train"], whole["serial"]["recipe"], whole["parallel"]["recipe"], whole["reignite"]):
        recipe["epochs"] = request.param
    path = tmp_path_factory.mktemp("kills") / "settings.yml"
    path.write_text(yaml.safe_dump(whole))
    return path


@pytest.fixture(scope="module")
def undisturbed(settings: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Event]]:
    """What a search leaves that nobody kills, and its events."""
    folder = tmp_path_factory.mktemp("undisturbed")
    search = Search(settings, tiny_data, str(folder / "store"), folder / "log")
    assert search.process.wait(PATIENCE) == 0
    return outcome(settings, tiny_data, str(folder / "store")), search.events()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server with an empty bucket, for one test alone: it will be killed."""
    import s3fs

    server = S3Server(tmp_path / "s3")
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server.endpoint}.items():
        monkeypatch.setenv(name, value)
    try:
        server.start()
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("kills")
        yield server
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("settings", "kills", "deaths", "kinds"),
    [
        (40, 2, 0, {"checkpoint"}),
        pytest.param(100, 3, 2, {"checkpoint"}, marks=pytest.mark.long),
        pytest.param(100, 20, 0, KINDS, marks=pytest.mark.long),
        pytest.param(100, 20, 2, KINDS, marks=pytest.mark.long),
    ],
    indirect=["settings"],
)
def test_a_killed_search_ends_as_one_left_alone(
    settings: Path,
    tiny_data: Path,
    undisturbed: tuple[dict[str, Any], list[Event]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kills: int,
    deaths: int,
    kinds: set[str],
) -> None:
    """Kills are spread over all stages: as a job says that it starts, compiles, trains, saves a checkpoint or has ended, or a bit later.

    With `deaths`, the store is on S3, and its server is killed so often in between, and back a second later: the search waits for it.
    Work redone is counted in steps: of each job at most those between two checkpoints, per kill.
    """
    expected, events = undisturbed
    server = request.getfixturevalue("server") if deaths else None
    store = "s3://kills/store" if deaths else str(tmp_path / "store")
    rng = np.random.default_rng(kills)
    moments = list(dict.fromkeys((event["label"], event["event"]) for event in events if event["event"] in kinds))
    chosen = [moments[int(place)] for place in np.linspace(0, len(moments) - 1, kills + deaths + 2)[1:-1]]
    fatal = set(np.linspace(0, len(chosen) - 1, deaths + 2).astype(int)[1:-1].tolist())  # of the server
    redone, done, died, number = Redone(), 0, 0, 0
    while number <= len(chosen):
        search = Search(settings, tiny_data, store, tmp_path / f"log{number}")
        while number in fatal and search.wait_for(*chosen[number]):
            server.kill()
            time.sleep(1.0)
            assert search.process.poll() is None
            server.start()
            died, number = died + 1, number + 1
        if number < len(chosen) and search.wait_for(*chosen[number]):
            time.sleep(float(rng.random()) * 2 * INTERVAL)
            done += search.process.poll() is None
            search.kill()
        else:
            assert search.process.wait(PATIENCE) == 0
        redone.follow(search.events())
        number += 1
    print(f"{done} kills, {redone.resumed} jobs went on, {redone.steps} steps again, at most {redone.widest} between checkpoints")
    assert done >= kills - 1
    assert died == deaths
    assert redone.resumed
    assert redone.steps <= redone.resumed * redone.widest
    assert outcome(settings, tiny_data, store) == expected
