"""NMS by plain operators, for Ascend, beside MindSpore's operator on the CPU: the same boxes, and the same nets bit for bit."""

from functools import cache
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mindspore import Tensor
from nets import SMALL

from spnas_core.arch import parse
from spnas_core.jobs.train import make_step
from spnas_core.models.build import build
from spnas_core.models.step import get_weights, set_weights
from spnas_core.models.suppression import OperatorSuppression, PlainSuppression, suppression
from spnas_core.models.target import built_for, graph_target
from spnas_core.settings.training import Recipe

IMAGES, BOXES, APART = 2, 24, 1000.0


@cache
def both(limit: float) -> tuple[Any, Any]:
    ms.set_context(mode=ms.GRAPH_MODE)
    with built_for("Ascend"):
        plain = suppression(limit)
    return suppression(limit), plain


def marks(boxes: Any, limit: float) -> tuple[list[Any], list[Any]]:
    """What each keeps of boxes (2, 24, 4) that are sorted by score."""
    shifted = boxes.astype(np.float32) + np.arange(IMAGES, dtype=np.float32).reshape(-1, 1, 1) * APART * np.array([0, 1, 0, 1], np.float32)
    first, second = (cell(Tensor(shifted)).asnumpy().tolist() for cell in both(limit))
    return first, second


def test_the_target_chooses() -> None:
    assert graph_target() == "CPU"
    assert [type(cell) for cell in both(0.5)] == [OperatorSuppression, PlainSuppression]
    assert graph_target() == "CPU"


@pytest.mark.training
@pytest.mark.parametrize("limit", [0.5, 0.7])
@settings(max_examples=100, deadline=None)
@given(corners=hnp.arrays(np.int32, (IMAGES, BOXES, 4), elements=st.integers(0, 40)))
def test_both_keep_the_same(limit: float, corners: Any) -> None:
    """Whole px, so that no IoU is rounded to another side of the limit; many boxes are equal, empty, or inside of others."""
    first, second = marks(
        np.concatenate((np.minimum(corners[..., :2], corners[..., 2:]), corners.max(-1, keepdims=True).repeat(2, -1)), -1), limit
    )
    assert first == second


@pytest.mark.training
def test_a_chain_of_overlaps_is_followed_to_its_end() -> None:
    """Each box overlaps only its neighbours: every second stays, which takes as many passes as there are boxes."""
    left = np.arange(BOXES, dtype=np.float32) * 3
    line = np.stack((left, np.zeros(BOXES), left + 10, np.full(BOXES, 10.0)), -1)
    first, second = marks(np.stack((line, line[::-1])), 0.5)
    assert first == second == [[number % 2 == 0 for number in range(BOXES)]] * 2


@pytest.mark.training
@pytest.mark.parametrize("cascade", [False, True])
def test_a_net_for_ascend_learns_and_finds_the_same(cascade: bool) -> None:
    """Detections, the losses of three steps and the weights after them, bit for bit."""
    ms.set_context(mode=ms.GRAPH_MODE)
    detector = SMALL.model_copy(update={"cascade": cascade})
    rng = np.random.default_rng(0)
    images, size = rng.standard_normal((2, 3, 64, 64)).astype(np.float32), np.full((2, 2), 64, np.float32)
    boxes, labels = np.zeros((2, 8, 4), np.float32), np.zeros((2, 8), np.int32)
    boxes[:, :2], labels[:, :2] = [[5, 5, 30, 30], [20, 12, 60, 50]], [1, 3]
    found, start = [], None
    for target in ("CPU", "Ascend"):
        with built_for(target):
            net = build(parse("b_1111-2111"), detector, 3)
        start = start or get_weights(net)
        set_weights(net, start)
        detections = [output.asnumpy() for output in net.set_train(False)(Tensor(images), Tensor(size))]
        step = make_step(net, Recipe()).set_train()
        inputs = (images, size, boxes, labels, *net.draws(boxes, labels, 0, 0))  # type: ignore[attr-defined]
        losses = [step(Tensor(np.float32(0.01)), *map(Tensor, inputs)).asnumpy() for _ in range(3)]
        found.append([*detections, *losses, *get_weights(net).values()])
    assert (found[0][1] > 0).any()
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)
