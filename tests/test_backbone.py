"""The built nets against `arch`, `cost` and `morphism`, without compiling."""

from itertools import pairwise
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from spnas_core import arch as architecture
from spnas_core import cost
from spnas_core.models.backbone import Backbone
from spnas_core.models.build import build
from spnas_core.models.fpn import Pyramid
from spnas_core.models.step import get_weights, set_weights
from spnas_core.necks.fpn import Fpn
from spnas_core.search.costs import candidate_cost
from spnas_core.settings.detector import Detector
from spnas_core.weights import inherit

pytestmark = pytest.mark.training
SMALL = {"base_width": 8, "fpn_channels": 8, "head_channels": 16, "proposals_test": 20, "proposals_train": 20, "detections": 5}


@pytest.fixture(autouse=True)
def _eager() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    ms.set_seed(0)


def images(height: int = 64, width: int = 64) -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32))


def with_statistics(net: ms.nn.Cell) -> None:
    """Give the norms random statistics and scales, as a trained net has them."""
    rng = np.random.default_rng(1)
    weights = get_weights(net)
    for name, value in weights.items():
        if name.endswith((".gamma", ".moving_variance")):
            weights[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif name.endswith((".beta", ".moving_mean")):
            weights[name] = rng.normal(0, 0.2, value.shape).astype(np.float32)
    set_weights(net, weights)


@pytest.mark.parametrize("stem", ["7x7", "3x3"])
@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("b_11-21-21-21", (64, 64)),
        ("r_11-12-11-1-1", (75, 50)),
        ("x(32x4d)_11-2112-1-1", (64, 96)),
        ("b_1-11-11-1-1-11-21", (100, 65)),
        ("b_11-12-1111_0-2-1", (50, 70)),
    ],
)
def test_levels_and_counts_are_those_of_the_net(text: str, size: tuple[int, int], stem: str) -> None:
    arch = architecture.parse(text)
    width = 64 if text.startswith("x") else 8
    for share in (True, False):
        net = Backbone(arch, width, stem, 1e-5, False, share).set_train(False)
        levels = architecture.levels(arch, width)
        for output, level in zip(net(images(*size)), levels, strict=True):
            expected = [-(-side // 4) for side in size]
            for _ in range(level.stride.bit_length() - 3):
                expected = [-(-side // 2) for side in expected]
            assert output.shape == (1, level.channels, *expected)
        params = sum(p.size for p in net.get_parameters() if not p.name.endswith(("moving_mean", "moving_variance")))
        assert params == cost.backbone_cost(arch, size, width, stem, share).params


def test_the_whole_detector_has_the_parameters_that_cost_says() -> None:
    settings = Detector(image_size=(64, 64), **SMALL)
    for text in ("b_11-21-21-21", "r_11-12-11-1-1_1-0-2-0-1"):
        net = build(architecture.parse(text), settings, 3)
        params = sum(p.size for p in net.get_parameters() if not p.name.endswith(("moving_mean", "moving_variance")))
        assert params == candidate_cost(architecture.parse(text), settings, 3).params


@pytest.mark.parametrize("taps", [(0, 1, 2, 3), (1, 1, 2, 3), (2, 3, 3, 2), (1,)])
def test_each_output_of_the_pyramid_reads_its_tap(taps: tuple[int, ...]) -> None:
    """Maps, gradients of all parameters, and the counts of neck and proposals, against the pyramid written out."""
    arch, channels, size, rng = architecture.parse("b_11-21-21-21"), 6, (72, 100), np.random.default_rng(0)
    levels, whole = architecture.levels(arch, 4), taps if len(taps) == 4 else (1, 1, 2, 3)
    fpn = Fpn(channels=channels, taps=taps)
    neck = Pyramid(levels, channels, fpn.reads(arch))
    sizes = cost.stage_sizes(arch, size)
    stages = [rng.standard_normal((2, level.channels, *hw)).astype(np.float32) for level, hw in zip(levels, sizes, strict=True)]
    merged = [np.zeros(0)] * 3 + [neck.inner[3](Tensor(stages[3])).asnumpy()]
    for level in range(2, min(whole) - 1, -1):
        above = merged[level + 1].repeat(2, 2).repeat(2, 3)[:, :, : sizes[level][0], : sizes[level][1]]
        merged[level] = neck.inner[level](Tensor(stages[level])).asnumpy() + above
    outputs = [output.asnumpy() for output in neck(tuple(map(Tensor, stages)))]
    for number, tap in enumerate(whole):
        np.testing.assert_allclose(outputs[number], neck.layer[number](Tensor(merged[tap])).asnumpy(), atol=1e-5)
    np.testing.assert_array_equal(outputs[4], outputs[3][:, :, ::2, ::2])

    weights = ms.ParameterTuple(neck.trainable_params())
    gradients = ms.grad(lambda *maps: sum((one * one).sum() for one in neck(maps)), None, weights)(*map(Tensor, stages))
    assert all(np.abs(gradient.asnumpy()).max() > 0 for gradient in gradients)
    found = fpn.cost(arch, size, 4)
    assert found.params == sum(parameter.size for parameter in weights)
    inner = sum(channels * level.channels * h * w for level, (h, w) in list(zip(levels, sizes, strict=True))[min(whole) :])
    cells = sum(output.shape[2] * output.shape[3] for output in outputs[:4])
    assert found.macs == inner + 9 * channels**2 * cells
    pooled = outputs[4].shape[2] * outputs[4].shape[3]
    maps = [output.size for output in fpn.outputs(arch, size)]
    assert maps == [output.shape[2:] for output in outputs]
    assert cost.rpn_cost(channels, 3, maps).macs == (cells + pooled) * (9 * channels**2 + 15 * channels)


def test_a_detector_with_taps_finds_objects_of_every_size() -> None:
    """Anchors keep the sizes of their outputs, and stand at the strides of the levels that these read."""
    settings = Detector(image_size=(64, 64), taps=(1, 1, 3, 3), anchor_ratios=(1.0,), **SMALL)
    net = build(architecture.parse("b_11-21-21-21"), settings, 3).set_train(False)
    anchors, starts = net.rpn.propose.anchors.asnumpy(), np.cumsum((0, *net.rpn.counts))
    rows = [anchors[first:last] for first, last in pairwise(starts)]
    assert [len(one) for one in rows] == [64, 64, 4, 4, 1]
    assert [one[0, 2] - one[0, 0] for one in rows] == [32, 64, 128, 256, 512]
    assert [one[1, 0] - one[0, 0] for one in rows[:4]] == [8, 8, 32, 32]
    boxes, scores, _ = net(images(), Tensor(np.array([[64, 64]], np.float32)))
    assert boxes.shape == (1, 5, 4)
    assert np.isfinite(scores.asnumpy()).all()
    params = sum(p.size for p in net.get_parameters() if not p.name.endswith(("moving_mean", "moving_variance")))
    assert params == candidate_cost(architecture.parse("b_11-21-21-21"), settings, 3).params


@pytest.mark.parametrize("kind", ["b", "r", "x(2x32d)"])
def test_expanding_keeps_the_detectors_output(kind: str) -> None:
    settings = Detector(image_size=(64, 64), stem="3x3", **SMALL)
    parent, child = (architecture.parse(f"{kind}_{serial}") for serial in ("11-21-12-11", "111-211-1112-11"))
    net = build(parent, settings, 2)
    with_statistics(net)
    other = build(child, settings, 2)
    weights, audit = inherit.inherit(parent, child, get_weights(net), get_weights(other))
    set_weights(other, weights)
    assert audit.zero
    assert audit.copied_params > audit.new_params
    hw = Tensor(np.array([[64, 64]], np.float32))
    ours, theirs = ([*one.set_train(False).features(images()), *one(images(), hw)] for one in (net, other))
    for a, b in zip(ours, theirs, strict=True):  # the pyramid, then boxes, scores and labels
        assert np.abs(a.asnumpy()).max() > 0.1
        np.testing.assert_allclose(b.asnumpy(), a.asnumpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("copies", [(1, 0, 2, 3), (0, 3, 1, 0), (2, 1, 1, 2)])
def test_the_structure_of_a_parallel_net(share: bool, copies: tuple[int, ...]) -> None:
    """SP-NAS, section 3.3, and the authors' release, written out."""
    arch = architecture.parse("b_11-21-12-11").with_parallel(copies)
    net = Backbone(arch, 8, "3x3", 1e-5, False, share)
    with_statistics(net)
    net.set_train(False)
    x = net.stem(images(72, 100))
    outputs: list[Tensor] = []
    before: dict[int, Tensor] = {}
    first = 0
    for stage, digits in enumerate(arch.stages):
        main = [net.blocks[index] for index in range(first, first + len(digits))]
        first += len(digits)
        carry: Any = 0.0
        kept: dict[int, Tensor] = {}
        for k in reversed(range(copies[stage])):
            z = (before.get(k, before[max(before)]) if before else x) + carry
            for block in main if share else net.copies[stage][k]:
                z = block(z)
            if stage + 1 < len(copies) and k < copies[stage + 1]:
                kept[k] = z
            small = net.connect[stage][0 if share else k](z).asnumpy()
            carry = Tensor(small if stage == 0 else small.repeat(2, 2).repeat(2, 3)[:, :, : x.shape[2], : x.shape[3]])
        x = x + carry
        for block in main:
            x = block(x)
        before = kept
        outputs.append(x)
    for ours, theirs in zip(net(images(72, 100)), outputs, strict=True):
        np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [True, False])
def test_a_parallel_net_starts_as_its_serial_net(share: bool) -> None:
    parent, child = architecture.parse("b_11-21-12-11"), architecture.parse("b_11-21-12-11_1-0-2-3")
    nets = [Backbone(one, 8, "7x7", 1e-5, False, share) for one in (parent, child)]
    with_statistics(nets[0])
    first, second = ({f"backbone.{name}": value for name, value in get_weights(net).items()} for net in nets)
    weights, _ = inherit.inherit(parent, child, first, second)
    set_weights(nets[1], {name.removeprefix("backbone."): value for name, value in weights.items()})
    for a, b in zip(*(net.set_train(False)(images()) for net in nets), strict=True):
        np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-5)
        assert np.abs(a.asnumpy()).max() > 0.1
