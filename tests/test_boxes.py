"""Boxes, drawing and NMS against slow numpy."""

import mindspore as ms
import numpy as np
import numpy.typing as npt
import pytest
from mindspore import Tensor, ops

from spnas_core.models import boxes
from spnas_core.models.anchors import Grid, place_anchors

Floats = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def _eager() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)


def random_boxes(rng: np.random.Generator, *shape: int, side: float = 100) -> Floats:
    corner = rng.random((*shape, 2)) * side * 0.7
    return np.concatenate((corner, corner + 1 + rng.random((*shape, 2)) * side * 0.3), -1).astype(np.float32)


def slow_iou(a: Floats, b: Floats) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return float(inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter))


def test_iou() -> None:
    rng = np.random.default_rng(0)
    first, second = random_boxes(rng, 2, 7), random_boxes(rng, 2, 5)
    expected = [[[slow_iou(a, b) for b in second[i]] for a in first[i]] for i in range(2)]
    np.testing.assert_allclose(boxes.iou(Tensor(first), Tensor(second)).asnumpy(), expected, atol=1e-5)
    shared = boxes.iou(Tensor(first[:1]), Tensor(second)).asnumpy()  # anchors: one set for all images
    np.testing.assert_allclose(shared[1], [[slow_iou(a, b) for b in second[1]] for a in first[0]], atol=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_decode_undoes_encode(weights: tuple[float, float, float, float]) -> None:
    rng = np.random.default_rng(1)
    wanted, references = random_boxes(rng, 3, 20), random_boxes(rng, 3, 20)
    deltas = boxes.encode(Tensor(wanted), Tensor(references), weights)
    np.testing.assert_allclose(boxes.decode(deltas, Tensor(references), weights).asnumpy(), wanted, atol=1e-3)


def test_clip_and_size() -> None:
    given = np.array([[[-5, -5, 30, 40], [10, 10, 90, 95]], [[0, 0, 5, 5], [60, 60, 70, 61]]], np.float32)
    clipped = boxes.clip(Tensor(given), Tensor(np.array([[50, 60], [100, 65]], np.float32))).asnumpy()
    np.testing.assert_array_equal(clipped, [[[0, 0, 30, 40], [10, 10, 60, 50]], [[0, 0, 5, 5], [60, 60, 65, 61]]])
    np.testing.assert_array_equal(boxes.large(Tensor(clipped), 5.0).asnumpy(), [[True, True], [True, False]])


def test_anchors_of_torchvision() -> None:
    """First and last anchors of a 2x3 map at stride 16 with sizes of 128 px, as torchvision's AnchorGenerator gives them."""
    (found,) = place_anchors(Grid(((2, 3),), (16,), (128.0,)), (0.5, 1.0, 2.0))
    assert found.shape == (18, 4)
    np.testing.assert_array_equal(found[:3], [[-91, -45, 91, 45], [-64, -64, 64, 64], [-45, -91, 45, 91]])
    np.testing.assert_array_equal(found[-2], [-32, -48, 96, 80])


def slow_nms(given: Floats, limit: float = 0.5) -> list[bool]:
    kept: list[int] = []
    for i in range(len(given)):
        if all(slow_iou(given[i], given[j]) <= limit for j in kept):
            kept.append(i)
    return [i in kept for i in range(len(given))]


def test_nms_of_each_image_and_group_alone() -> None:
    rng = np.random.default_rng(2)
    given = random_boxes(rng, 2, 60, side=40)
    group = rng.integers(0, 3, (2, 60)).astype(np.float32)
    keep = boxes.keep_after_nms(ops.NMSWithMask(0.5), boxes.set_apart(Tensor(given), Tensor(group), 200.0)).asnumpy()
    for image in range(2):
        for number in range(3):
            rows = np.flatnonzero(group[image] == number)
            assert keep[image, rows].tolist() == slow_nms(given[image, rows], 0.5)
    assert 0 < keep.sum() < keep.size


def test_drawing_takes_what_there_is_and_no_more() -> None:
    rng = np.random.default_rng(3)
    positive = np.zeros((3, 40), bool)
    positive[0, :3], positive[1, :20] = True, True
    noise = rng.random((3, 40)).astype(np.float32) * 0.9 + 0.05
    drawn = boxes.draw(Tensor(positive), Tensor(noise), 8)
    assert drawn.asnumpy().sum(1).tolist() == [3, 8, 0]
    assert not (drawn.asnumpy() & ~positive).any()
    rest = boxes.draw_rest(Tensor(~positive), Tensor(noise), drawn, 16).asnumpy()
    assert rest.sum(1).tolist() == [13, 8, 16]
    assert not (rest & positive).any()
    other = boxes.draw(Tensor(positive), Tensor(rng.random((3, 40)).astype(np.float32)), 8).asnumpy()
    assert (other != drawn.asnumpy()).any()


@pytest.mark.parametrize(("batch", "count"), [(1, 5), (5, 100), (3, 300), (8, 40)])
def test_nms_in_parts_is_nms_of_each_image(batch: int, count: int) -> None:
    """Whatever the number of images and boxes, also where the last part is shorter; slow NMS in numpy marks the same boxes."""
    given = random_boxes(np.random.default_rng(count), batch, count)
    keep = boxes.keep_after_nms(ops.NMSWithMask(0.5), boxes.set_apart(Tensor(given), Tensor(np.zeros((batch, count), np.float32)), 200.0))
    for image, marks in zip(given, keep.asnumpy(), strict=True):
        assert marks.tolist() == slow_nms(image)
