"""Segmentation end to end: five stages on tiny images with masks, and all that follows a run."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masked import masked_set, pixels_of
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from flows.cli.local import run_locally
from spnas_core.data.masks.mask_set import open_mask_split
from spnas_core.errors import UserError
from spnas_core.job import Data, TrainJob
from spnas_core.jobs.runner import run_job
from spnas_core.run.opening import open_plan
from spnas_core.run.record import read_stage
from spnas_core.search.net import net_of
from spnas_core.settings.run import Run
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store

ONCE: dict[str, Any] = {"epochs": 1, "batch": 4, "lr": 0.02, "warmup_steps": 2, "clip_norm": 10.0, "flip": False}
LONGER = {**ONCE, "epochs": 30, "lr": 0.1, "ema": 0.5, "eval_epochs": 10}
SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "task": "segmentation",
    "arch": "b_1111-2111",
    "threads": 1,
    "timeout_minutes": 5,
    "detector": {
        "image_size": [32, 32],
        "base_width": 8,
        "stem": "3x3",
        "neck": {"channels": 8},
        "head": {"channels": 8, "auxiliary": "dice"},
    },
    "fine_tune": LONGER,
    "serial": {"rounds": 1, "candidates": 2, "recipe": {**ONCE, "epochs": 2}, "halving": {"rungs": [1], "keep": 0.5}, "control": True},
    "reignite": {"image_size": 16, "epochs": 1, "batch": 4, "lr": 0.05},
    "parallel": {"candidates": 1, "max_parallel": 1, "recipe": ONCE},
    "full_train": {**LONGER, "epochs": 20},
}


class Done:
    """A finished run: its data, store and summary."""

    def __init__(self, folder: Path) -> None:
        self.data = masked_set(folder / "data", {"train": 12, "val": 7, "test": 3})
        self.store = folder / "store"
        self.settings = Run.model_validate(SETTINGS)
        self.summary = run_locally(self.settings, str(self.data), str(self.store))
        self.model = self.store / "runs" / "tiny" / "model"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return Done(tmp_path_factory.mktemp("segmentation"))


def spnas(*words: object) -> str:
    found = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.mark.training
def test_five_stages_rank_nets_by_their_miou(done: Done) -> None:
    nets = [row["net"] for row in done.summary["table"]]
    assert nets == ["start net", "best serial", "best parallel", "start net, full training", "final", *nets[5:]]
    assert nets[5:] == ["start net, full training, test split", "final, test split"]
    assert all(0 <= row["mIoU"] <= row["pixel_accuracy"] <= 1 and "AP" not in row for row in done.summary["table"])
    final = next(row for row in done.summary["table"] if row["net"] == "final")
    assert final["mIoU"] > 0.5  # colours tell the classes apart
    plan = open_plan(done.settings, str(done.data), str(done.store))
    ledger = read_stage(plan.store, plan.keys["parallel"]).ledger
    assert all(trial.score == trial.metrics["mIoU"] for trial in ledger if trial.metrics)
    assert any(trial.rung for trial in ledger)
    assert any(trial.estimate and set(trial.estimate) == {"mIoU", "pixel_accuracy"} for trial in ledger)
    assert "mIoU" in done.summary["differences"][0]["words"]


@pytest.mark.training
def test_a_finished_run_is_looked_up(done: Done) -> None:
    assert run_locally(done.settings, str(done.data), str(done.store))["table"] == done.summary["table"]


@pytest.mark.training
def test_the_report_shows_classes_confusion_and_masks(done: Done) -> None:
    page = (done.store / "runs" / "tiny" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 6
    for words in ("mIoU on val", "Confusion", "IoU", "ground", "square", "disc", "Best", "Worst"):
        assert words in page
    assert not re.search(r">\s*AP50?\s*<", page)
    table = page.split('id="classes"')[1].split('id="confusion"')[0]
    rows = re.findall(r'<th scope="row">(\w+)</th>.*?>([\d.]+)</data></td></tr>', table, re.DOTALL)
    split = open_mask_split(str(done.data), "val")
    counts = np.sum([np.bincount(one.mask()[one.mask() != 255], minlength=3) for one in split.samples], axis=0)
    assert [(name, float(share)) for name, share in rows] == [
        (name, pytest.approx(100 * count / counts.sum(), abs=0.051)) for name, count in zip(split.class_names, counts, strict=True)
    ]
    text = (done.store / "runs" / "tiny" / "report.md").read_text()
    assert "| class | IoU | accuracy |" in text
    assert (done.store / "runs" / "tiny" / "trials.csv").read_text().splitlines()[0].count("mIoU") == 2  # and its estimate


@pytest.mark.training
def test_status_and_doctor_speak_of_the_miou(done: Done) -> None:
    assert re.search(r"best so far .*: mIoU \d+\.\d, pixel_accuracy \d+\.\d", spnas("status", "tiny", "--store", done.store))
    assert re.search(r"tiny +finished.*\d+\.\d mIoU", spnas("status", "--store", done.store))
    said = CliRunner().invoke(app, ["doctor", "tiny", "--store", str(done.store)])
    assert "best net so far: mIoU" in said.stdout


@pytest.mark.training
def test_a_model_predicts_masks_of_the_images_own_sizes(done: Done, tmp_path: Path) -> None:
    photo = Image.fromarray(pixels_of(done.data / "images" / "val" / "val0.png"))
    photo.resize((61, 37)).save(tmp_path / "photo.png")
    (record,) = json.loads(spnas("predict", done.model, tmp_path / "photo.png", "--out", tmp_path / "out", "--json"))
    with Image.open(record["mask"]) as mask, Image.open(record["picture"]) as picture:
        assert mask.size == picture.size == (61, 37)
        assert mask.mode == "P"
    assert set(np.unique(pixels_of(record["mask"]))) <= {0, 1, 2}
    assert sum(record["classes"].values()) == pytest.approx(1, abs=1e-3)
    assert json.loads((tmp_path / "out" / "masks.json").read_text()) == [record]


@pytest.mark.training
def test_exported_models_score_as_the_model_does(done: Done, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = []
    for form, more in (("onnx", ()), ("mindir", ()), ("om", ("--soc", "Ascend310P3"))):
        spnas("export", done.model, "--format", form, "--out", tmp_path / form, *more)
        made.append(tmp_path / form)
    found = json.loads(spnas("eval", done.model, *made, "--data", done.data, "--json"))["models"]
    scores = [one["scores"]["mIoU"] for one in found]
    assert scores[1:] == pytest.approx([scores[0]] * 3, abs=0.002)
    spnas("export", done.model, "--format", "onnx", "--int8", 8, "--data", done.data, "--out", tmp_path / "int8")
    (small,) = json.loads(spnas("eval", tmp_path / "int8", "--data", done.data, "--json"))["models"]
    assert small["scores"]["mIoU"] > 0.5 * scores[0]
    alone = json.loads(spnas("eval", done.model, "--data", done.data, "--json"))
    final = next(row for row in done.summary["table"] if row["net"] == "final")
    assert alone["mIoU"] == pytest.approx(final["mIoU"], abs=1e-6)
    assert set(alone["per_class"]) == {"ground", "square", "disc"}
    card = (tmp_path / "onnx" / "README.md").read_text()
    assert "Semantic FPN" in card
    assert "Faster R-CNN" not in card
    refused = CliRunner().invoke(app, ["export", str(done.model), "--format", "torchvision", "--out", str(tmp_path / "torch")])
    assert refused.exit_code == 2
    assert "expected a detector, got a model of segmentation" in refused.output


@pytest.mark.training
def test_the_shipped_program_gives_the_masks_of_predict(done: Done, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import subprocess
    import sys

    spnas("export", done.model, "--format", "onnx", "--out", tmp_path / "onnx")
    photo = done.data / "images" / "val" / "val1.png"
    (record,) = json.loads(spnas("predict", done.model, photo, "--out", tmp_path / "ours", "--json"))
    command = [sys.executable, "segment.py", str(photo), "--out", str(tmp_path / "theirs")]
    said = subprocess.run(command, cwd=tmp_path / "onnx", check=True, capture_output=True, text=True)
    assert json.loads(said.stdout)["classes"].keys() == record["classes"].keys()
    ours, theirs = (pixels_of(path) for path in (record["mask"], tmp_path / "theirs" / "val1.png"))
    assert (ours != theirs).mean() < 0.005


@pytest.mark.training
def test_a_plan_measures_steps_and_images(done: Done, tmp_path: Path) -> None:
    (tmp_path / "tiny.yml").write_text(json.dumps(SETTINGS))
    bill = json.loads(spnas("plan", tmp_path / "tiny.yml", "--data", done.data, "--store", tmp_path / "store", "--json"))
    assert bill["total"]["seconds"] > 0
    assert all(one["step"] > 0 and one["image"] > 0 for one in bill["measured"])
    assert bill["data"] == {"train": 12, "val": 7, "test": 3, "boxes": 0, "crops": 24}
    plan = open_plan(done.settings, str(done.data), str(tmp_path / "store"))
    measured = run_job(plan.benchmark(net_of(SETTINGS["arch"], done.settings.detector)), str(tmp_path / "store"))
    assert measured.metrics["latency_ms"] > 0


@pytest.mark.training
@pytest.mark.parametrize("auxiliary", ["dice", "lovasz"])
def test_two_ranks_do_what_one_process_does(done: Done, auxiliary: str, tmp_path: Path) -> None:
    """Losses and weights of a training whose images have unequal shares of ignored pixels, and its scores."""
    detector = done.settings.detector.model_copy(
        update={"head": {"kind": "semantic_fpn", "channels": 8, "auxiliary": auxiliary, "class_weights": (0.5, 1.0, 3.0)}}
    )
    data = open_plan(done.settings, str(done.data), str(done.store)).data
    recipe = Recipe(epochs=2, batch=4, lr=0.02, warmup_steps=2, scales=(0.7, 1.3))
    job = TrainJob(arch="b_1111-2111_1-0", detector=detector, recipe=recipe, data=data, seed=3)
    ended = [
        run_job(job, str(tmp_path / str(count)), devices=contextlib.nullcontext(tuple(range(count))), threads=count) for count in (1, 2)
    ]
    stores = [Store(str(tmp_path / str(count))) for count in (1, 2)]
    alone, two = (json.loads(store.fetch("train", ended[0].digest, "history.json").read_text()) for store in stores)
    for first, second in zip(alone, two, strict=True):
        assert second["losses"] == pytest.approx(first["losses"], rel=1e-3)
    arrays = [load_file(store.fetch("train", ended[0].digest, "weights.safetensors")) for store in stores]
    for name, value in arrays[0].items():
        np.testing.assert_allclose(arrays[1][name], value, rtol=0.02, atol=2e-4, err_msg=name)
    assert ended[1].metrics["mIoU"] == pytest.approx(ended[0].metrics["mIoU"], abs=0.02)
    outputs = [json.loads(store.fetch("train", ended[0].digest, "segmentation.json").read_text()) for store in stores]
    assert [[one["name"] for one in found["images"]] for found in outputs] == [[f"images/val/val{n}.png" for n in range(7)]] * 2
    assert np.array(outputs[1]["counts"]["confusion"]).sum() == np.array(outputs[0]["counts"]["confusion"]).sum()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["detector.head={kind: faster_rcnn}"], "expected a detector.head.kind of the task segmentation, got faster_rcnn"),
        (["objectives=[AP, macs]"], "expected mIoU or pixel_accuracy first"),
        (["serial.evaluator=supernet"], "expected neither serial.evaluator supernet nor data.crowds learn with the task segmentation"),
        (["serial.recipe.inherited_batches=2"], "expected inherited_batches 0 with the task segmentation"),
    ],
)
def test_settings_that_do_not_fit_the_task_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        presets.load_preset("seg_demo", overrides)


def test_weights_of_classes_are_compared_with_the_data(tmp_path: Path) -> None:
    data, settings = masked_set(tmp_path / "data"), presets.load_preset("seg_demo", ["detector.head.class_weights=[1, 2]"])
    with pytest.raises(UserError, match=r"detector\.head\.class_weights: expected 3 weights, one a class, got 2"):
        open_plan(settings, str(data), str(tmp_path / "store"))


def test_a_run_of_segmentation_has_keys_of_its_own(tmp_path: Path) -> None:
    from spnas_core.run.plan import Plan

    data = Data(url="/data", fingerprint="f" * 64)
    plans = [
        Plan(presets.load_preset("seg_demo", more), Store("memory://keys"), data, 5) for more in ([], ["detector.head.auxiliary=lovasz"])
    ]
    assert plans[0].keys["fine_tune"] != plans[1].keys["fine_tune"]


def test_folds_of_masks_hold_every_image_back_once(tmp_path: Path) -> None:
    from spnas_core.data.folds import fold_of_masks

    url = str(masked_set(tmp_path, {"train": 7, "val": 4}))
    train, val = (open_mask_split(url, name) for name in ("train", "val"))
    held = []
    for number in range(3):
        learnt, scored = fold_of_masks(train, val, number, 3)
        assert [one.image_id for one in scored.samples] == list(range(len(scored.samples)))
        names = [{one.name for one in split.samples} for split in (learnt, scored)]
        assert not names[0] & names[1]
        assert len(names[0] | names[1]) == 11
        held += sorted(names[1])
    assert len(held) == len(set(held)) == 11
