"""Why the AP is 0: each cause is made on purpose and named, and none is where nothing is wrong."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked import as_yolo
from conftest import write_data
from safetensors.numpy import save_file
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from spnas_core.arch import parse
from spnas_core.errors import JobError
from spnas_core.jobs import progress_file, runner
from spnas_core.metrics import STATS
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.register import announce_run
from spnas_core.weights.net_shapes import empty_weights

Documents = dict[str, Any]  # what a training leaves: history, audit, detections, model
FALLING = [2.0, 1.5, 1.0, 0.8]


def doctor(*args: str) -> list[tuple[str, str]]:
    """Names of the causes that the command finds, and where; its exit status says whether there are any."""
    result = CliRunner().invoke(app, ["doctor", *args, "--json"])
    assert result.exit_code in (0, 1), result.output
    found = json.loads(result.stdout)["causes"]
    assert bool(found) == (result.exit_code == 1)
    return [(one["name"], one["where"]) for one in found]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", {"train": 12, "val": 12})


def change(data: Path, split: str, how: Callable[[Any], None]) -> None:
    path = data / f"annotations/instances_{split}.json"
    document = json.loads(path.read_text())
    how(document)
    path.write_text(json.dumps(document))


def rename(document: Any) -> None:
    document["categories"][1]["name"] = "green"


def corners(document: Any) -> None:
    for mark in document["annotations"]:
        x, y, w, h = mark["bbox"]
        mark["bbox"] = [x, y, x + w, y + h]


def normalise(document: Any) -> None:
    for mark in document["annotations"]:
        mark["bbox"] = [value / 64 for value in mark["bbox"]]


def empty(document: Any) -> None:
    document["annotations"] = []


def crowd(document: Any) -> None:
    for mark in document["annotations"]:
        mark["iscrowd"] = 1


def unlist(document: Any) -> None:
    document.update(images=[], annotations=[])


def of_others(document: Any) -> None:
    for image in document["images"]:
        image["file_name"] = "elsewhere_" + image["file_name"]


FAULTS = [
    ("class mapping", "val", rename),
    ("boxes format", "train", corners),
    ("boxes format", "train", normalise),
    ("empty targets", "train", empty),
    ("empty targets", "train", crowd),
    ("empty targets", "train", unlist),
    ("wrong split", "val", of_others),
]


@pytest.mark.parametrize(("name", "split", "how"), FAULTS, ids=[how.__name__ for *_, how in FAULTS])
def test_a_fault_of_the_data_is_named(name: str, split: str, how: Callable[[Any], None], data: Path) -> None:
    change(data, split, how)
    assert doctor(str(data), "--preset", "smoke") == [(name, split)]


@pytest.mark.parametrize("text", ["[]", "{", "null"])
def test_annotations_that_are_none_are_named(text: str, data: Path) -> None:
    (data / "annotations/instances_train.json").write_text(text)
    assert doctor(str(data), "--preset", "smoke") == [("broken data", "train")]


def test_splits_of_other_names_are_named(data: Path) -> None:
    for split, other in {"train": "first", "val": "second"}.items():
        (data / f"annotations/instances_{split}.json").rename(data / f"annotations/instances_{other}.json")
    assert doctor(str(data), "--preset", "smoke") == [("wrong split", "data")]


def test_images_that_are_all_cut_are_named(data: Path) -> None:
    for path in (data / "images").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    assert doctor(str(data), "--preset", "smoke") == [("broken data", "train"), ("broken data", "val")]


def test_labels_of_yolo_in_px_are_named(small: Path, tmp_path: Path) -> None:
    folder = as_yolo(small, tmp_path / "yolo")
    for path in (folder / "labels").rglob("*.txt"):
        path.write_text("0 120 80 30 40\n")
    assert doctor(str(folder), "--preset", "demo") == [("broken data", "train"), ("broken data", "val")]


def test_the_first_error_is_named_where_nothing_spoils_most(data: Path) -> None:
    store = leave(data, FALLING, lambda _: None)
    assert doctor("ill", "--store", store) == []
    (data / "images/train_3.png").write_bytes(b"no image")
    assert doctor(str(data), "--preset", "smoke") == [("broken data", "train")]
    assert doctor("ill", "--store", store) == [("broken data", "train")]


def test_an_error_of_the_data_is_no_cause_where_a_run_scores_well(data: Path) -> None:
    (data / "images/train_3.png").write_bytes((data / "images/val_3.png").read_bytes())
    assert doctor(str(data), "--preset", "smoke") == [("broken data", "train and val")]
    assert doctor("ill", "--store", leave(data, FALLING, lambda _: None, ap50=0.8)) == []


def test_anchors_that_never_match_are_named(data: Path) -> None:
    assert doctor(str(data), "--preset", "smoke", "--set", "detector.anchor_scale=60") == [("anchors", "train")]
    text = CliRunner().invoke(app, ["doctor", str(data), "--preset", "smoke", "--set", "detector.anchor_scale=60"]).stdout
    assert "anchors: train: 24 boxes that no anchor reaches (100.0% of 24, network input 64x64 px)" in text


def test_sound_data_has_no_cause(data: Path) -> None:
    assert doctor(str(data), "--preset", "smoke") == []
    assert "no cause" in CliRunner().invoke(app, ["doctor", str(data), "--preset", "smoke"]).stdout


def opened(data: Path, *overrides: str) -> Plan:
    settings = presets.load_preset("smoke", ["name=ill", *overrides])
    plan = open_plan(settings, str(data), str(data.parent / "store"))
    announce_run(plan)
    return plan


def leave(data: Path, losses: list[float], how: Callable[[Documents], None], *overrides: str, ap50: float = 0.0) -> str:
    """The store of a run whose start net was trained: by default it has learnt, and found every box of val; `how` changes that."""
    plan = opened(data, *overrides)
    job = plan.train(plan.settings.arch, plan.settings.detector, plan.settings.fine_tune)
    val = json.loads((data / "annotations/instances_val.json").read_text())
    documents = {
        "history": [{"epoch": number, "loss": loss} for number, loss in enumerate(losses, start=1)],
        "audit": {"copied": [], "new": [f"backbone.blocks.{n}.bn1.moving_mean" for n in range(8)]},
        "detections": [{**{key: mark[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9} for mark in val["annotations"]],
        "model": {"classes": [{"label": label, **kind} for label, kind in enumerate(val["categories"], start=1)]},
    }
    how(documents)
    folder = data.parent / "out"
    folder.mkdir()
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    metrics = {**dict.fromkeys(STATS, 0.0), "AP50": ap50, "params": 1, "macs": 1, "seconds": 1.0}
    plan.store.publish(job, folder, metrics, 1.0)
    return plan.store.url


def test_a_run_that_scores_well_has_no_cause(data: Path) -> None:
    assert doctor("ill", "--store", leave(data, [1.0, 1.0], lambda _: None, ap50=0.8)) == []


def swap_names(documents: Documents) -> None:
    for one in documents["detections"]:
        one["category_id"] = 5 - one["category_id"]  # 1 and 4


def other_labels(documents: Documents) -> None:
    first, second = documents["model"]["classes"]
    first["name"], second["name"] = second["name"], first["name"]


def other_images(documents: Documents) -> None:
    for one in documents["detections"]:
        one["image_id"] += 1000


def shifted(documents: Documents) -> None:
    for one in documents["detections"]:
        one["bbox"] = [x + 40 for x in one["bbox"][:2]] + one["bbox"][2:]


def only_red(documents: Documents) -> None:
    for one in documents["detections"]:
        one["category_id"] = 1


RUNS: list[tuple[list[str], list[float], Callable[[Documents], None]]] = [
    (["class mapping"], FALLING, swap_names),
    (["class mapping"], FALLING, other_labels),
    (["wrong split"], FALLING, other_images),
    (["wrong split"], FALLING, shifted),
    (["learning rate"], [2.0, 2.1, 2.0, 1.99], lambda _: None),
    (["learning rate"], [2.0, 2.5, 9.0, 1e4], lambda _: None),
    ([], FALLING, lambda _: None),
    ([], FALLING, only_red),  # a young net prefers the commonest
    ([], [2.0], shifted),  # one epoch says nothing
]


@pytest.mark.parametrize(("names", "losses", "how"), RUNS)
def test_a_fault_of_a_run_is_named(names: list[str], losses: list[float], how: Callable[[Documents], None], data: Path) -> None:
    assert [name for name, _ in doctor("ill", "--store", leave(data, losses, how))] == names


@pytest.mark.parametrize("copied", [False, True])
def test_frozen_norms_with_new_statistics_are_named(copied: bool, data: Path) -> None:
    smoke = presets.load_preset("smoke")
    arrays = {name: np.array(one) for name, one in empty_weights(parse(smoke.arch), smoke.detector, 2).items()}
    save_file(arrays, data.parent / "some.safetensors")

    def begin(documents: Documents) -> None:
        if copied:
            documents["audit"] = {"copied": documents["audit"]["new"], "new": []}

    frozen = ("detector.norm=frozen", f"checkpoint={data.parent / 'some.safetensors'}")
    store = leave(data, FALLING, begin, *frozen)
    assert doctor("ill", "--store", store) == ([] if copied else [("frozen norms", "fine_tune b_1111-2111")])


def test_data_that_is_gone_is_said(data: Path) -> None:
    url = leave(data, [2.0, 2.0], lambda _: None)
    data.rename(data.parent / "moved")
    result = CliRunner().invoke(app, ["doctor", "ill", "--store", url])
    assert result.exit_code == 1
    assert "learning rate: fine_tune" in result.stdout
    assert "the data was not looked at" in result.stdout
    assert doctor("ill", "--store", url, "--data", str(data.parent / "moved")) == [("learning rate", "fine_tune b_1111-2111")]


def test_a_training_that_diverged_is_named(data: Path) -> None:
    plan = opened(data)
    told = progress_file.ProgressFile(plan.store, plan.train(plan.settings.arch, plan.settings.detector, plan.settings.fine_tune))
    told({"event": "start"})
    told.close(JobError("diverged", "loss [nan] at step 3 of 9"))
    assert doctor("ill", "--store", plan.store.url) == [("learning rate", "fine_tune b_1111-2111")]
    assert "loss [nan] at step 3 of 9, at lr 0.01" in CliRunner().invoke(app, ["doctor", "ill", "--store", plan.store.url]).stdout


def move_boxes(document: Any) -> None:
    """Give every image the boxes of the next one."""
    ids = [image["id"] for image in document["images"]]
    following = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    for mark in document["annotations"]:
        mark["image_id"] = following[mark["image_id"]]


def turn_categories(document: Any) -> None:
    ids = [kind["id"] for kind in document["categories"]]
    following = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    for mark in document["annotations"]:
        mark["category_id"] = following[mark["category_id"]]


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "overrides", "names"),
    [
        (None, [], []),
        (turn_categories, [], ["class mapping"]),
        (move_boxes, [], ["wrong split"]),
        (None, ["fine_tune.lr=1e-9", "fine_tune.epochs=3"], ["learning rate"]),
        (None, ["fine_tune.lr=1e9"], ["learning rate"]),
    ],
)
def test_real_trainings(how: Callable[[Any], None] | None, overrides: list[str], names: list[str], demo_data: Path, tmp_path: Path) -> None:
    """The start net of the demo, trained for real on data or with settings that are as they should be, or are not."""
    data = shutil.copytree(demo_data, tmp_path / "data")
    if how:
        change(data, "val", how)
    settings = presets.load_preset("demo", ["name=ill", *overrides])
    plan = open_plan(settings, str(data), str(tmp_path / "store"))
    announce_run(plan)
    job = plan.train(settings.arch, settings.detector, settings.fine_tune)
    with contextlib.suppress(JobError):
        found = runner.run_job(job, plan.store.url).metrics
        print(how, overrides, found["AP"], found["AP50"])
    assert [name for name, _ in doctor("ill", "--store", plan.store.url)] == names
