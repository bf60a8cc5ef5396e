"""Boxes against anchors: the quick search for the best anchor against all anchors, and the better set against a planted one."""

import numpy as np
import numpy.typing as npt
import pytest

from spnas_core import arch as architecture
from spnas_core.check.anchors import best_iou, fit_anchors, has_point, judge_anchors, to_input
from spnas_core.models.anchors import anchor_grid, place_anchors
from spnas_core.models.dense_targets import match_points
from spnas_core.settings.detector import Detector

ARCH = architecture.parse("b_11-21-21-21")


def random_boxes(count: int, size: tuple[int, int], seed: int) -> npt.NDArray[np.float64]:
    """Boxes (n, 4) xyxy inside (H, W), of any shape."""
    rng = np.random.default_rng(seed)
    ends = rng.random((count, 2, 2)) ** 1.5 * size[::-1]
    return np.concatenate([ends.min(axis=1), ends.max(axis=1) + 0.5], axis=1)


@pytest.mark.parametrize("taps", [None, (1, 1, 2, 3)])
@pytest.mark.parametrize("size", [(128, 128), (100, 170)])
def test_the_nearest_anchor_is_the_best_of_all(size: tuple[int, int], taps: tuple[int, ...] | None) -> None:
    settings = Detector(image_size=size, taps=taps, anchor_scale=5.0, anchor_ratios=(0.4, 1.0, 2.5))
    boxes = random_boxes(300, size, 1)
    grid = anchor_grid(ARCH, settings)
    anchors = np.concatenate(place_anchors(grid, settings.head.anchor_ratios)).astype(np.float64)
    overlap = np.minimum(boxes[:, None, 2:], anchors[:, 2:]) - np.maximum(boxes[:, None, :2], anchors[:, :2])
    inter = np.maximum(overlap, 0).prod(axis=2)
    areas = [(some[:, 2:] - some[:, :2]).prod(axis=1) for some in (boxes, anchors)]
    expected = (inter / (areas[0][:, None] + areas[1] - inter)).max(axis=1)
    np.testing.assert_allclose(best_iou(boxes, grid, settings.head.anchor_ratios), expected, atol=1e-6)


def test_boxes_follow_their_image_into_the_network_input() -> None:
    boxes, sizes = np.array([[10.0, 20.0, 30.0, 40.0]] * 2), np.array([[640.0, 480.0], [100.0, 400.0]])
    np.testing.assert_allclose(to_input(boxes, sizes, (240, 320)), [[5, 10, 20, 30], [6, 12, 24, 36]])


def test_flat_boxes_get_flat_anchors() -> None:
    settings = Detector(image_size=(256, 256))
    rng = np.random.default_rng(0)
    width = rng.uniform(40, 200, 400)
    height = width * np.exp(rng.normal(np.log(0.2), 0.1, 400))
    corner = rng.uniform(0, 1, (400, 2)) * (256 - np.stack([width, height], 1))
    boxes, sizes = np.concatenate([corner, np.stack([width, height], 1)], axis=1), np.full((400, 2), 256.0)
    unreached, better = judge_anchors("train", boxes, sizes, ARCH, settings)
    assert unreached.kind == "unreached"
    assert unreached.count > 300, "no anchor of ratio 0.5 covers a box of ratio 0.2"
    assert better.kind == "better-anchors"
    scale, ratios = fit_anchors(to_input(boxes, sizes, settings.image_size), ARCH, settings)
    assert all(0.1 < ratio < 0.35 for ratio in ratios)
    assert f"anchor_scale={scale:g}" in better.first
    mended = settings.model_copy(update={"anchor_scale": scale, "anchor_ratios": ratios})
    found = judge_anchors("train", boxes, sizes, ARCH, mended)
    assert found[0].count < 20
    assert len(found) == 1, "the better set is not bettered"


def test_nothing_is_said_where_the_anchors_fit_or_there_are_no_boxes() -> None:
    settings = Detector(image_size=(256, 256))
    side = np.random.default_rng(0).uniform(40, 120, 300)
    boxes = np.stack([side * 0, side * 0, side, side], axis=1) + np.array([20.0, 30.0, 0, 0])
    (only,) = judge_anchors("train", boxes, np.full((300, 2), 256.0), ARCH, settings)
    assert (only.kind, only.count) == ("unreached", 0)
    assert judge_anchors("train", boxes[:0], np.zeros((0, 2)), ARCH, settings) == []


def test_anchors_of_a_one_stage_head() -> None:
    """Several sizes at a place; the better set is one of that many sizes, and its words are settings of that head."""
    settings = Detector(image_size=(128, 160), head={"kind": "retinanet", "anchor_scale": 3.0})
    boxes, grid = random_boxes(200, (128, 160), 2), anchor_grid(ARCH, settings)
    anchors = np.concatenate(place_anchors(grid, (0.5, 1.0, 2.0), 3)).astype(np.float64)
    overlap = np.minimum(boxes[:, None, 2:], anchors[:, 2:]) - np.maximum(boxes[:, None, :2], anchors[:, :2])
    inter = np.maximum(overlap, 0).prod(axis=2)
    areas = [(some[:, 2:] - some[:, :2]).prod(axis=1) for some in (boxes, anchors)]
    expected = (inter / (areas[0][:, None] + areas[1] - inter)).max(axis=1)
    np.testing.assert_allclose(best_iou(boxes, grid, (0.5, 1.0, 2.0), 3), expected, atol=1e-6)
    small = np.array([[40.0 + 3 * n, 30.0, 18.0, 18.0] for n in range(20)])
    unreached, better = judge_anchors("train", small, np.full((20, 2), 160.0), ARCH, settings)
    assert (unreached.kind, unreached.count, better.kind) == ("unreached", 20, "better-anchors")
    scale, _ = fit_anchors(to_input(small, np.full((20, 2), 160.0), (128, 160)), ARCH, settings, 3)
    assert scale < 2.5


def test_boxes_without_a_point() -> None:
    settings = Detector(image_size=(128, 160), head={"kind": "fcos"})
    rng = np.random.default_rng(3)
    side = np.exp(rng.uniform(0, np.log(150), (300, 2)))
    corner = rng.random((300, 2)) * (np.array([160.0, 128.0]) - np.minimum(side, 120))
    boxes = np.concatenate([corner, np.minimum(corner + side, [160, 128])], axis=1)
    grid = anchor_grid(ARCH, settings)
    per_level = place_anchors(grid, (1.0,))
    squares, ends = np.concatenate(per_level), (len(per_level[0]), len(per_level[-1]))
    expected = match_points(squares, ends, boxes, 1.5).any(0)
    found = has_point(boxes, grid, 1.5)
    assert 30 < (~expected).sum() < 200
    assert (found == expected).all()
    (only,) = judge_anchors(
        "train", np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1), np.full((300, 2), 160.0), ARCH, settings
    )
    assert only.kind == "no-point"
