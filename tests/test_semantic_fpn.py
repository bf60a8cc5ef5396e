"""Semantic FPN and its losses: against PyTorch, where SPNAS_TORCHVISION_PYTHON names a Python with it, against numpy; costs and shapes."""

import os
import subprocess
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn, ops
from test_arch import archs
from weight_rule import rule

from spnas_core.arch import levels, parse
from spnas_core.errors import UserError
from spnas_core.models.build import build
from spnas_core.models.detector import PyramidNet
from spnas_core.models.pixel_losses import CrossEntropy, Dice, Lovasz
from spnas_core.models.resize import BilinearResize, line_weights
from spnas_core.models.step import get_weights, set_weights
from spnas_core.search.costs import candidate_cost
from spnas_core.settings.detector import Detector
from spnas_core.settings.segmentation import ladders_of
from spnas_core.weights import adopt, inherit
from spnas_core.weights.net_shapes import net_shapes

PEER = os.environ.get("SPNAS_TORCHVISION_PYTHON")
CLASSES, ARCH = 5, parse("b_11-21-21-21_0-0-1-0")
CLASS_WEIGHTS = (0.5, 1.0, 2.0, 1.5, 0.8)
HEAD: dict[str, Any] = {"kind": "semantic_fpn", "channels": 12}
SMALL = Detector.model_validate({"image_size": (72, 104), "base_width": 8, "stem": "3x3", "neck": {"channels": 16}, "head": HEAD})


def with_head(detector: Detector, **values: Any) -> Detector:
    return detector.model_copy(update={"head": {**HEAD, **values}})


class HeadGradients(nn.Cell):
    """Losses of the head alone on given maps, and the norms of its gradients."""

    def __init__(self, net: PyramidNet) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.weights = ms.ParameterTuple([one for one in net.trainable_params() if one.name.startswith("head.")])
        self.gradient = ms.value_and_grad(self.total, None, self.weights, has_aux=True)

    def total(self, maps: tuple[Tensor, ...], masks: Tensor) -> tuple[Tensor, Tensor]:
        net = self.net
        logs = net.log_softmax(net.enlarge(net.head(maps)))
        losses = ops.stack((net.cross_entropy(logs, masks), net.overlap_weight * net.overlap(logs, masks)))
        return losses.sum(), losses

    def construct(self, maps: tuple[Tensor, ...], masks: Tensor) -> tuple[Tensor, Tensor]:
        (_, losses), gradients = self.gradient(maps, masks)
        norms = ()
        for gradient in gradients:
            norms = (*norms, ops.sqrt((gradient * gradient).sum()))
        return losses, ops.stack(norms)


def ruled_weights(net: nn.Cell) -> dict[str, np.ndarray]:
    """Weights of the net by the rule of golden weights, from their names."""
    words = {".gamma": ".weight", ".beta": ".bias", ".moving_mean": ".running_mean", ".moving_variance": ".running_var"}

    def ruled(name: str, shape: tuple[int, ...]) -> np.ndarray:
        for ours, theirs in words.items():
            if name.endswith(ours):
                return rule(name.removesuffix(ours) + theirs, shape)
        return rule(name, shape)

    return {name: ruled(name, array.shape) for name, array in get_weights(net).items()}


@pytest.mark.training
@pytest.mark.skipif(not PEER, reason="SPNAS_TORCHVISION_PYTHON names no Python with torch")
@pytest.mark.parametrize("size", [(64, 96), (72, 104)])
def test_head_and_losses_are_those_of_a_module_written_out_in_torch(size: tuple[int, int], tmp_path: Path) -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    detector = with_head(SMALL, class_weights=CLASS_WEIGHTS).model_copy(update={"image_size": size})
    nets = {
        kind: build(ARCH, with_head(detector, class_weights=CLASS_WEIGHTS, auxiliary=kind, auxiliary_weight=0.5), CLASSES)
        for kind in ("dice", "lovasz")
    }
    weights = ruled_weights(nets["dice"])
    for net in nets.values():
        set_weights(net, weights)
    rng = np.random.default_rng(0)
    outputs = [one for one in detector.neck.outputs(ARCH, size) if not one.extra]
    maps = [rng.standard_normal((2, 16, *one.size)).astype(np.float32) for one in outputs]
    masks = rng.integers(0, CLASSES, (2, *size)).astype(np.int32)
    masks[rng.random(masks.shape) < 0.2] = 255
    masks[1][masks[1] == 3] = 0  # an image without one of the classes
    given_file, out = tmp_path / "given.npz", tmp_path / "out.npz"
    named = {f"map_{level}": array for level, array in enumerate(maps)}
    own = {name: array for name, array in weights.items() if name.startswith("head.")}
    np.savez(given_file, **named, **own, masks=masks, size=np.array(size), class_weights=np.array(CLASS_WEIGHTS, np.float32))
    script = Path(__file__).with_name("semantic_golden.py")
    subprocess.run([str(PEER), str(script), str(given_file), str(out)], check=True)
    golden = np.load(out)
    given_maps = tuple(map(Tensor, maps))
    scores = nets["dice"].set_train(False).head(given_maps).asnumpy()
    assert np.abs(scores - golden["scores"]).max() < 1e-4 * golden["scores"].std() + 1e-4
    for number, (kind, net) in enumerate(nets.items(), start=1):
        step = HeadGradients(net).set_train()
        losses, norms = step(given_maps, Tensor(masks))
        assert losses.asnumpy() == pytest.approx(golden["losses"][[0, number]] * (1, 0.5), rel=0.01)
        theirs = [float(golden[f"{kind}/{parameter.name}"]) for parameter in step.weights]
        assert norms.asnumpy() == pytest.approx(theirs, rel=0.01)
        set_weights(net, weights)  # the statistics have moved


def interpolated(x: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Bilinear resizing of (B, C, h, w), a sum over four neighbours of each pixel."""
    out = np.zeros((*x.shape[:2], *target))
    for row in range(target[0]):
        for column in range(target[1]):
            y, z = (
                np.clip((n + 0.5) * s / t - 0.5, 0, s - 1) for n, s, t in ((row, x.shape[2], target[0]), (column, x.shape[3], target[1]))
            )
            for a, share_a in ((int(y), 1 - y % 1), (min(int(y) + 1, x.shape[2] - 1), y % 1)):
                for b, share_b in ((int(z), 1 - z % 1), (min(int(z) + 1, x.shape[3] - 1), z % 1)):
                    out[:, :, row, column] += share_a * share_b * x[:, :, a, b]
    return out


@pytest.mark.training
@pytest.mark.parametrize(("source", "target"), [((3, 4), (6, 8)), ((3, 4), (5, 7)), ((2, 2), (9, 3)), ((1, 5), (4, 5))])
def test_resizing_is_bilinear(source: tuple[int, int], target: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, *source)).astype(np.float32)
    assert BilinearResize(source, target)(Tensor(x)).asnumpy() == pytest.approx(interpolated(x, target), abs=1e-5)


@given(st.integers(1, 40), st.integers(1, 80))
def test_resizing_keeps_what_is_constant_and_its_middle(source: int, target: int) -> None:
    weights = line_weights(source, target)
    assert weights.sum(1) == pytest.approx(1, abs=1e-6)
    assert weights[::-1, ::-1] == pytest.approx(weights, abs=1e-6)  # symmetric


class Loss(nn.Cell):
    """A loss on scores, and its gradient."""

    def __init__(self, loss: nn.Cell) -> None:
        super().__init__()
        self.loss, self.softmax = loss, ops.LogSoftmax(1)

    def construct(self, scores: Tensor, masks: Tensor) -> Tensor:
        return self.loss(self.softmax(scores), masks)


def cross_entropy(scores: np.ndarray, masks: np.ndarray, weights: tuple[float, ...]) -> float:
    total, counted = 0.0, 0.0
    for image, mask in zip(scores.astype(np.float64), masks, strict=True):
        shares = np.exp(image - image.max(0)) / np.exp(image - image.max(0)).sum(0)
        for row, column in zip(*np.nonzero(mask != 255), strict=True):
            label = mask[row, column]
            total -= weights[label] * np.log(shares[label, row, column])
            counted += weights[label]
    return total / max(counted, 1e-6)


@pytest.mark.training
def test_ignored_pixels_count_in_no_loss() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((2, CLASSES, 6, 7)).astype(np.float32)
    masks = rng.integers(0, CLASSES, (2, 6, 7)).astype(np.int32)
    masks[:, 2:4] = 255
    other = scores.copy()
    other[:, :, 2:4] = rng.standard_normal((2, CLASSES, 2, 7))
    for loss in (CrossEntropy(CLASS_WEIGHTS, CLASSES), Dice(CLASSES), Lovasz(CLASSES)):
        net = Loss(loss)
        values = [float(net(Tensor(one), Tensor(masks)).asnumpy()) for one in (scores, other)]
        assert values[0] == pytest.approx(values[1], abs=1e-6)
        gradient = ops.GradOperation()(net)(Tensor(scores), Tensor(masks)).asnumpy()
        assert np.abs(gradient[:, :, 2:4]).max() < 1e-8 < np.abs(gradient).max()
        nothing = np.full_like(masks, 255)
        assert np.isfinite(net(Tensor(scores), Tensor(nothing)).asnumpy())
        perfect = np.where(np.arange(CLASSES)[:, None, None] == np.where(masks == 255, 0, masks)[:, None], 40, -40).astype(np.float32)
        assert float(net(Tensor(perfect), Tensor(masks)).asnumpy()) == pytest.approx(0, abs=1e-4)
    found = Loss(CrossEntropy(CLASS_WEIGHTS, CLASSES))(Tensor(scores), Tensor(masks)).asnumpy()
    assert float(found) == pytest.approx(cross_entropy(scores, masks, CLASS_WEIGHTS), rel=1e-5)


@pytest.mark.training
@pytest.mark.parametrize(
    ("text", "size", "neck"),
    [
        ("b_11-21-21-21", (64, 64), {"channels": 8}),
        ("b_11-21-21-21_0-1-0-2", (72, 104), {"channels": 8}),
        ("b_111-2111", (64, 64), {"channels": 8}),
        ("b_11-21-11-11-11-21", (96, 64), {"channels": 8}),
        ("r_11-21-21-21", (64, 64), {"channels": 8, "taps": [1, 1, 2, 3]}),
        ("b_11-21-21-21", (64, 64), {"channels": 8, "taps": [0, 0, 1, 1]}),
    ],
)
def test_cost_and_shapes_are_those_of_the_built_net(text: str, size: tuple[int, int], neck: dict[str, Any]) -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    arch, detector = parse(text), SMALL.model_copy(update={"image_size": size, "neck": neck})
    net = build(arch, detector, CLASSES)
    made = {parameter.name: parameter.shape for parameter in net.get_parameters()}
    assert made == net_shapes(arch, detector, CLASSES)
    assert candidate_cost(arch, detector, CLASSES).params == sum(one.size for one in net.trainable_params())
    images = Tensor(np.zeros((2, 3, *size), np.float32))
    (scores,) = net.set_train(False)(images, Tensor(np.zeros((2, 2), np.float32)))
    finest = min((one for one in detector.neck.outputs(arch, size)), key=lambda one: one.stride)
    assert scores.shape == (2, CLASSES, *finest.size)
    assert candidate_cost(arch, detector, CLASSES).macs == counted_macs(build(arch, detector, CLASSES), size)


def counted_macs(net: PyramidNet, size: tuple[int, int]) -> int:
    """MACs of the convolutions of a net, counted as they run: each Conv2D primitive and cell notes the size of its output."""
    total = 0

    def note(weight: tuple[int, ...], output: Tensor) -> None:
        nonlocal total
        total += int(np.prod(weight)) * output.shape[2] * output.shape[3]

    from spnas_core.models.blocks import Conv
    from spnas_core.models.semantic_fpn import ConvNormRelu

    ms.set_context(mode=ms.PYNATIVE_MODE)
    plain = Conv.plain
    try:

        def noted(self: Conv, x: Tensor) -> Tensor:
            output = plain(self, x)
            note(self.weight.shape, output)
            return output

        Conv.plain = noted  # type: ignore[method-assign]
        for _, cell in net.cells_and_names():
            if isinstance(cell, nn.Conv2d):
                cell.register_forward_hook(lambda one, _inputs, output: note(one.weight.shape, output))
            if isinstance(cell, ConvNormRelu):
                cell.register_forward_hook(lambda one, _inputs, output: note(one.conv.weight.shape, output))
        net.set_train(False)(Tensor(np.zeros((1, 3, *size), np.float32)), Tensor(np.zeros((1, 2), np.float32)))
    finally:
        Conv.plain = plain  # type: ignore[method-assign]
        ms.set_context(mode=ms.GRAPH_MODE)
    return total


@settings(max_examples=60)
@given(archs(max_blocks=16), st.tuples(st.integers(32, 300), st.integers(32, 300)))
def test_ladders_lead_from_every_map_to_the_finest(arch: Any, size: tuple[int, int]) -> None:
    outputs = Detector().neck.outputs(arch, size)
    found = ladders_of(outputs)
    assert [ladder.output for ladder in found] == list(range(len(arch.stages)))
    for ladder, output, level in zip(found, outputs, levels(arch), strict=False):
        assert ladder.sizes[0] == output.size
        assert ladder.target == outputs[0].size
        assert len(ladder.sizes) == max(1, (level.stride // outputs[0].stride).bit_length() - 1)


@pytest.mark.training
def test_a_child_inherits_the_head() -> None:
    parent, child = parse("b_11-21-21-21"), parse("b_111-21-211-21-1")
    ours, theirs = (get_weights(build(arch, SMALL, CLASSES)) for arch in (parent, child))
    weights, audit = inherit.inherit(parent, child, ours, theirs, base_width=8)
    assert {name for name in audit.new if name.startswith("head.")} == {name for name in theirs if name.startswith("head.levels.4.")}
    for name in ("head.levels.2.0.conv.weight", "head.classes.bias", "head.levels.3.2.bn.gamma"):
        assert np.array_equal(weights[name], ours[name])
    wide = SMALL.model_copy(update={"neck": {"channels": 24}})
    weights, audit = inherit.inherit(parent, child, ours, get_weights(build(child, wide, CLASSES)), base_width=8)
    assert "head.levels.0.0.conv.weight" in audit.resized
    assert weights["head.levels.0.0.conv.weight"].shape == (12, 24, 3, 3)


@pytest.mark.training
def test_a_net_of_segmentation_starts_from_a_detector() -> None:
    detector = Detector.model_validate(
        {"image_size": (64, 64), "base_width": 8, "stem": "3x3", "neck": {"channels": 16}, "head": {"head_channels": 16}}
    )
    arch = parse("b_11-21-21-21")
    theirs, ours = get_weights(build(arch, detector, 3)), get_weights(build(arch, SMALL, CLASSES))
    weights, audit = adopt.adopt(ours, theirs)
    assert {name.split(".")[0] for name in audit.copied} == {"backbone", "neck"}
    assert {name.split(".")[0] for name in audit.new} == {"head"}
    assert {name.split(".")[0] for name in audit.dropped} == {"rpn", "head"}
    assert np.array_equal(weights["backbone.blocks.3.conv1.weight"], theirs["backbone.blocks.3.conv1.weight"])
    others = get_weights(build(arch, SMALL, CLASSES + 2))
    _, audit = adopt.adopt(others, ours)
    assert set(audit.new) == {"head.classes.weight", "head.classes.bias"}


@pytest.mark.training
def test_class_weights_are_one_for_each_class() -> None:
    with pytest.raises(UserError, match="class_weights: expected 5 weights, one for each class of the data, got 2"):
        build(ARCH, with_head(SMALL, class_weights=(1.0, 2.0)), CLASSES)


@pytest.mark.training
@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("b_111-2111-21-21-1_1-0-2-3-0_8-6-8-4-8", {"image_size": (75, 101)}),
        ("r_11-21-211-2_0-2-1-1", {"image_size": (72, 104), "neck": {"channels": 16, "taps": (1, 1, 2)}, "norm_epsilon": 1e-3}),
    ],
)
def test_onnx_gives_the_scores_of_the_net(text: str, changes: dict[str, Any], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from spnas_core.export.onnx_model import onnx_model
    from spnas_core.weights.model_folder import ClassLabel, Model

    ms.set_context(mode=ms.GRAPH_MODE)
    detector = SMALL.model_copy(update=changes)
    net = build(parse(text), detector, CLASSES)
    weights = ruled_weights(net)
    set_weights(net, weights)
    card = Model(
        arch=text, detector=detector, classes=tuple(ClassLabel(label=n + 1, id=n, name=str(n)) for n in range(CLASSES)), weights_sha256=None
    )
    session = onnxruntime.InferenceSession(onnx_model(card, weights), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((3, 3, *detector.image_size)).astype(np.float32)
    (theirs,) = session.run(["scores"], {"images": images})
    (ours,) = net.set_train(False)(Tensor(images), Tensor(np.zeros((3, 2), np.float32)))
    assert theirs == pytest.approx(ours.asnumpy(), abs=1e-4 * ours.asnumpy().std() + 1e-4)
