"""A search whose processes are all killed, again and again, and that is started again each time, ends as one that was left alone."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows import presets
from spnas_core.plan import STAGE_NAMES, open_plan
from spnas_core.stages import read_stage

pytestmark = [pytest.mark.training, pytest.mark.skipif(sys.platform != "linux", reason="workers die with the flow by prctl")]
SCRIPT = Path(__file__).with_name("searching.py")
EPOCHS, INTERVAL = 100, 0.3  # of every training; seconds between checkpoints
PATIENCE = 240.0  # seconds without an end after which a search counts as hung
KINDS = {"start", "compile", "checkpoint", "epoch", "done"}
Event = dict[str, Any]


class Search:
    """One process group that searches, and what its jobs have said so far."""

    def __init__(self, settings: Path, data: Path, store: Path, log: Path) -> None:
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


def outcome(settings: Path, data: Path, store: Path) -> dict[str, Any]:
    """All that a search leaves, but for times: stages and Pareto fronts as text, and the sha256 of what its jobs left."""
    plan = open_plan(presets.load(str(settings)), str(data), str(store))
    stages = {name: read_stage(plan.store, plan.keys[name]).model_dump_json() for name in STAGE_NAMES}
    fronts = {name: plan.store.fetch("stage", plan.keys[name], "pareto.json").read_text() for name in STAGE_NAMES}
    files = {}
    for kind in ("train", "reignite", "evaluate"):
        for folder in sorted((store / kind).iterdir()):
            manifest = plan.store.find(kind, folder.name)
            assert manifest, folder
            files |= {(kind, folder.name, name): one.sha256 for name, one in manifest.files.items() if name != "history.json"}
    return {"stages": stages, "fronts": fronts, "files": files}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke preset with trainings that are long enough to be killed."""
    whole = presets.load("smoke").model_dump(mode="json") | {"checkpoint_seconds": INTERVAL}
    for recipe in (whole["fine_tune"], whole["full_train"], whole["serial"]["recipe"], whole["parallel"]["recipe"], whole["reignite"]):
        recipe["epochs"] = EPOCHS
    path = tmp_path_factory.mktemp("kills") / "settings.yml"
    path.write_text(yaml.safe_dump(whole))
    return path


@pytest.fixture(scope="module")
def undisturbed(settings: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Event]]:
    """What a search leaves that nobody kills, and its events."""
    folder = tmp_path_factory.mktemp("undisturbed")
    search = Search(settings, tiny_data, folder / "store", folder / "log")
    assert search.process.wait(PATIENCE) == 0
    return outcome(settings, tiny_data, folder / "store"), search.events()


@pytest.mark.parametrize(("kills", "kinds"), [(2, {"checkpoint"}), pytest.param(20, KINDS, marks=pytest.mark.long)])
def test_a_killed_search_ends_as_one_left_alone(
    settings: Path, tiny_data: Path, undisturbed: tuple[dict[str, Any], list[Event]], tmp_path: Path, kills: int, kinds: set[str]
) -> None:
    """Kills are spread over all stages: as a job says that it starts, compiles, trains, saves a checkpoint or has ended, or a bit later.

    Work redone is counted in steps: a training goes on from its last checkpoint, and between two checkpoints lies one interval.
    """
    expected, events = undisturbed
    rng = np.random.default_rng(kills)
    moments = list(dict.fromkeys((event["label"], event["event"]) for event in events if event["event"] in kinds))
    chosen = [moments[int(place)] for place in np.linspace(0, len(moments) - 1, kills + 2)[1:-1]]
    last: dict[str, int] = {}  # steps at the newest checkpoint of each job
    resumed = done = 0
    for number in itertools.count():
        search = Search(settings, tiny_data, tmp_path / "store", tmp_path / f"log{number}")
        if number < len(chosen) and search.wait_for(*chosen[number]):
            time.sleep(float(rng.random()) * 2 * INTERVAL)
            done += search.process.poll() is None
            search.kill()
        else:
            assert search.process.wait(PATIENCE) == 0
        for event in search.events():
            if event["event"] == "resume":
                assert event["done"] >= last.get(event["label"], 0)
                resumed += 1
            if event["event"] == "checkpoint":
                last[event["label"]] = event["done"]
        if number >= len(chosen):
            break
    assert done >= kills - 1
    assert resumed
    assert outcome(settings, tiny_data, tmp_path / "store") == expected
