"""Exported folders as their finder uses them: ONNX, MindIR and torchvision, in processes that do not know this program."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import mindspore as ms
import numpy as np
import pytest
import safetensors
from command_line import spnas
from exported import COMMON, assert_same, inputs, lively
from PIL import Image
from safetensors.numpy import save_file

from spnas_core import arch as architecture
from spnas_core.data import splits
from spnas_core.errors import UserError
from spnas_core.export.folder import export_model, publish_export
from spnas_core.export.shipped.detect import soft_nms
from spnas_core.jobs import detection
from spnas_core.models.build import build
from spnas_core.settings.detector import Detector
from spnas_core.store.artifacts import Store

pytestmark = pytest.mark.training
PEER = os.environ.get("SPNAS_TORCHVISION_PYTHON")


@pytest.fixture(scope="module")
def model(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a net with random weights."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    settings = Detector(**COMMON | {"image_size": (64, 80), "stem": "3x3", "soft_nms": "linear"})
    text = "b_1111-2111_0-1"
    net = build(architecture.parse(text), settings, 2)
    folder = tmp_path_factory.mktemp("model")
    save_file(lively(net), folder / "weights.safetensors")
    document = detection.model_document(text, settings, splits.open_split(str(tiny_data), "val").categories)
    scores = {"val": {"AP": 0.5, "AP50": 0.75, "AP_large": -1.0, "per_class": {"red": {"AP": 0.25, "AP50": 0.5}}}}
    (folder / "model.json").write_text(json.dumps(document | {"scores": scores}))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wide and a high picture."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, shape in (("wide", (50, 200, 3)), ("high", (170, 61, 3))):
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


SCRIPT = """
import json, runpy, sys
sys.argv = ["detect.py", *sys.argv[1:]]
runpy.run_path("detect.py", run_name="__main__")
assert not [name for name in sys.modules if name.startswith(("spnas", "flows"))]
"""


NETWORKS = {
    "onnx": ["benchmark.py", "model.onnx"],
    "openvino": ["model.bin", "model.xml"],
    "om": ["atc.sh", "head0.onnx", "parts.py", "trunk.onnx"],
    "mindir": ["model.mindir"],
}


@pytest.mark.parametrize("form", ["onnx", "openvino", "om", pytest.param("mindir", marks=pytest.mark.long)])
def test_whoever_finds_the_folder_gets_the_same_objects(form: str, model: Path, photos: list[Path], tmp_path: Path) -> None:
    """The shipped script, in a process that does not know this program, against `spnas predict`."""
    out = tmp_path / "out"
    status, text, error = spnas(
        "export", model, "--format", form, "--out", out, "--json", *(["--soc", "Ascend310P3"] if form == "om" else [])
    )
    assert (status, error) == (0, "")
    assert sorted(json.loads(text)["files"]) == sorted(["README.md", "detect.py", "model.json", *NETWORKS[form]])
    status, text, _ = spnas("predict", model, *photos, "--out", tmp_path / "found", "--threshold", 0.15, "--json")
    expected = json.loads(text)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-W", "ignore", "-c", SCRIPT, *map(str, photos), "--threshold", "0.15"]
    done = subprocess.run(words, cwd=out, env=environment, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["image"] for one in found] == [one["image"] for one in expected] == list(map(str, photos))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs["objects"]) >= 3
        assert [one["label"] for one in ours["objects"]] == [one["label"] for one in theirs["objects"]]
        for a, b in zip(ours["objects"], theirs["objects"], strict=True):
            assert a["score"] == pytest.approx(b["score"], abs=1e-3)
            assert a["box"] == pytest.approx(b["box"], abs=0.02)
            assert a["id"] == {"red": 1, "blue": 4}[a["label"]]
    card = (out / "README.md").read_text()
    for line in ("| 2 | 4 | blue |", "| val | 50.0 | 75.0 | - | - | - | - |", "| val | red | 25.0 | 50.0 |", "soft_nms", "64 x 80"):
        assert line in card


def test_what_cannot_be_exported_is_one_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads((model / "model.json").read_text())
    for change, words in (
        ({"taps": [0, 0]}, "expected a plain pyramid, as torchvision has it, got fpn16(0-0)"),
        ({"norm_epsilon": -1}, "model.json: detector.norm_epsilon: Input should be greater than or equal to 0"),
        ({"head_channels": 8}, "weights differ, expected (+) and found (-)"),
    ):
        broken = tmp_path / next(iter(change))
        shutil.copytree(model, broken)
        (broken / "model.json").write_text(json.dumps(document | {"detector": document["detector"] | change}))
        status, _, error = spnas("export", broken, "--format", "torchvision", "--out", tmp_path / "out")
        assert (status, error.count("\n")) == (2, 1), error
        assert words in error
    for name in ("graph", "features", "boxes", "heads", "onnx_model"):
        monkeypatch.delitem(sys.modules, f"spnas_core.export.{name}")
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, _, error = spnas("export", model, "--format", "onnx", "--out", tmp_path / "out")
    assert (status, error) == (2, "spnas: --format onnx: expected the package onnx, found none: pip install --editable '.[onnx]'\n")
    assert not (tmp_path / "out").exists()


def test_a_training_s_artifact_from_a_store_to_a_url(model: Path, tmp_path: Path) -> None:
    """Its scores are those of its manifest."""
    store = Store("memory://exported/store")
    metrics = {"AP": 0.25, "AP50": 0.5, "per_class": {}}
    plain = shutil.copytree(model, tmp_path / "plain")
    document = json.loads((plain / "model.json").read_text())
    del document["scores"]
    (plain / "model.json").write_text(json.dumps(document))
    store.publish_record("train", "a" * 64, {"data": {"val": "val"}}, plain, metrics, 1.0)
    found = f"memory://exported/store/train/{'a' * 64}"
    status, text, _ = spnas("export", found, "--format", "torchvision", "--out", "memory://exported/out")
    assert (status, "net.py" in text) == (0, True)
    system = fsspec.filesystem("memory")
    card = json.loads(system.cat_file("/exported/out/model.json"))
    assert card["scores"] == {"val": metrics}
    assert "| val | 25.0 | 50.0 | - |" in system.cat_file("/exported/out/README.md").decode()
    assert system.size("/exported/out/weights.safetensors") > 0
    status, _, error = spnas("export", model, "--format", "torchvision", "--out", model)
    assert (status, error) == (2, f"spnas: {model}: expected a new or empty folder for the export, got one with model.json\n")
    status, _, error = spnas("export", model, "--format", "torchvision", "--out", f"{model}/model.json")
    assert (status, error) == (2, f"spnas: {model}/model.json: expected a new or empty folder for the export, got a file\n")
    (Path(model).parent / "note.txt").write_text("kept")
    with pytest.raises(UserError, match=r"^--out: expected a place for a folder, got .*note\.txt/below"):
        publish_export({"a": b"a"}, f"{Path(model).parent}/note.txt/below")


TORCH = """
import sys
import numpy as np
import torch
sys.path.insert(0, sys.argv[1])
from detect import Detector
detector = Detector(sys.argv[1])
with np.load(sys.argv[2]) as given:
    found = detector.run(given["images"], given["image_hw"])
np.savez(sys.argv[3], **{f"{name}_{image}": one[image] for name, one in zip(("boxes", "scores", "labels"), found) for image in (0, 1)})
from net import build
model = build(sys.argv[1])
for name, weight in model.named_parameters():
    weight.requires_grad_(True)
losses = model.train()([torch.rand(3, 60, 80)], [{"boxes": torch.tensor([[5.0, 5, 40, 50]]), "labels": torch.tensor([1])}])
sum(losses.values()).backward()
assert all(weight.grad is not None for weight in model.parameters())
"""


@pytest.mark.skipif(not PEER, reason="SPNAS_TORCHVISION_PYTHON names no Python with torchvision")
@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("b_111-2111-21-21-1_1-0-2-3-0_8-6-8-4-8", {"stem": "3x3"}),
        ("r_11-21-211-2_0-2-1-1_8-4-8-16", {"share_weights": False, "norm": "frozen"}),
        ("x(32x4d)_111-12-1211_0-0-0_8-4-12", {"soft_nms": "gaussian", "norm_epsilon": 1e-3}),
    ],
)
def test_torchvision_finds_what_mindspore_finds(text: str, change: dict[str, Any], tmp_path: Path) -> None:
    """And learns on, by gradients of all weights."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    settings = Detector(**COMMON | {"image_size": (64, 96), "base_width": 64, "score_threshold": 0.02} | change)
    net = build(architecture.parse(text), settings, 3)
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(lively(net), folder / "weights.safetensors")
    document = detection.model_document(text, settings, ((1, "a"), (2, "b"), (3, "c")))
    (folder / "model.json").write_text(json.dumps(document))
    publish_export(export_model(str(folder), "torchvision"), str(tmp_path / "out"))
    images, image_hw = inputs(settings.image_size)
    np.savez(tmp_path / "in.npz", images=images, image_hw=image_hw)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "safetensors").symlink_to(Path(safetensors.__file__).parent)  # the peer may not have it
    words = [str(PEER), "-W", "ignore", "-c", TORCH, *(str(tmp_path / name) for name in ("out", "in.npz", "out.npz"))]
    subprocess.run(words, env=os.environ | {"PYTHONPATH": str(tmp_path / "lib")}, check=True)
    expected = detection.infer(net.set_train(False), settings, images, image_hw)
    with np.load(tmp_path / "out.npz") as file:
        found = tuple([file[f"{name}_{image}"] for image in (0, 1)] for name in ("boxes", "scores", "labels"))
    if settings.soft_nms:
        lowered = [soft_nms(*(one[image] for one in found), settings.model_dump()) for image in (0, 1)]
        found = tuple([one[part] for one in lowered] for part in range(3))
    assert assert_same(expected, found) >= 8
