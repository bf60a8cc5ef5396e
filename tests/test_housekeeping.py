import json
from pathlib import Path
from typing import Any

import pytest
from trials import trial_of
from typer.testing import CliRunner

from flows.cli.app import app
from spnas_core import job as jobs
from spnas_core.errors import UserError
from spnas_core.job import Data, EvaluateJob, ReigniteJob, TrainJob, Weights
from spnas_core.monitor.housekeeping import garbage, needs, verify_artifacts
from spnas_core.monitor.inventory import take_inventory
from spnas_core.names import STAGE_FILE
from spnas_core.run.record import Result, StageRecord
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import STAGE_NAMES
from spnas_core.settings.training import Recipe, Reignite
from spnas_core.store.artifacts import Store
from spnas_core.store.storage import Storage

ARCH = "b_11-21-21-21"
COMMON: dict[str, Any] = {"arch": ARCH, "detector": Detector(), "data": Data(url="file:///somewhere", fingerprint="f" * 8)}


def train(seed: int, *weights: Weights) -> TrainJob:
    return TrainJob(recipe=Recipe(), seed=seed, weights=weights, **COMMON)


def weights_of(job: TrainJob | ReigniteJob) -> Weights:
    return Weights(kind=job.kind, digest=jobs.digest(job), arch=ARCH)


def name_of(job: Any) -> str:
    return f"{job.kind}/{jobs.digest(job)}"


START = train(0)
CHILD = train(1, weights_of(START))
FAILED = train(2, weights_of(START))
REIGNITED = ReigniteJob(recipe=Reignite(), weights=(weights_of(CHILD),), **COMMON)
FINAL = train(3, weights_of(CHILD), weights_of(REIGNITED))
SCORED = EvaluateJob(split="test", weights=(weights_of(FINAL),), **COMMON)
OTHER = train(10, weights_of(START))
STRAY = train(11)


def traces(job: Any) -> list[str]:
    """What a job has left in `logs/train/`."""
    digest = jobs.digest(job)
    return [f"{digest}.txt", f"{digest}.json", f"b_1.{digest}"]


class Filled:
    """A store with the runs `one` and `two`, which share the start net, a training that belongs to none, and rubbish."""

    def __init__(self, tmp_path: Path, url: str) -> None:
        self.store, self.storage, self._out = Store(url, tmp_path / "cache"), Storage(url), tmp_path / "out"
        self._out.mkdir()
        for job in (START, CHILD, REIGNITED, FINAL, SCORED, OTHER, STRAY):
            self.publish(job)
        self.run("one", [START, CHILD, FAILED], FINAL)
        self.run("two", [START, OTHER], OTHER)
        for path in (f"logs/train/{jobs.digest(FAILED)}.txt", f"logs/train/{jobs.digest(STRAY)}.txt", f"results/cache/{name_of(OTHER)}"):
            self.storage.write(path, b"x")
        for digest in (jobs.digest(FAILED), jobs.digest(STRAY)):
            self.storage.write(f"logs/train/{digest}.json", b"{}")
            self.storage.write(f"logs/train/b_1.{digest}/events.out.tfevents.0000000001.1", b"x")
        for path in (
            f"checkpoints/{name_of(FINAL)}/000001/x",
            f"checkpoints/{name_of(FAILED)}/000001/x",
            f"claims/{name_of(FAILED)}/000001",
        ):
            self.storage.write(path, b"x")
        for path in (f"aside/{name_of(START)}.0/x", f"train/.{'0' * 32}.partial/x", "mine/notes.txt"):
            self.storage.write(path, b"x")

    def publish(self, job: Any) -> None:
        (self._out / "weights.safetensors").write_bytes(jobs.digest(job).encode() * 100)
        self.store.publish(job, self._out, {"AP": 0.5}, 1.0)
        (self._out / "weights.safetensors").unlink()

    def run(self, name: str, ledger: list[TrainJob], final: TrainJob, finished: bool = True) -> None:
        """Leave the records of a run's stages."""
        trials = tuple(trial_of(ARCH, "serial", 0, n, None, jobs.digest(job), {"AP": 0.1}) for n, job in enumerate(ledger))
        keys = {stage: f"{name}-{stage}" for stage in STAGE_NAMES}
        for stage in STAGE_NAMES if finished else STAGE_NAMES[:1]:
            reignited = {jobs.digest(CHILD): weights_of(REIGNITED)} if stage == "reignite" and CHILD in ledger else {}
            results = {"final": Result(arch=ARCH, digest=jobs.digest(final), scores={})} if stage == "full_train" else {}
            seen = trials[:1] if stage == "fine_tune" else trials
            record = StageRecord(name=stage, key=keys[stage], ledger=seen, reignited=reignited, results=results)
            (self._out / STAGE_FILE).write_text(record.model_dump_json())
            self.store.publish_record("stage", keys[stage], {"kind": "stage", "name": stage}, self._out, {}, 1.0)
            (self._out / STAGE_FILE).unlink()
        self.storage.write(f"runs/{name}/stages.json", json.dumps(keys).encode())
        self.storage.write(f"runs/{name}/report.md", b"# Run")


@pytest.fixture
def filled(store_url: str, tmp_path: Path) -> Filled:
    return Filled(tmp_path, store_url)


RUBBISH = {f"aside/{name_of(START)}.0", f"checkpoints/{name_of(FINAL)}"}
UNKNOWN = {
    *(name_of(STRAY), *(f"logs/train/{name}" for name in traces(STRAY)), f"train/.{'0' * 32}.partial"),
    *(f"checkpoints/{name_of(FAILED)}", f"claims/{name_of(FAILED)}"),
}


def test_what_is_there_and_why(filled: Filled) -> None:
    inventory = take_inventory(filled.store)
    assert inventory.runs.keys() == inventory.finished == {"one", "two"}
    assert len(inventory.artifacts) == 7 + 10
    assert inventory.artifacts[name_of(FINAL)].sources == (name_of(CHILD), name_of(REIGNITED))
    assert set(inventory.dependants[name_of(CHILD)]) == {name_of(REIGNITED), name_of(FINAL)}
    why = needs(inventory)
    assert why[name_of(START)] == ["one: fine_tune", "two: fine_tune"]
    assert why[name_of(CHILD)] == ["one: serial"]
    assert why[name_of(REIGNITED)] == ["one: reignite"]
    assert why[name_of(FINAL)] == why[name_of(SCORED)] == ["one: full_train"]
    assert name_of(STRAY) not in why


def test_what_no_run_needs_is_garbage_and_no_more(filled: Filled) -> None:
    assert garbage(take_inventory(filled.store), ["one", "two"]).keys() == RUBBISH | UNKNOWN


def test_what_only_other_runs_need_is_garbage(filled: Filled) -> None:
    mine = {f"stage/two-{name}" for name in STAGE_NAMES} | {name_of(OTHER), f"results/cache/{name_of(OTHER)}", "runs/two"}
    assert garbage(take_inventory(filled.store), ["one"]).keys() == RUBBISH | UNKNOWN | mine
    with pytest.raises(UserError, match=r"--keep: expected a run of this store \(one, two\), got 'three'"):
        garbage(take_inventory(filled.store), ["three"])


def test_a_run_that_goes_on_keeps_what_may_be_its_own(filled: Filled) -> None:
    filled.run("three", [START], START, finished=False)
    inventory = take_inventory(filled.store)
    assert garbage(inventory, list(inventory.runs)).keys() == RUBBISH
    assert garbage(inventory, ["one", "three"]).keys() == RUBBISH | {"runs/two"}  # `three` may have come to OTHER too
    assert garbage(inventory, ["one", "two"]).keys() == RUBBISH | UNKNOWN | {"runs/three", "stage/three-fine_tune"}


def test_a_run_keeps_the_older_net_that_its_checkpoint_is_of(filled: Filled) -> None:
    for number, root in enumerate({filled.store.url, str(filled.store.local or filled.store.url)}):
        place = {"checkpoint": f"{root}/{name_of(STRAY)}/weights.safetensors", "checkpoint_sha256": "0" * 64}
        warm = train(20 + number).model_copy(update=place)
        elsewhere = train(30).model_copy(update={"checkpoint": f"{root}-other/{name_of(START)}/weights.safetensors"})
        for job in (warm, elsewhere):
            filled.publish(job)
        filled.run(f"warm{number}", [warm, elsewhere], warm)
        inventory = take_inventory(filled.store)
        assert inventory.artifacts[name_of(warm)].sources == (name_of(STRAY),)
        assert inventory.artifacts[name_of(elsewhere)].sources == ()
        removed = garbage(inventory, [f"warm{number}"])
        assert name_of(STRAY) not in removed
        assert {name_of(START), name_of(OTHER), "runs/one"} <= removed.keys()
    model = train(40).model_copy(update={"checkpoint": f"{filled.store.url}/runs/one/model/weights.safetensors"})
    filled.publish(model)
    filled.run("model", [model], model)
    removed = garbage(take_inventory(filled.store), ["model"])
    assert "runs/one" not in removed
    assert "runs/two" in removed


def test_the_record_of_a_stage_counts_only_as_it_was_written(filled: Filled) -> None:
    """A flipped digit in a ledger names another training; the one that it named must not be taken for garbage."""
    path = f"stage/two-full_train/{STAGE_FILE}"
    wrong = filled.storage.read(path).replace(jobs.digest(OTHER).encode(), b"0" * 64)
    for stage in STAGE_NAMES[1:]:
        filled.storage.write(f"stage/two-{stage}/{STAGE_FILE}", wrong if stage == "full_train" else b"{}")
    inventory = take_inventory(filled.store)
    assert inventory.runs["two"].keys() == {"fine_tune"}
    assert name_of(OTHER) not in garbage(inventory, ["two"])


def test_a_store_without_a_known_run_keeps_everything_whole(filled: Filled) -> None:
    filled.storage.remove("runs")
    assert garbage(take_inventory(filled.store), []).keys() == RUBBISH


def test_verify_finds_every_wrong_byte(filled: Filled) -> None:
    assert {fault for _, fault in verify_artifacts(filled.store, take_inventory(filled.store))} == {""}
    filled.storage.write(f"{name_of(CHILD)}/weights.safetensors", b"x" * 6400)
    filled.storage.write(f"{name_of(OTHER)}/weights.safetensors", b"x")
    filled.storage.remove(f"{name_of(START)}/manifest.json")
    found = {name: fault for name, fault in verify_artifacts(filled.store, take_inventory(filled.store)) if fault}
    assert found == {
        name_of(CHILD): "corrupt: weights.safetensors has another sha256",
        name_of(OTHER): "corrupt: weights.safetensors is missing or has another size",
        name_of(START): "half-written: no manifest",
    }
    assert filled.storage.sizes(name_of(CHILD))  # nothing was moved


def ask(*words: str, status: int = 0) -> Any:
    done = CliRunner().invoke(app, ["store", *words])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout) if "--json" in words else done.output


def test_the_commands_and_their_json(tmp_path: Path) -> None:
    filled = Filled(tmp_path, str(tmp_path / "store"))
    url = filled.store.url
    assert len(ask("ls", url).splitlines()) == 17 + 11
    listed = ask("ls", url, "--json")
    assert [run["name"] for run in listed["runs"]] == ["one", "two"]
    assert {one["name"] for one in listed["artifacts"]} >= {name_of(STRAY), "stage/one-serial"}
    shown = ask("show", url, name_of(CHILD)[:14], "--json")
    assert shown["dependants"] == sorted([name_of(REIGNITED), name_of(FINAL)])
    assert shown["manifest"]["metrics"] == {"AP": 0.5}
    assert "one: serial" in ask("show", url, name_of(CHILD))
    assert "17 artifacts, 0 of them with faults" in ask("verify", url)
    assert ask("verify", url, "--json") == {"artifacts": 17, "faults": {}}


def test_gc_says_what_it_would_free_and_frees_that_and_no_more(tmp_path: Path) -> None:
    filled = Filled(tmp_path, str(tmp_path / "store"))
    before, url = filled.store.files(), filled.store.url
    assert "nothing is removed without --yes" in ask("gc", url, "--keep", "one")
    plan = ask("gc", url, "--keep", "one", "--json")
    assert filled.store.files() == before
    assert not plan["removed"]
    done = ask("gc", url, "--keep", "one", "--yes", "--json")
    assert done == plan | {"removed": True}
    after = filled.store.files()
    assert sum(before.values()) - sum(after.values()) == plan["size"] > 0
    assert {path for path in before if not any(path.startswith(one["path"]) for one in plan["paths"])} == after.keys()
    assert ask("gc", url, "--json")["paths"] == []
    assert ask("verify", url, "--json")["faults"] == {}
    assert "mine/notes.txt" in after


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    filled = Filled(tmp_path, str(tmp_path / "store"))
    for words in (("ls", str(tmp_path / "nowhere")), ("show", filled.store.url, "train/"), ("gc", filled.store.url, "--keep", "three")):
        assert len(ask(*words, status=2).strip().splitlines()) == 1
    filled.storage.write(f"{name_of(CHILD)}/weights.safetensors", b"x" * 6400)
    assert "another sha256" in ask("verify", filled.store.url, status=1)


@pytest.mark.parametrize("content", [b"[", b"[1]", b'{"serial": "../../x"}', b"null", b'{"a": {"b": 1}}', b"[" * 5000])
def test_records_that_nobody_understands_hinder_nothing(tmp_path: Path, content: bytes) -> None:
    filled = Filled(tmp_path, str(tmp_path / "store"))
    filled.storage.write("runs/three/stages.json", content)
    (tmp_path / "store" / "runs" / ".hidden").mkdir()
    (tmp_path / "store" / "runs" / ".hidden" / "stages.json").write_text("{}")
    (tmp_path / "store" / "train" / "link").symlink_to(tmp_path)
    inventory = take_inventory(filled.store)
    assert inventory.runs["three"] == {}
    assert garbage(inventory, list(inventory.runs)).keys() == RUBBISH
