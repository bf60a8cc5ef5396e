"""Against torchvision, number for number: its golden values for weights made by a rule (weight_rule.py).

Where the environment variable SPNAS_TORCHVISION_PYTHON names the Python of an environment with torchvision, also for a second salt, with an
image that is smaller than the network input and the default number of detections.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from golden_weights import ARCH, CLASSES, GOLDEN, SETTINGS, network_input, spnas_weights
from mindspore import Tensor, nn, ops

from spnas_core.job import Data, TrainJob
from spnas_core.jobs import initial_weights
from spnas_core.models.build import build
from spnas_core.models.detector import DetectorNet
from spnas_core.models.step import set_weights
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe
from spnas_core.weights import adopt
from spnas_core.weights.torchvision_names import to_spnas

pytestmark = pytest.mark.training
PEER = os.environ.get("SPNAS_TORCHVISION_PYTHON")
SECOND_SALT = 7
LEVELS = (0, 1, 2, 3, "pool")


class Parts(nn.Cell):
    """Everything between image and detection, in one graph; and the features of given regions."""

    def __init__(self, net: DetectorNet) -> None:
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, x: Tensor, hw: Tensor, regions: Tensor) -> tuple[Any, ...]:
        net = self.net
        stages = net.backbone(x)
        maps = net.neck(stages)
        raw = ()
        for level in maps:
            hidden = ops.relu(net.rpn.conv(level))
            raw = (*raw, (net.rpn.score(hidden), net.rpn.delta(hidden)))
        proposals, valid = net.rpn.propose(*net.rpn(maps), hw)
        pooled = net.head.pooling(maps, regions)
        return stages, maps, raw, (proposals, valid), pooled, net.head.detect(maps, proposals, valid, hw)


class Gradients(nn.Cell):
    """The four losses, and the norms of the gradients of their sum."""

    def __init__(self, net: DetectorNet) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.weights = ms.ParameterTuple(net.trainable_params())
        self.gradient = ms.value_and_grad(self.total, None, self.weights, has_aux=True)

    def total(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        losses = self.net.losses(*batch)
        return losses.sum(), losses

    def construct(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        (_, losses), gradients = self.gradient(*batch)
        norms = ()
        for gradient in gradients:
            norms = (*norms, ops.sqrt((gradient * gradient).sum()))
        return losses, ops.stack(norms)


def numpy(value: Any) -> Any:
    return tuple(map(numpy, value)) if isinstance(value, tuple | list) else value.asnumpy()


def close(ours: np.ndarray, theirs: np.ndarray, std: float) -> None:
    """Assert that the difference is within 1e-3 of the standard deviation."""
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-3 * std


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (N, M) in numpy."""
    a, b = first[:, None].astype(float), second[None].astype(float)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inter = np.clip(sides, 0, None).prod(-1)
    return inter / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter)


@pytest.fixture(scope="module", params=["released", "second salt"])
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, np.ndarray]:
    path = GOLDEN
    if request.param == "second salt":
        if not PEER:
            pytest.skip("SPNAS_TORCHVISION_PYTHON names no Python with torchvision")
        path = tmp_path_factory.mktemp("golden") / "second.npz"
        subprocess.run([PEER, Path(__file__).with_name("torchvision_golden.py"), path, str(SECOND_SALT)], check=True)
    elif not path.exists():
        pytest.skip(f"no golden values at {path}")
    with np.load(path) as file:
        return {"sizes": np.array([SETTINGS.image_size] * 2), "detections": np.array(SETTINGS.detections), **file}


def settings_of(golden: Mapping[str, np.ndarray]) -> Detector:
    return SETTINGS.model_copy(update={"detections": int(golden["detections"])})


def inputs(golden: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The images as the net's input, zero beyond their sizes, and these."""
    x = network_input(golden["images"])
    for image, (height, width) in zip(x, golden["sizes"], strict=True):
        image[:, height:] = image[:, :, width:] = 0
    return x, golden["sizes"].astype(np.float32)


@pytest.fixture(scope="module")
def weights(golden: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return spnas_weights(golden["names"].tolist(), golden["shapes"].tolist(), int(golden["salt"]))


@pytest.fixture(scope="module")
def found(golden: Mapping[str, np.ndarray], weights: dict[str, np.ndarray]) -> tuple[Any, ...]:
    """Stages, pyramid, RPN head, proposals, pooled features of torchvision's proposals, detections."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net = build(ARCH, settings_of(golden), CLASSES)
    set_weights(net, weights)
    regions = np.stack((golden["proposals_0"], golden["proposals_1"]))
    return numpy(Parts(net).set_train(False)(*map(Tensor, (*inputs(golden), regions))))


@pytest.fixture(scope="module")
def trained(golden: Mapping[str, np.ndarray], weights: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, float]]:
    """Losses, and gradient norms by name."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net = build(ARCH, SETTINGS, CLASSES)
    loaded, audit = adopt.load_same(weights, weights)
    set_weights(net, loaded)
    job = TrainJob(arch=str(ARCH), detector=SETTINGS, recipe=Recipe(), data=Data(url="", fingerprint=""))
    initial_weights.choose_trained(net, job, audit)
    boxes, labels = np.zeros((2, SETTINGS.max_boxes, 4), np.float32), np.zeros((2, SETTINGS.max_boxes), np.int32)
    for image in range(2):
        count = len(golden[f"gt_labels_{image}"])
        boxes[image, :count], labels[image, :count] = golden[f"gt_boxes_{image}"], golden[f"gt_labels_{image}"]
    step = Gradients(net).set_train()
    draws = net.draws(boxes, labels, 0, 0)
    losses, norms = numpy(step(*map(Tensor, (*inputs(golden), boxes, labels, *draws))))
    return losses, {parameter.name: float(norm) for parameter, norm in zip(step.weights, norms, strict=True)}


def test_stages(found: tuple[Any, ...], golden: Mapping[str, np.ndarray]) -> None:
    for level, ours in enumerate(found[0]):
        std = golden[f"body_{level}_std"]
        close(ours[:, ::37, ::3, ::3], golden[f"body_{level}_slice"], std)
        assert abs(ours.mean() - golden[f"body_{level}_mean"]) < 1e-3 * std
        assert ours.std() == pytest.approx(std, rel=1e-3)


def test_pyramid(found: tuple[Any, ...], golden: Mapping[str, np.ndarray]) -> None:
    for level, ours in zip(LEVELS, found[1], strict=True):
        close(ours[:, ::29, ::2, ::2], golden[f"fpn_{level}_slice"], golden[f"fpn_{level}_std"])
        assert ours.std() == pytest.approx(golden[f"fpn_{level}_std"], rel=1e-3)


def test_proposal_head(found: tuple[Any, ...], golden: Mapping[str, np.ndarray]) -> None:
    for level, pair in enumerate(found[2]):
        for name, ours in zip(("objectness", "deltas"), pair, strict=True):
            theirs = golden[f"rpn_{name}_{level}"]
            close(ours[:, :, ::2, ::2], theirs, theirs.std())


def test_anchors(golden: Mapping[str, np.ndarray]) -> None:
    anchors = build(ARCH, SETTINGS, CLASSES).rpn.propose.anchors.asnumpy()
    assert len(anchors) == golden["anchors_count"]
    assert np.array_equal(anchors[::101], golden["anchors_first_image_every_101"])


def test_proposals(found: tuple[Any, ...], golden: Mapping[str, np.ndarray]) -> None:
    for image, (boxes, valid) in enumerate(zip(*found[3], strict=True)):
        theirs = golden[f"proposals_{image}"]
        match = overlaps(theirs, boxes[valid]) > 0.99
        assert valid.sum() == len(theirs)
        assert match.any(1).mean() >= 0.99
        assert match.any(0).mean() >= 0.99


def test_pooled_features(found: tuple[Any, ...], golden: Mapping[str, np.ndarray]) -> None:
    pooled = found[4].reshape(2000, 256, 7, 7)
    close(pooled[::17, ::31], golden["roi_slice"], golden["roi_std"])
    assert pooled.std() == pytest.approx(golden["roi_std"], rel=1e-3)


def test_detections(found: tuple[Any, ...], golden: Mapping[str, np.ndarray]) -> None:
    for image, (boxes, scores, labels) in enumerate(zip(*found[5], strict=True)):
        kept = scores > 0
        match = overlaps(golden[f"det_boxes_{image}"], boxes[kept]) > 0.99
        match &= golden[f"det_labels_{image}"][:, None] == labels[kept]
        match &= np.abs(golden[f"det_scores_{image}"][:, None] - scores[kept]) < 1e-3
        assert match.any(1).mean() >= 0.99
        assert match.any(0).mean() >= 0.99


def test_losses(trained: tuple[np.ndarray, dict[str, float]], golden: Mapping[str, np.ndarray]) -> None:
    theirs = [float(golden[f"loss_{name}"]) for name in ("classifier", "box_reg", "objectness", "rpn_box_reg")]
    assert trained[0].tolist() == pytest.approx(theirs, rel=1e-3)


def test_gradients_of_every_trained_parameter(trained: tuple[np.ndarray, dict[str, float]], golden: Mapping[str, np.ndarray]) -> None:
    names = golden["grad_names"].tolist()
    ours = to_spnas(ARCH, names)
    wanted = {ours[name]: norm for name, norm in zip(names, golden["grad_norms"].tolist(), strict=True)}
    assert trained[1] == pytest.approx(wanted, rel=0.01)
