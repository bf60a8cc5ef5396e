"""Checkpoints of torchvision's and of ours, held against the net that wants to start from them; without MindSpore."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from golden_weights import made
from safetensors.numpy import save_file
from torch_files import save

from flows import presets
from spnas_core import checkpoint, plan, shapes
from spnas_core.arch import parse
from spnas_core.audit import Audit, parameters
from spnas_core.config import Detector, Run
from spnas_core.errors import UserError
from spnas_core.infer import infer
from spnas_core.model_folder import model_document, write_model
from spnas_core.torchvision_names import to_torchvision

ARCH = parse("b_11-21-21-21")
SETTINGS = Detector(image_size=(64, 64), base_width=8, fpn_channels=16, head_channels=32)
Floats = dict[str, np.ndarray]


def write(path: Path, arrays: Floats) -> str:
    if path.suffix == ".pth":
        return str(save(path, arrays))
    save_file(arrays, path)
    return str(path)


def start(url: str, settings: Detector = SETTINGS, classes: int = 3, least: float = 0.0, arch: str = str(ARCH)) -> Audit:
    """Audit of a start from a checkpoint, as fine_tune makes it."""
    wanted = shapes.detector_shapes(parse(arch), settings, classes)
    return checkpoint.start_audit(checkpoint.read_checkpoint(url), parse(arch), settings, wanted, least)


@pytest.mark.parametrize(
    "text",
    ["b_11-21-21-21", "b_111-2111-211111-211", "r_111-2111-211111-211", "x(32x4d)_111-2111-211111-211", "x(1x128d)_111-2111-211111-211"],
)
@pytest.mark.parametrize("classes", [None, 90])
def test_the_architecture_is_read_off_the_shapes(text: str, classes: int | None) -> None:
    arch, settings = parse(text), Detector()
    given = shapes.backbone_shapes(arch, settings) if classes is None else shapes.detector_shapes(arch, settings, classes)
    net = infer({name: given[ours] for ours, name in to_torchvision(arch, given).items()})
    assert (net.arch, net.classes) == (arch, classes)
    assert net.settings.items() <= settings.model_dump().items()
    assert set(net.settings) == {"stem", "base_width", *(() if classes is None else ("fpn_channels", "head_channels"))}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_detector_gives_everything_but_the_heads_of_other_classes(suffix: str, tmp_path: Path) -> None:
    url = write(tmp_path / f"a{suffix}", made(ARCH, SETTINGS, 5))
    same, other = start(url, classes=5), start(url, classes=3)
    assert same.share == 1
    heads = ("head.delta.bias", "head.delta.weight", "head.score.bias", "head.score.weight")
    assert (same.new, same.dropped) == ((), ())
    assert (other.new, other.dropped) == (heads, heads)
    assert 0.95 < other.share < 1


def test_a_classifier_gives_the_backbone(tmp_path: Path) -> None:
    url = write(tmp_path / "a.safetensors", made(ARCH, SETTINGS, None))
    audit = start(url, least=1.0)
    assert all(name.startswith("backbone.") for name in audit.copied)
    assert {name.split(".")[0] for name in audit.new} == {"neck", "rpn", "head"}
    assert audit.dropped == ("score.bias", "score.weight")
    wanted = shapes.detector_shapes(ARCH, SETTINGS, 3)
    assert audit.copied_params == parameters(shapes.backbone_shapes(ARCH, SETTINGS), wanted)


def test_what_a_checkpoint_lacks_is_new_down_to_the_coverage(tmp_path: Path) -> None:
    weights = {name: array for name, array in made(ARCH, SETTINGS, 3).items() if not name.startswith("rpn.head.bbox_pred")}
    url = write(tmp_path / "a.safetensors", weights)
    audit = start(url, least=0.9)
    assert audit.new == ("rpn.delta.bias", "rpn.delta.weight")
    with pytest.raises(UserError, match=r"at least 100 % of the detector's parameters, got 9\d\.\d %: .*\+rpn\.delta\.bias \(12,\)"):
        start(url, least=1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stem": "3x3"}, r"expected the settings detector\.stem: 7x7, got detector\.stem: 3x3"),
        ({"base_width": 16}, r"detector\.base_width: 8, got detector\.base_width: 16"),
        ({"fpn_channels": 8, "head_channels": 16}, "fpn_channels: 16, detector.head_channels: 32, got detector.fpn_channels: 8"),
        ({"anchor_ratios": (1.0,)}, r"\+rpn\.delta\.bias \(4,\), .*-rpn\.delta\.bias \(12,\)"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    url = write(tmp_path / "a.safetensors", made(ARCH, SETTINGS, 3))
    with pytest.raises(UserError, match=words) as caught:
        start(url, SETTINGS.model_copy(update=changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arch", ["b_111-2111-211111-211", "r_11-21-21-21", "b_11-21-21-21_0-0-1-0"])
def test_another_architecture(arch: str, tmp_path: Path) -> None:
    url = write(tmp_path / "a.safetensors", made(ARCH, SETTINGS, 3))
    with pytest.raises(UserError, match=r"expected weights of .*, got those of b_11-21-21-21_0-0-0-0: .*expected \(\+\).*: \+backbone"):
        start(url, arch=arch)


def test_another_place_of_a_stride(tmp_path: Path) -> None:
    url = write(tmp_path / "a.safetensors", made(parse("b_11-21-1111"), SETTINGS, None))
    with pytest.raises(UserError, match=r"weights of b_1121-1111_0-0, got those of b_11-21-1111.*equal tensors, but other strides"):
        checkpoint.check_arch(checkpoint.read_checkpoint(url), parse("b_1121-1111"))


def spoil(weights: Floats, fault: str) -> Floats:
    """Make one thing wrong with torchvision's weights."""
    weights = dict(weights)
    body = "backbone.body."
    if fault == "no place":
        weights["roi_heads.mask_head.0.weight"] = np.zeros((2, 2), np.float32)
    elif fault == "shape":
        weights[f"{body}layer1.0.bn1.weight"] = np.zeros(3, np.float32)
    elif fault == "no stem":
        del weights[f"{body}conv1.weight"]
    elif fault == "no block":
        del weights[f"{body}layer2.0.conv1.weight"]
    elif fault == "widths":
        weights[f"{body}layer3.0.conv2.weight"] = np.zeros((24, 16, 3, 3), np.float32)
    elif fault == "integers":
        weights[f"{body}bn1.weight"] = np.zeros(8, np.int32)
    elif fault == "names":
        weights = {f"net.{name}": array for name, array in weights.items()}
    elif fault == "no blocks":
        weights = {name: array for name, array in weights.items() if ".layer" not in name}
    return weights


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no place", "'roi_heads.mask_head.0.weight'"),
        ("shape", r"\+backbone\.blocks\.0\.bn1\.gamma \(8,\), -backbone\.blocks\.0\.bn1\.gamma \(3,\)"),
        ("no stem", "'conv1.weight' of 4 dimensions, got none"),
        ("no block", "b_11-1"),
        ("widths", r"expected layer3\.0\. to have 16 or 32 channels, got 24"),
        ("integers", "expected floating-point tensors, got int32"),
        ("names", "got tensors named 'net.backbone"),
        ("no blocks", "one type, got none"),
    ],
)
def test_faulty_weights_are_one_line(fault: str, words: str, tmp_path: Path) -> None:
    url = write(tmp_path / "a.safetensors", spoil(made(ARCH, SETTINGS, 3), fault))
    with pytest.raises(UserError) as caught:
        start(url)
    assert str(caught.value).startswith(f"checkpoint {url}: ")
    assert "\n" not in str(caught.value)


def test_half_precision_and_unknown_types(tmp_path: Path) -> None:
    weights = made(ARCH, SETTINGS, None)
    url = write(tmp_path / "a.safetensors", {name: array.astype(np.float16) for name, array in weights.items()})
    found = checkpoint.read_checkpoint(url).weights["backbone.stem.conv.weight"]
    assert found.dtype == np.float32
    assert np.array_equal(found, weights["conv1.weight"].astype(np.float16).astype(np.float32))
    url = write(tmp_path / "b.safetensors", {"conv1.weight": np.zeros(2, np.complex64)})
    with pytest.raises(UserError, match="expected tensors of"):
        checkpoint.read_checkpoint(url)


def test_our_own_checkpoints(tmp_path: Path) -> None:
    theirs = checkpoint.read_checkpoint(write(tmp_path / "a.safetensors", made(ARCH, SETTINGS, 3)))
    folder = tmp_path / "model"
    write_model(str(folder), theirs.weights, model_document(str(ARCH), SETTINGS, [(1, "a"), (2, "b"), (3, "c")]))
    for url in (str(folder), str(folder / "weights.safetensors"), f"file://{folder}"):
        found = checkpoint.read_checkpoint(url)
        assert (found.source, found.arch, found.classes) == ("spnas", ARCH, 3)
        assert start(url).share == 1
    with pytest.raises(UserError, match=r"detector\.base_width: 8, got detector\.base_width: 4"):
        start(str(folder), SETTINGS.model_copy(update={"base_width": 4}))
    with pytest.raises(UserError, match="expected weights of"):
        start(str(folder), arch="b_111-21-21-21")
    (folder / "model.json").write_text(json.dumps({"arch": str(ARCH)}))
    with pytest.raises(UserError, match=r"expected model\.json of a model folder"):
        start(str(folder))
    (folder / "model.json").unlink()
    assert checkpoint.read_checkpoint(str(folder)).arch is None
    assert start(str(folder)).share == 1


@pytest.mark.parametrize("content", [b"", b"weights of my net", b"\x08\x00\x00\x00\x00\x00\x00\x00{broken", b"PK\x03\x04", None])
def test_what_is_no_checkpoint(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="expected a") as caught:
        checkpoint.read_checkpoint(str(path))
    assert str(caught.value).startswith(f"checkpoint {path}: ")
    assert "\n" not in str(caught.value)


def settings(url: str, **changes: object) -> Run:
    detector = SETTINGS.model_dump(mode="json") | {"norm": "frozen", "norm_epsilon": 1e-5} | changes
    return presets.load("smoke").model_copy(update={"arch": str(ARCH), "checkpoint": url, "detector": Detector.model_validate(detector)})


def test_a_run_checks_its_checkpoint_before_anything_is_trained(tmp_path: Path, tiny_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = write(tmp_path / "a.safetensors", made(ARCH, SETTINGS, 90))
    with caplog.at_level(logging.INFO, "spnas_core"):
        opened = plan.open_plan(settings(url), str(tiny_data), str(tmp_path / "store"))
    assert "norm_epsilon 0, the settings have 1e-05 (--set detector.norm_epsilon=0)" in caplog.text
    job = opened.train(str(ARCH), opened.settings.fine_tune)
    assert (job.checkpoint, job.checkpoint_coverage) == (url, 0.9)
    with pytest.raises(UserError, match="the settings detector"):
        plan.open_plan(settings(url, stem="3x3"), str(tiny_data), str(tmp_path / "store"))
    with pytest.raises(UserError, match="found none"):
        plan.open_plan(settings(f"{url}.pth"), str(tiny_data), str(tmp_path / "store"))
    less = {name: array for name, array in made(ARCH, SETTINGS, 90).items() if "fc6.weight" not in name}
    with pytest.raises(UserError, match=r"fc6\.weight"):
        plan.open_plan(settings(write(tmp_path / "b.safetensors", less)), str(tiny_data), str(tmp_path / "store"))
    caplog.clear()
    plan.open_plan(settings(url, norm_epsilon=0.0), str(tiny_data), str(tmp_path / "store"))
    assert "norm_epsilon" not in caplog.text
