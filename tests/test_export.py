"""ONNX in onnxruntime against the net in MindSpore that it comes from."""

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from exported import COMMON, assert_same, inputs, lively
from golden_weights import ARCH, CLASSES, GOLDEN, SETTINGS, network_input, spnas_weights
from mindspore import Tensor
from PIL import Image

from spnas_core import arch as architecture
from spnas_core import metrics
from spnas_core.data import fingerprints, splits
from spnas_core.export.folder import export_model, publish_export
from spnas_core.export.onnx_model import onnx_model
from spnas_core.export.shipped.detect import Detector as Shipped
from spnas_core.job import TrainJob
from spnas_core.jobs import evaluate
from spnas_core.jobs.runner import run_job
from spnas_core.models.build import build
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store
from spnas_core.weights.model_folder import Model

pytestmark = pytest.mark.training
BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
NETS: dict[str, dict[str, Any]] = {
    "b_111-2111-21-21-1_1-0-2-3-0_8-6-8-4-8": {"stem": "3x3"},
    "r_11-21-211-2_0-2-1-1": {"taps": (1, 1, 2), "share_weights": False, "anchor_ratios": (0.4, 1.3), "cascade": True},
    "x(32x4d)_111-12-1211_0-0-0_8-12-4": {"soft_nms": "gaussian", "norm_epsilon": 0.0, "base_width": 16},
}
MORE_NETS: dict[str, dict[str, Any]] = {
    "b_11111111": {"proposals_test": 300},
    "b_1-1-1-1-1-1-21": {"cascade": True, "soft_nms": "linear", "stem": "3x3"},
    "r_1-1-11-2111_0-0-3-2": {"taps": (2, 2, 2, 3), "norm": "frozen"},
}


@pytest.mark.parametrize("text", [*NETS, *(pytest.param(text, marks=pytest.mark.long) for text in MORE_NETS)])
def test_onnxruntime_finds_what_mindspore_finds(text: str) -> None:
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
    assert assert_same(expected, tuple(found)) >= 8
    alone = session.run(["boxes", "scores", "labels"], {"images": images[1:], "image_hw": image_hw[1:]})
    assert_same(tuple(one[1:] for one in expected), tuple(alone))
    assert (found[0][1, :, 2].max() <= image_hw[1, 1], found[0][1, :, 3].max() <= image_hw[1, 0]) == (True, True)


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
    publish_export(export_model(folder, "onnx"), str(tmp_path / "out"))
    detector, split = Shipped(tmp_path / "out"), splits.open_split(str(BCCD), "val")
    results = []
    for sample in split.samples:
        with Image.open(sample.file) as image:
            for one in detector(image):
                x1, y1, x2, y2 = one["box"]
                box = [x1, y1, x2 - x1, y2 - y1]
                results.append({"image_id": sample.image_id, "category_id": one["id"], "score": one["score"], "bbox": box})
    found = metrics.score_detections(split.annotations, results, "pycocotools")
    assert expected["AP"] > 0.15
    for name, value in found.stats.items():
        assert value == pytest.approx(expected[name], abs=0.002), name
