"""The Cascade R-CNN head: losses and detections against slow numpy, and whole trainings with it and with soft-NMS."""

import json
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
import pytest
from mindspore import Tensor
from nets import SIZES, SMOKE

from spnas_core import arch as architecture
from spnas_core.data import fingerprints, splits
from spnas_core.job import TrainJob, Weights
from spnas_core.jobs import detection, evaluate
from spnas_core.jobs.predict import predict
from spnas_core.jobs.runner import run_job
from spnas_core.models.build import build
from spnas_core.models.cascade import CascadeHead
from spnas_core.search.costs import candidate_cost
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store

pytestmark = pytest.mark.training
Floats = npt.NDArray[np.float32]
CODERS, IOUS, LOSS_WEIGHTS = [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)], [0.5, 0.6, 0.7], [1, 0.5, 0.25]
SETTINGS = Detector(
    image_size=(64, 96), base_width=4, stem="3x3", fpn_channels=8, head_channels=16, anchor_scale=4, rpn_batch=16, proposals_train=40,
    proposals_test=25, roi_batch=24, max_boxes=4, detections=12, score_threshold=0.2, cascade=True,
)  # fmt: skip
CLASSES = 3
HW = np.array([[64, 96], [50, 71]], np.float32)
TRUTH = np.array([[[5, 5, 30, 40], [40, 10, 90, 60], [50, 30, 70, 50], [0, 0, 0, 0]], [[10, 10, 40, 45]] + [[0, 0, 0, 0]] * 3], np.float32)
LABELS = np.array([[1, 2, 3, 0], [2, 0, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def head() -> CascadeHead:
    """A head with last layers large enough that its boxes move and its classes differ."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    ms.set_seed(0)
    found: CascadeHead = build(architecture.parse("b_111-211-211"), SETTINGS, CLASSES).head
    rng = np.random.default_rng(1)
    for stage in found.stages:
        for layer, size in ((stage.score, 2.0), (stage.delta, 0.6)):
            layer.weight.set_data(Tensor(rng.normal(0, size, layer.weight.shape).astype(np.float32)))
    return found


def inputs() -> tuple[tuple[Tensor, ...], Floats, npt.NDArray[np.bool_]]:
    """Pyramid, proposals (around the ground truth and elsewhere) and their validity, for two images."""
    rng = np.random.default_rng(0)
    maps = tuple(Tensor(rng.standard_normal((2, 8, *size)).astype(np.float32)) for size in ((16, 24), (8, 12), (4, 6), (2, 3)))
    near = TRUTH[np.arange(2)[:, None], rng.integers(0, [[3], [1]], (2, 25))] + rng.normal(0, 4, (2, 25, 4))
    corner, side = rng.uniform(0, 40, (2, 15, 2)), rng.uniform(2, 40, (2, 15, 2))
    proposals = np.concatenate((near, np.concatenate((corner, corner + side), -1)), 1)
    proposals = np.concatenate((proposals[..., :2], np.maximum(proposals[..., 2:], proposals[..., :2] + 1)), -1)
    return maps, np.stack([clip(p, hw) for p, hw in zip(proposals, HW, strict=True)]), rng.random((2, 40)) < 0.9


def clip(boxes: npt.NDArray[Any], hw: Floats) -> Floats:
    return np.clip(boxes, 0, [hw[1], hw[0], hw[1], hw[0]]).astype(np.float32)


def corners(boxes: Floats) -> tuple[Floats, Floats]:
    """Centres and sides."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def decode(delta: Floats, boxes: Floats, coder: tuple[int, ...]) -> Floats:
    centre, side = corners(boxes)
    delta = delta / np.array(coder)
    middle, half = centre + delta[..., :2] * side, np.exp(np.minimum(delta[..., 2:], np.log(1000 / 16))) * side / 2
    return np.concatenate((middle - half, middle + half), -1)


def encode(truth: Floats, boxes: Floats, coder: tuple[int, ...]) -> Floats:
    (centre, side), (theirs, size) = corners(boxes), corners(truth)
    side = np.maximum(side, 1e-6)
    return np.concatenate(((theirs - centre) / side, np.log(size / side)), -1) * np.array(coder)


def overlaps(first: Floats, second: Floats) -> Floats:
    a, b = first[:, None].astype(float), second[None].astype(float)
    inter = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    return inter / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter)


def softmax(score: Floats) -> Floats:
    found = np.exp(score - score.max(-1, keepdims=True))
    return found / found.sum(-1, keepdims=True)


def test_losses(head: CascadeHead) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    maps, proposals, valid = inputs()
    noise = np.random.default_rng(3).random((2, 44)).astype(np.float32) * 0.9 + 0.05
    given = [Tensor(one) for one in (proposals, valid, TRUTH, LABELS, noise)]
    ours = [float(one.asnumpy()) for one in head.losses(maps, *given, Tensor(HW))]
    regions, label, target, weight = (one.asnumpy() for one in head.sample(*given))
    expected, positives = np.zeros(2), []
    for stage in range(3):
        score, delta = (one.asnumpy() for one in head(maps, Tensor(regions), stage))
        cross_entropy = -np.log(np.take_along_axis(softmax(score), label[..., None], -1))[..., 0]
        distance = np.abs(delta - target)
        distance = np.where(distance < 1 / 9, distance**2 * 4.5, distance - 1 / 18).sum(-1)
        positives.append(int((label > 0).sum()))
        expected += LOSS_WEIGHTS[stage] * np.array([(cross_entropy * weight).sum(), (distance * weight * (label > 0)).sum()]) / weight.sum()
        if stage == 2:
            break
        for image in range(2):
            regions[image] = clip(decode(delta[image], regions[image], CODERS[stage]), HW[image])
            weight[image] *= ((regions[image, :, 2:] - regions[image, :, :2]) >= 1e-2).all(-1)
            present = LABELS[image] > 0
            iou = overlaps(regions[image], TRUTH[image, present])
            nearest = iou.argmax(1)
            label[image] = np.where((iou.max(1) >= IOUS[stage + 1]) & (weight[image] > 0), LABELS[image, nearest], 0)
            target[image] = encode(TRUTH[image, nearest], regions[image], CODERS[stage + 1])
    assert ours == pytest.approx(expected.tolist(), rel=1e-4)
    assert min(positives) > 0
    assert len(set(positives)) == 3


def test_a_stage_does_not_learn_through_the_next_ones_regions(head: CascadeHead) -> None:
    """The gradient of the first stage is the same whatever the later ones are; and every parameter has one."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    maps, proposals, valid = inputs()
    given = [Tensor(one) for one in (proposals, valid, TRUTH, LABELS, np.full((2, 44), 0.5, np.float32))]
    weights = ms.ParameterTuple(head.trainable_params())
    assert len(weights) == 3 * 8

    def gradients() -> list[Floats]:
        return [g.asnumpy() for g in ms.grad(lambda *args: sum(head.losses(maps, *args)), None, weights)(*given, Tensor(HW))]

    first = gradients()
    assert all(np.abs(one).max() > 0 for one in first)
    later = [parameter for parameter in weights if ".stages.1." in parameter.name]
    assert len(later) == 8
    kept = [parameter.asnumpy().copy() for parameter in later]
    try:
        for parameter in later:
            parameter.set_data(Tensor(0.5 * parameter.asnumpy()))
        second = gradients()
    finally:
        for parameter, value in zip(later, kept, strict=True):
            parameter.set_data(Tensor(value))
    changed = {p.name.split("stages.")[1][0] for p, a, b in zip(weights, first, second, strict=True) if not np.array_equal(a, b)}
    assert changed == {"1", "2"}


@pytest.mark.parametrize("soft", [None, "linear", "gaussian"])
def test_detections(head: CascadeHead, soft: Any) -> None:
    """Means of the three stages' shares, boxes of the last; NMS within each class, or the candidates for soft-NMS."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    maps, proposals, valid = inputs()
    head.select.soft = soft is not None
    boxes, scores, labels = (one.asnumpy() for one in head.detect(maps, Tensor(proposals), Tensor(valid), Tensor(HW)))
    head.select.soft = False
    found, share = proposals.copy(), np.zeros((2, 40, CLASSES + 1))
    for coder, stage in zip(CODERS, range(3), strict=True):
        score, delta = (one.asnumpy() for one in head(maps, Tensor(found), stage))
        share += softmax(score) / 3
        found = np.stack([clip(decode(delta[image], found[image], coder), HW[image]) for image in range(2)])
    for image in range(2):
        expected = []
        large = ((found[image, :, 2:] - found[image, :, :2]) >= 1e-2).all(-1) & valid[image]
        for label in range(1, CLASSES + 1):
            rows = np.flatnonzero(large & (share[image, :, label] > SETTINGS.score_threshold))
            kept: list[int] = []
            for row in rows[np.argsort(-share[image, rows, label], kind="stable")]:
                if soft or not kept or overlaps(found[image, [row]], found[image, kept]).max() <= SETTINGS.box_nms:
                    kept.append(row)
            expected += [(share[image, row, label], label, found[image, row]) for row in kept]
        expected = sorted(expected, key=lambda one: -one[0])[: None if soft else SETTINGS.detections]
        there = scores[image] > 0
        assert len(expected) > 3
        assert labels[image][there].tolist() == [one[1] for one in expected]
        np.testing.assert_allclose(scores[image][there], [one[0] for one in expected], rtol=1e-4)
        np.testing.assert_allclose(boxes[image][there], [one[2] for one in expected], atol=2e-3)


def test_the_parameters_and_macs_that_cost_says() -> None:
    arch = architecture.parse("b_111-211-211")
    net = build(arch, SETTINGS, CLASSES)
    params = sum(p.size for p in net.get_parameters() if not p.name.endswith(("moving_mean", "moving_variance")))
    whole = candidate_cost(arch, SETTINGS, CLASSES)
    assert params == whole.params
    once = 8 * 49 * 16 + 16 * 16 + 16 * (CLASSES + 1) + 16 * 4
    more = candidate_cost(arch, SETTINGS.model_copy(update={"proposals_test": 26}), CLASSES)
    assert more.macs - whole.macs == 3 * once


@pytest.mark.long
def test_a_training_with_cascade_and_soft_nms(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One job trains from a net with one box head; training, evaluation and prediction lower scores by the same code."""
    store = Store(str(tmp_path / "store"))
    cascade = Detector(**SIZES | {"score_threshold": 0.01, "detections": 6, "cascade": True, "soft_nms": "gaussian"})
    common: dict[str, Any] = {"arch": "b_1111-2111", "data": fingerprints.data_of(str(tiny_data))}
    recipe = Recipe(epochs=1, batch=4, lr=0.01, warmup_steps=0, clip_norm=10.0)
    parent = run_job(TrainJob(detector=SMOKE, recipe=recipe, **common), store.url)
    weights = Weights(kind="train", digest=parent.digest, arch="b_1111-2111")
    child = run_job(TrainJob(detector=cascade, recipe=recipe, weights=(weights,), **common), store.url)
    audit = json.loads(store.fetch("train", child.digest, "audit.json").read_text())
    assert audit["new"] == [f"head.stages.{stage}.delta.{part}" for stage in range(3) for part in ("bias", "weight")]
    assert audit["dropped"] == ["head.delta.bias", "head.delta.weight"]
    records = json.loads(store.fetch("train", child.digest, "detections.json").read_text())
    assert records

    model = tmp_path / "model"
    model.mkdir()
    for name in ("model.json", "weights.safetensors"):
        (model / name).write_bytes(store.fetch("train", child.digest, name).read_bytes())
    net, card = evaluate.open_model(str(model))
    split = splits.open_split(str(tiny_data), "val")
    assert detection.detect(net, split, card.detector) == records
    monkeypatch.setattr(evaluate, "open_model", lambda _: (net, card))  # it is compiled
    (picture,) = predict(str(model), [str(tiny_data / "images" / "val_0.png")], str(tmp_path / "out"), 0.0)
    first = [record for record in records if record["image_id"] == 1]
    assert [one["score"] for one in picture["objects"]] == pytest.approx([record["score"] for record in first], abs=1e-4)
