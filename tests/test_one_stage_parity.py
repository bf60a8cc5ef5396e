"""RetinaNet and FCOS against torchvision, number for number: golden values for weights made by a rule (weight_rule.py).

They are in `one_stage_golden.json`, for two salts. Where the environment variable SPNAS_TORCHVISION_PYTHON names the Python of an
environment with torchvision, a third salt is compared with torchvision itself.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from golden_weights import ARCH, network_input
from mindspore import Tensor, nn
from one_stage_inputs import CLASSES, HEIGHT, PICKED, WIDTHS, draw
from test_parity import Gradients, close, numpy
from weight_rule import rule

from spnas_core.data.loader import Batch
from spnas_core.jobs import initial_weights
from spnas_core.models.build import build
from spnas_core.models.detector import DetectorNet
from spnas_core.models.step import set_weights
from spnas_core.settings.detector import Detector
from spnas_core.weights.net_shapes import net_shapes
from spnas_core.weights.torchvision_names import to_spnas, to_torchvision

pytestmark = pytest.mark.training
PEER = os.environ.get("SPNAS_TORCHVISION_PYTHON")
STORED = Path(__file__).with_name("one_stage_golden.json")
LIVE_SALT = 3
NAMES = {"cls_logits": 0, "bbox_regression": 1, "bbox_ctrness": 2}  # places of the head's outputs
LOSSES = ("classification", "bbox_regression", "bbox_ctrness")
CASES = [(kind, salt) for kind in ("retinanet", "fcos") for salt in (0, 7, LIVE_SALT)]


class Parts(nn.Cell):
    """Everything between image and detection, in one graph."""

    def __init__(self, net: DetectorNet, kind: str) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.head = getattr(net, kind)

    def construct(self, x: Tensor, hw: Tensor) -> tuple[Any, ...]:
        stages = self.net.backbone(x)
        maps = self.net.neck(stages)
        outputs = ()
        for number in range(len(maps)):
            outputs = (*outputs, self.head(maps[number], number))
        return stages, maps, outputs, self.head.detect(maps, hw)


class Case:
    """One net: torchvision's values and ours."""

    def __init__(self, kind: str, salt: int, golden: dict[str, Any]) -> None:
        ms.set_context(mode=ms.GRAPH_MODE)
        self.kind, self.golden = kind, golden
        settings = Detector(image_size=(HEIGHT, max(WIDTHS)), norm="frozen", frozen_stages=2, max_boxes=10, head={"kind": kind})
        shapes = net_shapes(ARCH, settings, CLASSES)
        names = to_torchvision(ARCH, shapes)
        weights = {ours: rule(theirs, shapes[ours], salt) for ours, theirs in names.items()}
        images, boxes, labels = draw(salt)
        x, sizes = network_input(images), np.array([(HEIGHT, width) for width in WIDTHS], np.float32)
        truth, classes = np.zeros((2, 10, 4), np.float32), np.zeros((2, 10), np.int32)
        for row, width in enumerate(WIDTHS):
            x[row, :, :, width:] = 0
            truth[row, : len(boxes[row])], classes[row, : len(boxes[row])] = boxes[row], labels[row] + 1
        net = build(ARCH, settings, CLASSES)
        set_weights(net, weights)
        self.stages, self.maps, outputs, self.detections = numpy(Parts(net, kind).set_train(False)(Tensor(x), Tensor(sizes)))
        rows = [[one.transpose(0, 3, 1, 2).reshape(2, -1, one.shape[2]) for one in level] for level in outputs]
        self.outputs = [np.concatenate([level[number] for level in rows], 1) for number in range(len(rows[0]))]
        initial_weights.freeze(net, ARCH, settings)
        step = Gradients(net).set_train()
        batch = Batch(x, sizes, truth, classes, np.arange(2), np.ones((2, 2), np.float32))
        self.losses, norms = numpy(step(*map(Tensor, net.inputs(batch, 0, 0))))
        self.gradients = {parameter.name: float(norm) for parameter, norm in zip(step.weights, norms, strict=True)}


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (N, M), 0 for boxes without area."""
    a, b = first[:, None].astype(float), second[None].astype(float)
    inter = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    return inter / np.maximum((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter, 1e-9)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind, salt = request.param
    path = STORED
    if salt == LIVE_SALT:
        if not PEER:
            pytest.skip("SPNAS_TORCHVISION_PYTHON names no Python with torchvision")
        path = tmp_path_factory.mktemp("golden") / "live.json"
        subprocess.run([PEER, Path(__file__).with_name("one_stage_golden.py"), path, str(salt)], check=True)
    return Case(kind, salt, json.loads(path.read_text())[f"{kind} {salt}"])


def compare(ours: np.ndarray, theirs: dict[str, Any], kind: str) -> None:
    chosen = ours[tuple(slice(None, None, step) for step in PICKED[kind])]
    close(chosen.ravel(), np.array(theirs["values"]), theirs["std"])
    assert ours.std() == pytest.approx(theirs["std"], rel=1e-3)


def test_stages_and_pyramid(case: Case) -> None:
    for name, ours in (("body", case.stages[1:]), ("pyramid", case.maps)):
        assert len(ours) == len(case.golden[name])
        for level, theirs in zip(ours, case.golden[name], strict=True):
            compare(level, theirs, name)


def test_outputs_of_the_head(case: Case) -> None:
    assert len(case.outputs) == len(case.golden["head"])
    for name, theirs in case.golden["head"].items():
        compare(case.outputs[NAMES[name]], theirs, name)


def test_losses(case: Case) -> None:
    theirs = [case.golden["losses"][name] for name in LOSSES if name in case.golden["losses"]]
    assert case.losses.tolist() == pytest.approx(theirs, rel=1e-3)
    assert min(theirs) > 0.01


def test_gradients_of_every_trained_parameter(case: Case) -> None:
    theirs = case.golden["gradients"]
    ours = to_spnas(ARCH, theirs)
    assert case.gradients == pytest.approx({ours[name]: norm for name, norm in theirs.items()}, rel=0.01)


def test_detections(case: Case) -> None:
    boxes, scores, labels = case.detections
    for image, theirs in enumerate(case.golden["detections"]):
        kept = scores[image] > 0
        assert kept.sum() == len(theirs["scores"]) > 50
        their_boxes = np.array(theirs["boxes"])
        match = np.abs(their_boxes[:, None] - boxes[image][kept]).max(2) < 0.05  # some have no area: torchvision keeps what it has clipped
        match |= overlaps(their_boxes, boxes[image][kept]) > 0.99
        match &= np.array(theirs["labels"])[:, None] + 1 == labels[image][kept]
        match &= np.abs(np.array(theirs["scores"])[:, None] - scores[image][kept]) < 1e-3
        assert match.any(1).mean() >= 0.99
        assert match.any(0).mean() >= 0.99
