"""The built nets against `arch`, `cost` and `morphism`, without compiling."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from spnas_core import arch as architecture
from spnas_core import cost, morphism, search
from spnas_core.config import Detector
from spnas_core.models.backbone import Backbone
from spnas_core.models.detector import FasterRCNN
from spnas_core.models.step import get_weights, set_weights

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
        net = FasterRCNN(architecture.parse(text), settings, 3)
        params = sum(p.size for p in net.get_parameters() if not p.name.endswith(("moving_mean", "moving_variance")))
        assert params == search.candidate_cost(architecture.parse(text), settings, 3).params


@pytest.mark.parametrize("kind", ["b", "r", "x(2x32d)"])
def test_expanding_keeps_the_detectors_output(kind: str) -> None:
    settings = Detector(image_size=(64, 64), stem="3x3", **SMALL)
    parent, child = (architecture.parse(f"{kind}_{serial}") for serial in ("11-21-12-11", "111-211-1112-11"))
    net = FasterRCNN(parent, settings, 2)
    with_statistics(net)
    other = FasterRCNN(child, settings, 2)
    weights, audit = morphism.inherit(parent, child, get_weights(net), get_weights(other))
    set_weights(other, weights)
    assert audit.zero
    assert audit.copied_params > audit.new_params
    hw = Tensor(np.array([[64, 64]], np.float32))
    ours, theirs = ([*one.set_train(False).features(images()), *one(images(), hw)] for one in (net, other))
    for a, b in zip(ours, theirs, strict=True):  # the pyramid, then boxes, scores and labels
        scale = float(np.abs(a.asnumpy()).max())
        assert scale > 0.1
        np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-5 * max(scale, 1))


@pytest.mark.parametrize("share", [True, False])
def test_a_parallel_net_starts_as_its_serial_net(share: bool) -> None:
    parent, child = architecture.parse("b_11-21-12-11"), architecture.parse("b_11-21-12-11_1-0-2-3")
    nets = [Backbone(one, 8, "7x7", 1e-5, False, share) for one in (parent, child)]
    with_statistics(nets[0])
    first, second = ({f"backbone.{name}": value for name, value in get_weights(net).items()} for net in nets)
    weights, _ = morphism.inherit(parent, child, first, second)
    set_weights(nets[1], {name.removeprefix("backbone."): value for name, value in weights.items()})
    for a, b in zip(*(net.set_train(False)(images()) for net in nets), strict=True):
        np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-5)
        assert np.abs(a.asnumpy()).max() > 0.1
