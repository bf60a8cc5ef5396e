"""`spnas convert`: torchvision's weights to a model folder and back, bit for bit, and what it refuses."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from golden_weights import made
from safetensors.numpy import load_file, save_file
from torch_files import dictionary, save, value, write_zip
from typer.testing import CliRunner

from flows.cli import app
from spnas_core.arch import parse
from spnas_core.config import Detector
from spnas_core.torch_file import read_torch

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
SMALL = {"fpn_channels": 16, "head_channels": 32}
NETS = {"b_11-21-21-21": Detector(base_width=8, **SMALL), "x(4x16d)_11-21-21-211": Detector(base_width=16, **SMALL)}
ARCH = "b_11-21-21-21"
run = CliRunner()


def report(*args: str | Path) -> dict[str, Any]:
    """The JSON document of a conversion that succeeds."""
    result = run.invoke(app, ["convert", *map(str, args), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def mistake(*args: str | Path) -> str:
    """The one line of a conversion that fails."""
    result = run.invoke(app, ["convert", *map(str, args)])
    assert result.exit_code == 2, result.output
    assert not result.stdout
    assert result.stderr.startswith("spnas: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def weights(classes: int | None = 90, arch: str = ARCH) -> dict[str, np.ndarray]:
    return made(parse(arch), NETS[arch], classes)


def written(path: Path, classes: int | None = 90) -> Path:
    return save(path, weights(classes))


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return found


@pytest.mark.parametrize("arch", NETS)
@pytest.mark.parametrize("classes", [None, 3, 90])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_there_and_back_bit_for_bit(arch: str, classes: int | None, kind: str, tmp_path: Path) -> None:
    theirs = weights(classes, arch)
    path = tmp_path / "a.bin"
    if kind == "safetensors":
        save_file(theirs, path)
    else:
        save(
            path,
            theirs | {"backbone.body.bn1.num_batches_tracked" if classes else "bn1.num_batches_tracked": np.array(7)},
            kind == "legacy",
        )
    there = report(path, "--out", tmp_path / "model", "--arch", arch)
    back = report(tmp_path / "model", "--to", "torchvision", "--out", tmp_path / "back.safetensors")
    found = load_file(tmp_path / "back.safetensors")
    assert found.keys() == theirs.keys()
    assert all(found[name].tobytes() == array.tobytes() and found[name].shape == array.shape for name, array in theirs.items())
    assert (there["arch"], there["coverage"], back["coverage"]) == (str(parse(arch)), 1.0, 1.0)
    assert (there["audit"]["new"], there["audit"]["dropped"]) == ([], [])
    assert len(there["counters"]) == (kind != "safetensors")


def test_a_detectors_folder_has_everything_that_its_use_needs(tmp_path: Path) -> None:
    found = report(written(tmp_path / "a.pth"), "--out", tmp_path / "model", "--image-size", "256", "320")
    model = document(tmp_path / "model")
    assert model["arch"] == "b_11-21-21-21_0-0-0-0"
    assert model["classes"] == [{"label": label, "id": label, "name": str(label)} for label in range(1, 91)]
    assert model["preprocessing"]["image_size"] == model["detector"]["image_size"] == [256, 320]
    sizes = {name: model["detector"][name] for name in ("stem", "base_width", "fpn_channels", "head_channels", "norm", "norm_epsilon")}
    expected = {"stem": "7x7", "base_width": 8, "fpn_channels": 16, "head_channels": 32, "norm": "frozen", "norm_epsilon": 0.0}
    assert sizes == expected
    assert Detector.model_validate(model["detector"]).score_threshold == 0.05
    assert (found["classes"], found["norm_epsilon"], found["kind"]) == (90, 0.0, "detector")


@pytest.mark.parametrize(
    ("classes", "args", "epsilon"), [(90, (), 0.0), (3, (), 1e-5), (None, (), 1e-5), (90, ("--norm-epsilon", "1e-4"), 1e-4)]
)
def test_the_epsilon_of_the_norms(classes: int | None, args: tuple[str, ...], epsilon: float, tmp_path: Path) -> None:
    path = written(tmp_path / "a.pth", classes)
    found = report(path, "--out", tmp_path / "model", *args)
    assert found["norm_epsilon"] == document(tmp_path / "model")["detector"]["norm_epsilon"] == epsilon
    counted = save(tmp_path / "b.pth", weights(90) | {"backbone.body.bn1.num_batches_tracked": np.array(3)})
    report(counted, "--out", tmp_path / "trained")
    assert {name: document(tmp_path / "trained")["detector"][name] for name in ("norm", "norm_epsilon")} == {
        "norm": "train",
        "norm_epsilon": 1e-5,
    }


def test_names_of_the_labels(tmp_path: Path, tiny_data: Path) -> None:
    categories = tiny_data / "annotations" / "instances_val.json"
    report(written(tmp_path / "a.pth", 5), "--out", tmp_path / "model", "--categories", categories)
    assert [one["name"] for one in document(tmp_path / "model")["classes"]] == ["red", "2", "3", "blue", "5"]
    assert "expected ids from 1 to 3" in mistake(written(tmp_path / "b.pth", 3), "--out", tmp_path / "x", "--categories", categories)
    assert "got a classifier" in mistake(written(tmp_path / "c.pth", None), "--out", tmp_path / "x", "--categories", categories)
    assert "expected an annotation file" in mistake(
        written(tmp_path / "b.pth", 3), "--out", tmp_path / "x", "--categories", tmp_path / "no"
    )
    assert not (tmp_path / "x").exists()


def test_the_audit_is_printed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {name: array for name, array in weights().items() if "rpn.head.bbox_pred" not in name})
    result = run.invoke(app, ["convert", str(path), "--out", str(tmp_path / "model")])
    assert result.exit_code == 0
    found = " ".join(result.stdout.split())
    for words in ("torchvision's detector, b_11-21-21-21", "new 2 tensors", "+ rpn.delta.bias", "dropped 0 tensors", "norms epsilon 0,"):
        assert words in found
    assert "% of the detector's parameters" in found
    assert "expected at least 99.99 %" in mistake(path, "--out", tmp_path / "other", "--coverage", "0.9999")
    assert not (tmp_path / "other").exists()


def test_any_url(tmp_path: Path) -> None:
    url = "memory://convert/model"
    report(written(tmp_path / "a.pth", 3), "--out", url)
    report(url, "--to", "torchvision", "--out", "memory://convert/back.safetensors")
    system = fsspec.filesystem("memory")
    assert system.isfile("/convert/model/weights.safetensors")
    assert system.isfile("/convert/back.safetensors")


def test_a_weights_file_alone_does_not_tell_its_architecture(tmp_path: Path) -> None:
    report(written(tmp_path / "a.pth", 3), "--out", tmp_path / "model")
    alone = (tmp_path / "model" / "weights.safetensors").rename(tmp_path / "alone.safetensors")
    out = ("--to", "torchvision", "--out", tmp_path / "back.safetensors")
    assert "expected --arch" in mistake(alone, *out)
    assert "+backbone.blocks.8.bn1.beta" in mistake(alone, *out, "--arch", "b_11-21-21-211")
    assert "+backbone.blocks.1.shortcut" in mistake(alone, *out, "--arch", "b_1-121-21-21")
    assert report(alone, *out, "--arch", ARCH)["coverage"] == 1


def test_mistakes_are_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    good = written(tmp_path / "good.pth", 3)
    text = tmp_path / "text.pth"
    text.write_text("weights of my net\n")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(good.read_bytes()[:5000])
    trace = tmp_path / "EXECUTED"
    evil = write_zip(tmp_path / "evil.pth", dictionary({"a": b"cposix\nsystem\n" + value((f"touch {trace}",)) + b"R"}), {})
    assert "'posix.system'" in mistake(evil, *out)
    assert not trace.exists()
    assert "expected a file of torch.save or a .safetensors" in mistake(text, *out)
    assert "cut off or damaged" in mistake(cut, *out)
    assert "found none" in mistake(tmp_path / "nowhere.pth", *out)
    assert "+backbone.blocks.0.conv3.weight" in mistake(good, *out, "--arch", "r_11-21-21-21")
    assert "architecture '31'" in mistake(good, *out, "--arch", "31")
    assert "ends in .safetensors" in mistake(good, *out, "--to", "torchvision")
    assert "expected no --norm-epsilon" in mistake(good, *out, "--to", "torchvision", "--norm-epsilon", "0")
    assert "image_size" in mistake(good, *out, "--image-size", "0", "320")
    assert not (tmp_path / "out").exists()
    report(good, *out)
    assert "got ours" in mistake(tmp_path / "out", "--out", tmp_path / "again")
    assert "a place to write to" in mistake(good, "--out", good)


@pytest.mark.skipif(not (GOLDEN / "evil.pth").exists(), reason=f"no checkpoint files in {GOLDEN}")
def test_golden_files_that_must_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "'posix.system'" in mistake(GOLDEN / "evil.pth", "--out", "model")
    assert "cut off" in mistake(GOLDEN / "truncated.pth", "--out", "model")
    assert "expected" in mistake(GOLDEN / "README.md", "--out", "model")
    assert list(tmp_path.iterdir()) == []


TORCHVISION = os.environ.get("SPNAS_TORCHVISION_PYTHON")
SAVE = """
import sys, numpy, torch, torchvision
net = torchvision.models.get_model(sys.argv[1], weights=None, **({"weights_backbone": None} if "rcnn" in sys.argv[1] else {})).state_dict()
torch.save(net, "a.pth", _use_new_zipfile_serialization=sys.argv[2] == "zip")
numpy.savez("a.npz", **{name: tensor.numpy() for name, tensor in net.items()})
"""
LOAD = """
import sys, numpy, torch, torchvision
net = torchvision.models.get_model(sys.argv[1], weights=None, **({"weights_backbone": None} if "rcnn" in sys.argv[1] else {}))
print(net.load_state_dict({name: torch.from_numpy(array) for name, array in numpy.load("back.npz").items()}))
"""


@pytest.mark.long
@pytest.mark.skipif(not TORCHVISION, reason="SPNAS_TORCHVISION_PYTHON names no Python with torchvision")
@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnext50_32x4d", "fasterrcnn_resnet50_fpn"])
def test_real_files_of_torchvision(name: str, kind: str, tmp_path: Path) -> None:
    subprocess.run([str(TORCHVISION), "-c", SAVE, name, kind], cwd=tmp_path, check=True)
    arrays = read_torch(tmp_path / "a.pth")
    with np.load(tmp_path / "a.npz") as expected:
        assert arrays.keys() == dict(expected).keys()
        assert all(arrays[key].tobytes() == array.tobytes() for key, array in expected.items())
    report(tmp_path / "a.pth", "--out", tmp_path / "model")
    report(tmp_path / "model", "--to", "torchvision", "--out", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert all(back[key].tobytes() == array.tobytes() for key, array in arrays.items() if not key.endswith("num_batches_tracked"))
    np.savez(tmp_path / "back.npz", **back)
    loaded = subprocess.run([str(TORCHVISION), "-c", LOAD, name], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "All keys matched" in loaded.stdout
