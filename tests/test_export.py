"""ONNX in onnxruntime against the net in MindSpore that it comes from."""

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from exported import COMMON, assert_same, inputs, lively, write_model
from golden_weights import ARCH, CLASSES, GOLDEN, SETTINGS, network_input, spnas_weights
from mindspore import Tensor

from spnas_core import arch as architecture
from spnas_core import metrics
from spnas_core.data import fingerprints
from spnas_core.export.calibration import Calibration
from spnas_core.export.compare import score_side_by_side
from spnas_core.export.folder import Format, Wish, export_model, publish_export
from spnas_core.export.onnx_model import onnx_model
from spnas_core.export.shipped.detect import open_network
from spnas_core.job import TrainJob
from spnas_core.jobs import evaluate
from spnas_core.jobs.runner import run_job
from spnas_core.models.build import build
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store
from spnas_core.weights.model_folder import Model

pytestmark = pytest.mark.training
ATC_OPERATORS = {
    word
    for line in (Path(__file__).parent / "atc_operators.txt").read_text().splitlines()
    if not line.startswith("#")
    for word in line.split()
}
BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
NETS: dict[str, dict[str, Any]] = {
    "b_111-2111-21-21-1_1-0-2-3-0_8-6-8-4-8": {"stem": "3x3"},
    "r_11-21-211-2_0-2-1-1": {"taps": (1, 1, 2), "share_weights": False, "anchor_ratios": (0.4, 1.3), "cascade": True},
    "x(32x4d)_111-12-1211_0-0-0_8-12-4": {"soft_nms": "gaussian", "norm_epsilon": 0.0, "base_width": 16},
    "b_11-211-21-1": {"neck": {"kind": "nas_fpn", "stacks": 2}, "stem": "3x3", "score_threshold": 0.01, "rpn_nms": 0.9, "box_nms": 0.95},
    "b_11-211-11-1-1": {"neck": {"kind": "nas_fcos", "cells": "p0s_1d-c2w_3k-p3s_4k-c0d_5w-p2k_2s-c1s_4w"}, "stem": "3x3"},
}
MORE_NETS: dict[str, dict[str, Any]] = {
    "b_11111111": {"proposals_test": 300},
    "b_1-1-1-1-1-1-21": {"cascade": True, "soft_nms": "linear", "stem": "3x3"},
    "r_1-1-11-2111_0-0-3-2": {"taps": (2, 2, 2, 3), "norm": "frozen"},
}


@pytest.mark.parametrize("text", [*NETS, *(pytest.param(text, marks=pytest.mark.long) for text in MORE_NETS)])
def test_all_find_what_mindspore_finds(text: str, tmp_path: Path) -> None:
    """All that a search can give: block types, stages, copies, stems, taps, odd sizes; cascade and soft-NMS."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    settings = Detector(**COMMON | (NETS | MORE_NETS)[text])
    net = build(architecture.parse(text), settings, 3)
    weights = lively(net)
    images, image_hw = inputs(settings.image_size)
    expected = tuple(one.asnumpy() for one in net.set_train(False)(Tensor(images), Tensor(image_hw)))
    classes = tuple({"label": k, "id": k, "name": str(k)} for k in (1, 2, 3))
    model = onnx_model(Model(arch=text, detector=settings, classes=classes), weights)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(["boxes", "scores", "labels"], {"images": images, "image_hw": image_hw})
    assert assert_same(expected, tuple(found)) >= 6
    alone = session.run(["boxes", "scores", "labels"], {"images": images[1:], "image_hw": image_hw[1:]})
    assert_same(tuple(one[1:] for one in expected), tuple(alone))
    assert (found[0][1, :, 2].max() <= image_hw[1, 1], found[0][1, :, 3].max() <= image_hw[1, 0]) == (True, True)
    folder = write_model(tmp_path / "model", text, settings, weights, tuple((one["id"], one["name"]) for one in classes))
    forms: tuple[tuple[Format, Wish], ...] = (("openvino", Wish()), ("om", Wish(soc="Ascend310P3")))
    for form, wish in forms:
        publish_export(export_model(str(folder), form, wish), str(tmp_path / form))
        assert assert_same(expected, open_network(tmp_path / form)(images, image_hw)) >= 6
    for part in sorted((tmp_path / "om").glob("*.onnx")):
        assert_fit_for_atc(onnx.load(part))


def assert_fit_for_atc(model: onnx.ModelProto) -> None:
    """ATC knows all operators, and every shape is static and not empty."""
    kinds = {node.op_type for node in model.graph.node}
    assert (kinds - ATC_OPERATORS, "Conv" in kinds or "Gemm" in kinds) == (set(), True)
    assert kinds.isdisjoint({"NonMaxSuppression", "RoiAlign", "TopK", "NonZero"})
    whole = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = [*whole.input, *whole.value_info, *whole.output]
    assert len(values) > len(kinds)
    for value in values:
        sizes = [(size.HasField("dim_value"), size.dim_value) for size in value.type.tensor_type.shape.dim]
        assert all(known and length > 0 for known, length in sizes), value
    for node in whole.node:
        if node.op_type == "Resize":  # ATC rounds halves up, whatever the attribute says: there must be none
            assert {one.name: one.s for one in node.attribute if one.name == "coordinate_transformation_mode"} == {
                "coordinate_transformation_mode": b"half_pixel"
            }


@pytest.mark.long
@pytest.mark.skipif(not GOLDEN.exists(), reason="no golden values")
def test_onnxruntime_finds_what_torchvision_found() -> None:
    """ResNet-50-FPN at full width, with 90 classes: torchvision's own detections for the weights of the golden rule."""
    with np.load(GOLDEN) as file:
        golden = dict(file)
    weights = spnas_weights(golden["names"].tolist(), golden["shapes"].tolist(), int(golden["salt"]))
    classes = tuple({"label": k, "id": k, "name": str(k)} for k in range(1, CLASSES + 1))
    model = onnx_model(Model(arch=str(ARCH), detector=SETTINGS, classes=classes), weights)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = {"images": network_input(golden["images"]), "image_hw": np.array([SETTINGS.image_size] * 2, np.float32)}
    boxes, scores, labels = session.run(["boxes", "scores", "labels"], given)
    theirs = tuple([golden[f"det_{name}_{image}"] for image in (0, 1)] for name in ("boxes", "scores", "labels"))
    assert assert_same((boxes, scores, labels), theirs) >= 100


@pytest.mark.long
@pytest.mark.skipif(not BCCD.exists(), reason="no shared data")
def test_the_same_ap_on_photographs(tmp_path: Path) -> None:
    """A detector that has seen BCCD for a few epochs, on its val split, in MindSpore and in onnxruntime."""
    settings = Detector(
        image_size=(128, 160), base_width=16, stem="3x3", fpn_channels=32, head_channels=64, anchor_scale=4.0, rpn_batch=64,
        proposals_train=100, proposals_test=100, roi_batch=32, max_boxes=32, score_threshold=0.01,
    )  # fmt: skip
    job = TrainJob(
        arch="b_11-121-112-121_0-1-0-1",
        detector=settings,
        recipe=Recipe(epochs=6, batch=4, lr=0.03, clip_norm=10.0),
        data=fingerprints.data_of(str(BCCD)),
    )
    store = Store(str(tmp_path / "store"))
    manifest = run_job(job, store.url, threads=2)
    folder = f"{store.url}/train/{manifest.digest}"
    expected = evaluate.score_model(folder, str(BCCD), "val")
    wishes: dict[str, tuple[Format, Wish]] = {
        "onnx": ("onnx", Wish()), "openvino": ("openvino", Wish()), "om": ("om", Wish(soc="Ascend310P3")),
        "int8": ("onnx", Wish(Calibration(32, str(BCCD)))),
    }  # fmt: skip
    for name, (form, wish) in wishes.items():
        publish_export(export_model(folder, form, wish), str(tmp_path / name))
    found = score_side_by_side([folder, *(str(tmp_path / name) for name in wishes)], str(BCCD), "val")
    assert [one.form for one in found] == ["mindspore", "onnx", "openvino", "om", "onnx-int8"]
    assert expected["AP"] > 0.15
    for name in metrics.STATS:
        for one in found[:4]:
            assert one.scores[name] == pytest.approx(expected[name], abs=0.002), (one.form, name)
    assert found[4].scores["AP"] == pytest.approx(expected["AP"], abs=0.02)
    assert found[4].size < 0.5 * found[1].size
