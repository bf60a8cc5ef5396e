"""One-stage detectors in all forms of an export, in torchvision's files, and from one checkpoint to another net."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import onnx
import pytest
import safetensors
from exported import assert_same, inputs, lively, write_model
from mindspore import Tensor
from safetensors.numpy import load_file, save_file
from test_export import assert_fit_for_atc
from test_export_folder import TORCH

from spnas_core import arch as architecture
from spnas_core.errors import UserError
from spnas_core.export.convert import convert_checkpoint
from spnas_core.export.folder import Format, Wish, export_model, publish_export
from spnas_core.export.shipped.detect import open_network
from spnas_core.jobs import detection
from spnas_core.models.build import build
from spnas_core.models.step import get_weights
from spnas_core.search.costs import candidate_cost
from spnas_core.settings.detector import Detector
from spnas_core.weights.adopt import adopt
from spnas_core.weights.inherit import inherit
from spnas_core.weights.net_shapes import net_shapes
from spnas_core.weights.torchvision_names import to_spnas, to_torchvision, trained_epsilon

PEER = os.environ.get("SPNAS_TORCHVISION_PYTHON")
COMMON: dict[str, Any] = {"image_size": (75, 101), "base_width": 8, "detections": 12, "score_threshold": 0.1}
RETINANET: dict[str, Any] = {"kind": "retinanet", "depth": 2, "candidates": 40}
FCOS: dict[str, Any] = {"kind": "fcos", "depth": 2, "candidates": 40, "norm_groups": 4}
NETS: dict[str, dict[str, Any]] = {
    "b_111-2111-21-21_1-0-2-3": {"head": RETINANET, "stem": "3x3"},
    "r_11-21-211-2_0-2-1-1": {"head": FCOS, "share_weights": False},
    "b_11-21-21": {
        "head": {**RETINANET, "anchor_octave": 1, "depth": 1}, "neck": {"taps": (2, 2), "extra_levels": "c5"}, "soft_nms": "linear",
    },
    "b_11-211": {"head": FCOS, "neck": {"first_level": 0, "extra_levels": "none"}},
    "b_11-21-211": {"head": FCOS, "neck": {"kind": "nas_fcos"}},
}  # fmt: skip
CLASSES = ((1, "a"), (2, "b"), (3, "c"))


def settings_of(text: str, **more: Any) -> Detector:
    given = COMMON | NETS[text] | more
    return Detector(**given | {"neck": {"channels": 16, **given.get("neck", {})}})


@pytest.mark.training
@pytest.mark.parametrize("text", NETS)
def test_all_forms_find_what_mindspore_finds(text: str, tmp_path: Path) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    settings = settings_of(text)
    net = build(architecture.parse(text), settings, 3)
    weights = lively(net)
    images, image_hw = inputs(settings.image_size)
    expected = tuple(one.asnumpy() for one in net.set_train(False)(Tensor(images), Tensor(image_hw)))
    folder = write_model(tmp_path / "model", text, settings, weights, CLASSES)
    forms: tuple[tuple[Format, Wish], ...] = (("onnx", Wish()), ("openvino", Wish()), ("om", Wish(soc="Ascend310P3")))
    for form, wish in forms:
        files = export_model(str(folder), form, wish)
        publish_export(files, str(tmp_path / form))
        find = found_alone if form == "openvino" else lambda folder, *asked: open_network(folder)(*asked)
        assert assert_same(expected, find(tmp_path / form, images, image_hw)) >= 8
        title = {"retinanet": "RetinaNet", "fcos": "FCOS"}[settings.head.kind]
        assert files["README.md"].decode().splitlines()[2].startswith(title)
    assert [one.name for one in (tmp_path / "om").glob("*.onnx")] == ["trunk.onnx"]
    trunk = onnx.load(tmp_path / "om" / "trunk.onnx")
    assert_fit_for_atc(trunk)
    assert convolution_macs(trunk) == candidate_cost(architecture.parse(text), settings, 3).macs


def found_alone(folder: Path, images: Any, image_hw: Any) -> tuple[Any, ...]:
    """What an exported model finds in a process of its own, with the variable that MindSpore 2.10 needs: OpenVINO must not see it."""
    np.savez(folder / "asked.npz", images, image_hw)
    code = """
import pathlib, sys, numpy
sys.path.insert(0, sys.argv[1])
from detect import open_network
place = pathlib.Path(sys.argv[1])
numpy.savez(place / "found.npz", *open_network(place)(*numpy.load(place / "asked.npz").values()))
"""
    subprocess.run([sys.executable, "-c", code, folder], check=True, env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"})
    return tuple(np.load(folder / "found.npz").values())


def convolution_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of all convolutions of a graph."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {one.name: [size.dim_value for size in one.type.tensor_type.shape.dim] for one in (*graph.value_info, *graph.output)}
    sizes = {one.name: int(np.prod(one.dims)) for one in graph.initializer}
    return sum(sizes[node.input[1]] * int(np.prod(shapes[node.output[0]][2:])) for node in graph.node if node.op_type == "Conv")


@pytest.mark.training
@pytest.mark.long
@pytest.mark.parametrize("head", [RETINANET, FCOS], ids=lambda head: str(head["kind"]))
def test_mindir_finds_the_same(head: dict[str, Any], tmp_path: Path) -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    text = "b_11-21-21"
    settings = Detector(**COMMON, head=head, neck={"channels": 16})
    net = build(architecture.parse(text), settings, 3)
    folder = write_model(tmp_path / "model", text, settings, lively(net), CLASSES)
    images, image_hw = inputs(settings.image_size)
    expected = tuple(one.asnumpy() for one in net.set_train(False)(Tensor(images[1:]), Tensor(image_hw[1:])))
    publish_export(export_model(str(folder), "mindir"), str(tmp_path / "out"))
    assert assert_same(expected, open_network(tmp_path / "out")(images[1:], image_hw[1:])) >= 4


@pytest.mark.training
@pytest.mark.skipif(not PEER, reason="SPNAS_TORCHVISION_PYTHON names no Python with torchvision")
@pytest.mark.parametrize("text", [text for text in NETS if NETS[text].get("neck", {}).keys().isdisjoint(("taps", "kind"))])
@pytest.mark.parametrize("more", [{}, {"neck": {"extra_levels": "c5"}, "norm": "frozen"}], ids=["plain", "c5"])
def test_torchvision_finds_what_mindspore_finds(text: str, more: dict[str, Any], tmp_path: Path) -> None:
    """And learns on, by gradients of all weights."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    settings = settings_of(text, **{"image_size": (64, 96), "base_width": 64} | more)
    net = build(architecture.parse(text), settings, 3)
    folder = write_model(tmp_path / "model", text, settings, lively(net), CLASSES)
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
    kept = tuple([one[image][expected[1][image] > 0] for image in (0, 1)] for one in expected)
    assert assert_same(kept, found) >= 8


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("head", [RETINANET, FCOS], ids=lambda head: str(head["kind"]))
def test_torchvision_s_files_there_and_back(head: dict[str, Any], tmp_path: Path) -> None:
    """Bit for bit; torchvision's label 0 is a class of its own."""
    arch = architecture.parse("b_11-21-21-21")
    settings = Detector(base_width=8, norm="frozen", neck={"channels": 32}, head={"kind": head["kind"], "depth": 2})
    ours = filled(net_shapes(arch, settings, 5))
    names = to_torchvision(arch, ours)
    assert to_spnas(arch, names.values()) == {theirs: name for name, theirs in names.items()}
    save_file({names[name]: array for name, array in ours.items()}, tmp_path / "theirs.safetensors")
    converted = convert_checkpoint(str(tmp_path / "theirs.safetensors"), None, "spnas")
    document = json.loads(converted.files["model.json"])
    assert [one["id"] for one in document["classes"]] == [0, 1, 2, 3, 4]
    found = Detector.model_validate(document["detector"])
    assert (found.head.kind, found.head.depth, found.neck) == (head["kind"], 2, settings.neck)
    (tmp_path / "model").mkdir()
    for name, content in converted.files.items():
        (tmp_path / "model" / name).write_bytes(content)
    back = convert_checkpoint(str(tmp_path / "model"), None, "torchvision")
    (tmp_path / "back.safetensors").write_bytes(back.files["torchvision.safetensors"])
    theirs = load_file(tmp_path / "theirs.safetensors")
    again = load_file(tmp_path / "back.safetensors")
    assert theirs.keys() == again.keys()
    assert all(np.array_equal(theirs[name], again[name]) for name in theirs)


def test_old_names_of_released_files() -> None:
    """RetinaNet's towers were once counted with their ReLUs."""
    arch = architecture.parse("b_11-21-21-21")
    names = ["backbone.body.conv1.weight", "head.classification_head.conv.4.bias", "head.regression_head.conv.0.weight"]
    assert list(to_spnas(arch, names).values())[1:] == ["retinanet.class_tower.2.conv.bias", "retinanet.box_tower.0.conv.weight"]
    released = {"head.classification_head.cls_logits.weight": (819, 256, 3, 3)}
    assert trained_epsilon(released) == 0.0
    fcos = {"head.classification_head.cls_logits.weight": (91, 256, 3, 3), "head.regression_head.bbox_ctrness.weight": (1, 256, 3, 3)}
    assert trained_epsilon(fcos) == 1e-5


ARCH = architecture.parse("b_11-21-21")


def detector(kind: str, **neck: Any) -> Detector:
    head = {"retinanet": RETINANET, "fcos": FCOS}.get(kind, {"kind": kind, "head_channels": 8})
    return Detector(base_width=4, neck={"channels": 8, **neck}, head=head)


def test_other_classes_renew_the_scores_alone() -> None:
    for kind, shapes in (("retinanet", 9), ("fcos", 1)):
        weights, fresh = (filled(net_shapes(ARCH, detector(kind), classes), classes) for classes in (5, 3))
        found, audit = adopt(fresh, weights)
        assert audit.new == (f"{kind}.score.bias", f"{kind}.score.weight") == audit.dropped
        assert len(found[f"{kind}.score.bias"]) == 3 * shapes
        _, audit = inherit(ARCH, ARCH, weights, fresh, replace_head=True)
        assert audit.new == (f"{kind}.score.bias", f"{kind}.score.weight") == audit.dropped


def test_another_kind_of_head_is_new_and_all_else_stays() -> None:
    """From Faster R-CNN to RetinaNet to FCOS, and to Faster R-CNN: levels that a pyramid has not are new."""
    kinds = ("faster_rcnn", "retinanet", "fcos", "faster_rcnn")
    for before, after in pairwise(kinds):
        weights, fresh = (filled(net_shapes(ARCH, detector(kind), 3), seed) for seed, kind in enumerate((before, after)))
        found, audit = adopt(fresh, weights)
        new = {name.split(".")[0] if not name.startswith("neck") else ".".join(name.split(".")[:3]) for name in audit.new}
        assert (
            new
            == {
                "retinanet": {"retinanet", "neck.extra.0", "neck.extra.1"},
                "fcos": {"fcos"},
                "faster_rcnn": {"rpn", "head", "neck.inner.0", "neck.layer.0"},
            }[after]
        )
        assert all(np.array_equal(found[name], weights[name]) for name in audit.copied)
        assert "neck.layer.2.weight" in audit.copied


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_children_inherit_the_heads(kind: str) -> None:
    parent, child = ARCH, architecture.parse("b_111-21-211-11")
    for extra, new_levels in (("p5", {"neck.extra.0.weight"}), ("c5", {"neck.extra.0.weight"})):
        given = detector(kind, extra_levels=extra)
        weights, fresh = (filled(net_shapes(arch, given, 3), seed) for seed, arch in enumerate((parent, child)))
        _, audit = inherit(parent, child, weights, fresh, base_width=4)
        assert not [name for name in audit.new if name.startswith(kind)]
        assert {name for name in audit.new if name.startswith("neck.extra")} == new_levels
        wider = given.model_copy(update={"neck": {**given.neck.model_dump(), "channels": 16}})
        fresh = filled(net_shapes(parent, wider, 3))
        found, audit = inherit(parent, parent, weights, fresh, base_width=4)
        assert audit.new == audit.dropped == ()
        assert {name: array.shape for name, array in found.items()} == net_shapes(parent, wider, 3)


@pytest.mark.training
def test_a_wider_pyramid_computes_the_same() -> None:
    """RetinaNet's towers read copies of channels by shares (Net2Wider)."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    settings = Detector(**COMMON, head=RETINANET, neck={"channels": 8})
    net = build(ARCH, settings, 3)
    weights = lively(net)
    wider = settings.model_copy(update={"neck": {**settings.neck.model_dump(), "channels": 16}})
    other = build(ARCH, wider, 3)
    found, _ = inherit(ARCH, ARCH, weights, get_weights(other), base_width=8)
    for parameter in other.get_parameters():
        parameter.set_data(Tensor(found[parameter.name]))
    images, image_hw = inputs(settings.image_size)
    ours, theirs = (tuple(one.asnumpy() for one in each.set_train(False)(Tensor(images), Tensor(image_hw))) for each in (net, other))
    assert assert_same(ours, theirs) >= 8


def test_what_torchvision_lacks_is_one_line(tmp_path: Path) -> None:
    settings = Detector(base_width=8, neck={"channels": 16, "taps": (2, 2)}, head=RETINANET)
    folder = write_model(tmp_path / "model", "b_11-21-21", settings, filled(net_shapes(ARCH, settings, 3)), CLASSES)
    with pytest.raises(UserError, match=r"expected a plain pyramid, as torchvision has it, got fpn16\(2-2\)@1-p5"):
        convert_checkpoint(str(folder), None, "torchvision")
