"""RetinaNet and FCOS by definition: settings, targets, losses, the best of a level, costs; torchvision's values are in another file."""

from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from mindspore import Tensor
from pydantic import ValidationError

from flows import presets
from spnas_core.arch import ArchError, parse
from spnas_core.cost import stage_sizes
from spnas_core.data.loader import Batch
from spnas_core.models.anchors import anchor_grid, anchor_shapes, place_anchors
from spnas_core.models.build import build
from spnas_core.models.dense_head import LevelBest
from spnas_core.models.dense_losses import FocalLoss, giou_loss
from spnas_core.models.dense_targets import anchor_targets, point_targets
from spnas_core.models.step import TrainStep, get_weights, set_weights
from spnas_core.necks import parse_neck
from spnas_core.necks.fpn import Fpn
from spnas_core.search.costs import candidate_cost
from spnas_core.settings.detector import Detector
from spnas_core.settings.one_stage import RetinaNetHead
from spnas_core.weights.net_shapes import net_shapes

Array = npt.NDArray[Any]
KINDS = ("retinanet", "fcos")
TINY: dict[str, Any] = {"image_size": (70, 101), "base_width": 4, "max_boxes": 6, "detections": 10, "score_threshold": 0.0}


def tiny(kind: str, neck: dict[str, Any] | None = None, **head: Any) -> Detector:
    groups = {"norm_groups": 4} if kind == "fcos" else {}
    return Detector(**TINY, neck={"channels": 8, **(neck or {})}, head={"kind": kind, "depth": 2, **groups, **head})


def boxes_in(rng: np.random.Generator, count: int, size: tuple[int, int]) -> Array:
    """Boxes (count, 4) of all sizes inside of an image of `size` (height, width)."""
    limits = np.array(size[::-1])
    side = np.exp(rng.uniform(np.log(2), np.log(limits - 2), (count, 2)))
    corner = rng.random((count, 2)) * (limits - side)
    return np.concatenate((corner, corner + side), 1).astype(np.float32)


def overlap(a: Array, b: Array) -> float:
    inter = float(np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)))
    return inter / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - inter)


def test_defaults_are_those_of_torchvision() -> None:
    retinanet, fcos = (Detector(head={"kind": kind}) for kind in KINDS)
    assert (retinanet.score_threshold, retinanet.box_nms, retinanet.detections) == (0.05, 0.5, 300)
    assert (fcos.score_threshold, fcos.box_nms, fcos.detections) == (0.2, 0.6, 100)
    assert retinanet.neck == fcos.neck == Fpn(first_level=1, extra_levels="p5")
    assert Detector(head={"kind": "fcos"}, box_nms=0.5, neck={"extra_levels": "c5"}).neck == Fpn(first_level=1, extra_levels="c5")
    assert Detector(head=RetinaNetHead(), neck=Fpn()).neck == Fpn()  # a value says all of itself
    assert Detector.model_validate_json(fcos.model_dump_json()) == fcos == fcos.model_copy()
    arch = parse("r_111-2111-211111-211")
    # those of retinanet_resnet50_fpn and fcos_resnet50_fpn for 91 classes; their frozen norms are buffers there
    assert [candidate_cost(arch, one, 91).params - 53_120 for one in (retinanet, fcos)] == [34_014_999, 32_269_600]


def test_former_digests_do_not_know_the_new_settings_of_a_pyramid() -> None:
    assert "neck" not in Detector().former_document()
    assert Detector(neck={"extra_levels": "none"}).former_document()["neck"] == {"extra_levels": "none"}


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["detector.neck.channels=48"], "detector: expected neck.channels to be a multiple of head.norm_groups, 32, got 48"),
        (["detector.neck.first_level=4"], "'b_11-21-21-21_0-0-0-0': expected neck.first_level of at most 3, got 4"),
        (["serial.evaluator=supernet"], "settings: expected a two-stage detector.head with serial.evaluator: supernet, got fcos"),
        (["space.neck_channels=[64, 72]"], "expected space.neck_channels to be multiples of detector.head.norm_groups, 32, got 72"),
        (["detector.head={kind: retinanet, foreground_iou: 0.3}"], "expected background_iou of at most foreground_iou, 0.3, got 0.4"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line(sets: list[str], expected: str) -> None:
    _, mistakes = presets.read_preset("fcos_bccd", sets)
    assert len(mistakes) == 1
    assert expected in mistakes[0]


@given(
    st.integers(1, 999), st.none() | st.lists(st.integers(0, 6), max_size=4).map(tuple), st.integers(0, 6),
    st.sampled_from(["none", "pool", "p5", "c5"]),
)  # fmt: skip
def test_a_pyramid_has_one_text(channels: int, taps: Any, first: int, extra: Any) -> None:
    neck = Fpn(channels=channels, taps=taps, first_level=first, extra_levels=extra)
    assert parse_neck(neck.text) == neck


def test_outputs_of_a_pyramid_that_begins_later() -> None:
    arch, size = parse("b_11-21-21-21"), (75, 101)
    sizes = stage_sizes(arch, size)
    outputs = Fpn(first_level=1, extra_levels="p5").outputs(arch, size)
    assert [one.size for one in outputs] == [*sizes[1:], (2, 2), (1, 1)]
    assert [one.stride for one in outputs] == [one.scale for one in outputs] == [8, 16, 32, 64, 128]
    assert [one.extra for one in outputs] == [False] * 3 + [True] * 2
    assert [one.size for one in Fpn(extra_levels="none").outputs(arch, size)] == list(sizes)
    tapped = Fpn(first_level=1, extra_levels="c5", taps=(2, 2, 2)).outputs(arch, size)
    assert [one.size for one in tapped] == [sizes[2]] * 3 + [(2, 2), (1, 1)]
    with pytest.raises(ArchError, match="expected taps of at most 3 levels, each from 0 to 3"):
        Fpn(first_level=1, taps=(1, 1, 1, 1)).reads(arch)


def test_anchors_of_an_octave() -> None:
    shapes = anchor_shapes(32.0, (0.5, 1.0, 2.0), 3)
    assert shapes[3:6].tolist() == [[-16, -16, 16, 16], [-20, -20, 20, 20], [-25, -25, 25, 25]]
    ratios = (shapes[:, 3] - shapes[:, 1]) / (shapes[:, 2] - shapes[:, 0])
    assert ratios.tolist() == pytest.approx([0.5] * 3 + [1.0] * 3 + [2.0] * 3, rel=0.05)  # corners are whole


@example_settings(max_examples=25)
@given(st.integers(0, 9999), st.integers(0, 6), st.sampled_from(["l1", "giou"]))
def test_targets_of_anchors(seed: int, count: int, loss: Any) -> None:
    rng = np.random.default_rng(seed)
    settings = tiny("retinanet", box_loss=loss)
    anchors = np.concatenate(place_anchors(anchor_grid(parse("b_11-21-21"), settings), (0.5, 1.0, 2.0), 3))[::7]
    truth, labels = np.zeros((1, 6, 4), np.float32), np.zeros((1, 6), np.int32)
    truth[0, :count], labels[0, :count] = boxes_in(rng, count, (70, 101)), rng.integers(1, 4, count)
    found = anchor_targets(anchors, truth, labels, settings.head)
    iou = np.array([[overlap(anchor, box) for box in truth[0, :count]] for anchor in anchors]).reshape(len(anchors), count)
    best = iou.max(1, initial=0)
    positive = (best >= 0.5) | (iou >= iou.max(0, initial=0) - 1e-6).any(1)
    sure = np.abs(best - 0.5) > 1e-5
    np.testing.assert_array_equal((found.label[0] > 0)[sure], positive[sure])
    ignored = ~positive & (best >= 0.4)
    np.testing.assert_array_equal((found.weight[0] == 0)[np.abs(best - 0.4) > 1e-5], ignored[np.abs(best - 0.4) > 1e-5])
    np.testing.assert_allclose(found.weight[0][~ignored & sure & (np.abs(best - 0.4) > 1e-5)], 1 / max(1, (found.label > 0).sum()))
    for row in np.flatnonzero(found.label[0] > 0):
        box, target, anchor = truth[0, iou[row].argmax()], found.target[0, row], anchors[row]
        if loss == "l1":
            side, own = anchor[2:] - anchor[:2], box[2:] - box[:2]
            centre = (anchor[:2] + anchor[2:]) / 2 + target[:2] * side
            box, target = box, np.concatenate((centre - np.exp(target[2:]) * side / 2, centre + np.exp(target[2:]) * side / 2))
            assert own.min() > 0
        np.testing.assert_allclose(target, box, atol=1e-2)


@example_settings(max_examples=25)
@given(st.integers(0, 9999), st.integers(0, 6))
def test_targets_of_points(seed: int, count: int) -> None:
    """Of the boxes that a point may stand for, the smallest: inside, within 1.5 strides of the centre, of a size for the level."""
    rng = np.random.default_rng(seed)
    grid = anchor_grid(parse("b_11-21-21"), tiny("fcos"))
    per_level = place_anchors(grid, (1.0,))
    squares = np.concatenate(per_level)
    levels = np.concatenate([np.full(len(one), number) for number, one in enumerate(per_level)])
    truth, labels = np.zeros((1, 6, 4), np.float32), np.zeros((1, 6), np.int32)
    truth[0, :count], labels[0, :count] = boxes_in(rng, count, (70, 101)), rng.integers(1, 4, count)
    found = point_targets(squares, (len(per_level[0]), len(per_level[-1])), truth, labels, 1.5)
    for row, square in enumerate(squares):
        (x, y), stride = (square[:2] + square[2:]) / 2, square[2] - square[0]
        fitting = []
        for number in range(count):
            x1, y1, x2, y2 = truth[0, number].astype(float)
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            low = 0 if levels[row] == 0 else 4 * stride
            high = np.inf if levels[row] == levels[-1] else 8 * stride
            near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < 1.5 * stride
            if near and min(sides) > 0 and low < max(sides) < high:
                across, down = sorted(sides[::2]), sorted(sides[1::2])
                fitting.append(((x2 - x1) * (y2 - y1), number, (across[0] / across[1] * down[0] / down[1]) ** 0.5))
        assert (found.label[0, row] > 0) == bool(fitting)
        if fitting:
            _, number, centrality = min(fitting)
            assert found.label[0, row] == labels[0, number]
            np.testing.assert_array_equal(found.target[0, row], truth[0, number])
            assert found.centrality[0, row] == pytest.approx(centrality, abs=1e-4)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 1.5), (1.0, 0.0)])
def test_focal_loss_and_its_gradient(alpha: float, gamma: float) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 4, (2, 3, 4, 5)).astype(np.float32)
    scores[0, 0, 0, :2] = 60, -60
    label, weight = rng.integers(0, 5, (2, 3, 5)).astype(np.int32), rng.random((2, 3, 5)).astype(np.float32)
    label[0, 0, :2] = 0

    def by_definition(x: Array) -> float:
        x = x.astype(np.float64)
        own = np.arange(1, 5).reshape(1, 1, 4, 1) == label[:, :, None]
        sign = np.where(own, 1, -1)
        chance = 1 / (1 + np.exp(-sign * x))
        loss = np.where(own, alpha, 1 - alpha) * (1 - chance) ** gamma * np.log1p(np.exp(-sign * x))
        return float((loss * weight[:, :, None]).sum())

    focal = FocalLoss(alpha, gamma)
    given_ = Tensor(label), Tensor(weight)
    value, gradient = ms.value_and_grad(lambda x: focal(x, *given_))(Tensor(scores))
    assert float(value.asnumpy()) == pytest.approx(by_definition(scores), rel=1e-5)
    found = gradient.asnumpy()
    assert np.isfinite(found).all()
    for place in [(0, 0, 0, 0), (0, 0, 0, 1), *np.ndindex(1, 1, 4, 5)]:
        step = np.zeros(scores.shape)
        step[place] = 1e-4
        slope = (by_definition(scores + step) - by_definition(scores - step)) / 2e-4
        assert found[place] == pytest.approx(slope, rel=1e-3, abs=1e-6), place


def test_giou_by_hand() -> None:
    """Equal boxes, a half, boxes apart (their hull is 3 times 1), and one without area."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [3, 3, 3, 3]], np.float32)
    truth = np.array([[0, 0, 2, 2], [0, 0, 1, 2], [2, 0, 3, 1], [0, 0, 1, 1]], np.float32)
    found = giou_loss(Tensor(boxes), Tensor(truth)).asnumpy()
    np.testing.assert_allclose(found, [0, 0.5, 1 + 1 / 3, 1 + 8 / 9], atol=1e-6)


@pytest.mark.parametrize(("shapes", "places", "classes", "most"), [(3, 20, 4, 15), (2, 3, 3, 100), (1, 30, 1, 7)])
def test_the_best_of_a_level_are_those_of_all_pairs(shapes: int, places: int, classes: int, most: int) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    rng = np.random.default_rng(0)
    scores = rng.random((2, shapes, classes, places)).astype(np.float32)
    deltas, anchors = rng.random((2, shapes, 4, places)).astype(np.float32), rng.random((shapes, places, 4)).astype(np.float32)
    best = LevelBest(anchors, classes, most)
    box = best.of_boxes(Tensor(scores.max(2).reshape(2, -1)))
    found = [one.asnumpy() for one in best.of_pairs(best.scores(Tensor(scores), box), box, Tensor(deltas))]
    for image in range(2):
        shape, label, place = np.unravel_index(np.argsort(-scores[image].ravel())[:most], scores.shape[1:])
        np.testing.assert_array_equal(found[0][image], scores[image, shape, label, place])
        np.testing.assert_array_equal(found[1][image], label)
        np.testing.assert_array_equal(found[2][image], anchors[shape, place])
        np.testing.assert_array_equal(found[3][image], deltas[image, shape, :, place])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("text", "neck"), [("b_111-211-211", {}), ("r_11-21-1-1_0-1-0-0", {"first_level": 0, "extra_levels": "c5"})])
def test_the_tensors_that_settings_say(kind: str, text: str, neck: dict[str, Any]) -> None:
    arch, settings = parse(text), tiny(kind, neck)
    net = build(arch, settings, 3)
    weights = get_weights(net)
    assert {name: array.shape for name, array in weights.items()} == net_shapes(arch, settings, 3)
    params = sum(array.size for name, array in weights.items() if not name.endswith(("moving_mean", "moving_variance")))
    assert params == candidate_cost(arch, settings, 3).params


def test_new_boxes_of_fcos_have_sides_that_can_move() -> None:
    x = Tensor(np.random.default_rng(0).standard_normal((2, 8, 9, 13)).astype(np.float32))
    nets = [build(parse("b_11-1-1"), tiny("fcos", **sets), 3) for sets in ({}, {"first_distance": 0})]
    start, torchvisions = (net.fcos(x, 0)[1].asnumpy() for net in nets)
    assert np.abs(start - 1).max() < 0.5
    assert (torchvisions == 0).mean() > 0.1  # what ReLU holds at 0 has no gradient


@pytest.mark.training
@pytest.mark.parametrize("kind", KINDS)
def test_a_net_learns_one_picture_by_heart(kind: str) -> None:
    """Its losses fall, and it finds the picture's objects, in full and in half precision."""
    ms.set_context(mode=ms.GRAPH_MODE)
    settings = tiny(kind, {"channels": 16}, candidates=50)
    arch = parse("b_11-21-21")
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((1, 3, 70, 101)).astype(np.float32)
    truth, labels = np.zeros((1, 6, 4), np.float32), np.zeros((1, 6), np.int32)
    truth[0, :2], labels[0, :2] = [[8, 10, 40, 42], [50, 20, 90, 60]], [1, 3]
    size = np.array([[70, 101]], np.float32)
    batch = Batch(pictures, size, truth, labels, np.arange(1), np.ones((1, 2), np.float32))
    net = build(arch, settings, 3)
    step = TrainStep(net, 0.9, (0.0,) * len(net.trainable_params()), 5.0).set_train()
    given_ = [Tensor(one) for one in net.inputs(batch, 0, 0)]
    losses = [float(step(Tensor(np.float32(0.02)), *given_).asnumpy().sum()) for _ in range(200)]
    assert losses[-1] < 0.5 * losses[0]
    boxes, scores, found = (one.asnumpy()[0] for one in net.set_train(False)(Tensor(pictures), Tensor(size)))
    for box, label in zip(truth[0, :2], labels[0, :2], strict=True):
        assert max(overlap(box, one) for one, own in zip(boxes[:4], found[:4], strict=True) if own == label) > 0.6
    half = build(arch, settings, 3, half=True)
    set_weights(half, get_weights(net))
    rounded = [one.asnumpy()[0] for one in half.set_train(False)(Tensor(pictures), Tensor(size))]
    assert rounded[1][0] == pytest.approx(scores[0], abs=0.02)
    assert np.isfinite(step(Tensor(np.float32(0.0)), *given_).asnumpy()).all()


def test_wrong_kinds_are_refused() -> None:
    with pytest.raises(ValidationError, match="retinanet"):
        Detector(head={"kind": "ssd"})
