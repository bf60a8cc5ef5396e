"""Inference operator by operator and by a compiled graph: the same numbers, and one after the other."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from nets import SIZES

from spnas_core.arch import parse
from spnas_core.data.loader import Batch
from spnas_core.jobs.paths import OnePath
from spnas_core.models.build import build
from spnas_core.models.step import TrainStep
from spnas_core.models.supernet import SuperNet
from spnas_core.models.target import built_for
from spnas_core.search.family import Family
from spnas_core.search.paths import switches
from spnas_core.settings.detector import Detector

pytestmark = pytest.mark.training
ARCH = parse("b_11-21-21-21_0-1-0-0")
SMALL = Detector(**SIZES, stem="3x3", norm="train")
KINDS: dict[str, dict[str, Any]] = {
    "faster_rcnn": {},
    "frozen": {"norm": "frozen", "stem": "7x7"},
    "soft NMS": {"soft_nms": "linear"},
    "cascade_rcnn": {"head": {**SMALL.head.model_dump(), "kind": "cascade_rcnn"}},
    "retinanet": {"head": {"kind": "retinanet"}},
    "fcos, nas_fcos": {"neck": {"kind": "nas_fcos", "channels": 8}, "head": {"kind": "fcos", "norm_groups": 4}},
    "nas_fpn": {"neck": {"kind": "nas_fpn", "channels": 8, "stacks": 1}},
    "semantic_fpn": {"head": {"kind": "semantic_fpn", "channels": 8}},
}


@pytest.fixture(autouse=True)
def _by_graphs() -> Iterator[None]:
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(3)
    yield
    assert ms.get_context("mode") == ms.GRAPH_MODE


def images(number: int = 0) -> tuple[Tensor, Tensor]:
    pixels = np.random.default_rng(number).standard_normal((2, 3, 64, 64), dtype=np.float32)
    return Tensor(pixels), Tensor(np.array([[64, 64], [50, 61]], np.float32))


def equal(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_outputs_are_those_of_the_graph(kind: str) -> None:
    net = build(ARCH, Detector.model_validate({**SMALL.model_dump(), **KINDS[kind]}), 3).set_train(False)
    net.by_operators = 1
    first = net.infer(*images())
    assert not net.compile_cache
    again = net.infer(*images())
    assert net.compile_cache
    assert equal(first, again)
    assert np.ptp(first[0]) > 0


def test_a_path_of_a_supernet_too() -> None:
    family = Family(ARCH.serial(), inner=(6, 8))
    net = SuperNet(family, SMALL, 2)
    gates, masks = switches(family, ARCH.serial(), SMALL.base_width)
    net.set_train(False)
    net.by_operators = 1
    path = OnePath(net, (Tensor(gates), Tensor(masks)))
    assert equal(path.infer(*images()), path.infer(*images()))
    assert net.compile_cache


def test_a_net_in_float16_or_for_another_device_has_a_graph_at_once() -> None:
    """In float16 the graph and the operators round at other places."""
    assert build(ARCH, SMALL, 2).by_operators
    assert not build(ARCH, SMALL, 2, True).by_operators
    with built_for("Ascend"):
        assert not build(ARCH, SMALL, 2).by_operators


def test_a_training_goes_on_by_its_graph() -> None:
    """Steps before and after an inference are those of a training without one."""

    def losses(evaluated: bool) -> list[Any]:
        ms.set_seed(3)
        net = build(ARCH, SMALL, 2)
        step = TrainStep(net, 0.9, (1e-4,) * len(net.trainable_params()), None).set_train()
        rng = np.random.default_rng(0)
        corners = (rng.random((2, SMALL.max_boxes, 2)) * 30).astype(np.float32)
        batch = Batch(
            images()[0].asnumpy(), images()[1].asnumpy(), np.concatenate((corners, corners + 20), -1),
            np.ones((2, SMALL.max_boxes), np.int32), np.arange(2), np.ones((2, 2), np.float32),
        )  # fmt: skip
        found = []
        for number in range(4):
            found.append(step(Tensor(np.float32(0.02)), *map(Tensor, net.inputs(batch, 0, number))).asnumpy())
            if evaluated and number in (0, 2):
                net.set_train(False)
                net.infer(*images(number))
                step.set_train()
        return found

    assert equal(tuple(losses(False)), tuple(losses(True)))
