"""A supernet against the nets that its paths are: same maps, same losses, same gradients, with the weights cut out of it."""

from functools import cache

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from spnas_core.arch import Arch, parse
from spnas_core.models.build import build
from spnas_core.models.step import get_weights, set_weights
from spnas_core.models.supernet import SuperNet
from spnas_core.search.family import Family
from spnas_core.search.paths import draw_member, switches
from spnas_core.settings.detector import Detector
from spnas_core.weights.paths import SLOTS, path_parts, path_weights, put_path, start_supernet
from spnas_core.weights.tensor_names import AFFINE, STATISTICS, Arrays

pytestmark = pytest.mark.training
SETTINGS = Detector(
    image_size=(64, 64), base_width=8, stem="3x3", fpn_channels=8, head_channels=16, rpn_batch=16, proposals_train=20, proposals_test=20,
    roi_batch=8, max_boxes=4, detections=5,
)  # fmt: skip
CASCADE = SETTINGS.model_copy(update={"stem": "7x7", "head": {**SETTINGS.head.model_dump(), "kind": "cascade_rcnn"}})
MERGING = SETTINGS.model_copy(update={"neck": {"kind": "nas_fpn", "channels": 8, "stacks": 1}})
FUSING = SETTINGS.model_copy(update={"neck": {"kind": "nas_fcos", "channels": 8}})
FAMILIES = {
    "basic": (Family(parse("b_11-21-21-21").serial(), inner=(4, 6, 8)), SETTINGS),
    "bottleneck": (Family(parse("r_111-2111-12").serial(), fewer=0, shift=2, inner=(6, 8, 12)), CASCADE),
    "groups": (Family(parse("x(4x16d)_1111-2111").serial(), inner=(4, 8)), SETTINGS),
    "merging": (Family(parse("b_1111-2111-211").serial(), inner=(4, 8)), MERGING),
    "fusing": (Family(parse("b_1111-2111-211").serial(), inner=(4, 8)), FUSING),
    "depth alone": (Family(parse("b_1111-2111").serial(), shift=0, more=2), SETTINGS),
}


@pytest.fixture(autouse=True)
def _eager() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    ms.set_seed(0)


def like_trained(weights: Arrays) -> Arrays:
    """Give all norms scales and statistics as a trained net has them."""
    rng = np.random.default_rng(1)
    draws = {".gamma": (0.5, 1.5), ".moving_variance": (0.5, 1.5), ".beta": (-0.3, 0.3), ".moving_mean": (-0.3, 0.3)}
    found = {}
    for name, value in weights.items():
        limits = next((limits for part, limits in draws.items() if name.endswith(part)), None)
        found[name] = rng.uniform(*limits, value.shape).astype(np.float32) if limits else value
    return found


@cache
def supernet(name: str) -> tuple[SuperNet, Arrays]:
    """A supernet with random statistics, and its weights."""
    net = SuperNet(*FAMILIES[name], 2)
    weights = like_trained(get_weights(net))
    set_weights(net, weights)
    return net, weights


def member(case: tuple[Family, Detector], seed: int, weights: Arrays) -> tuple[Arch, ms.nn.Cell]:
    """One of its members, small or large, as a net of its own with the weights of its path."""
    family, settings = case
    arch = draw_member(family, np.random.default_rng(seed), (seed + 1) / 4)
    own = build(arch, settings, 2)
    set_weights(own, path_weights(weights, family, arch, settings.base_width))
    return arch, own


def batch(net: ms.nn.Cell) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    corner = rng.random((2, 4, 2)) * 30
    truth = np.concatenate((corner, corner + 10 + rng.random((2, 4, 2)) * 20), -1).astype(np.float32)
    labels = np.array([[1, 2, 1, 0], [2, 0, 0, 0]], np.int32)
    truth *= (labels > 0)[..., None]
    pictures = rng.standard_normal((2, 3, 64, 64)).astype(np.float32)
    return (pictures, np.full((2, 2), 64, np.float32), truth, labels, *net.draws(truth, labels, 0, 0))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_path_gives_the_maps_of_its_own_net(name: str) -> None:
    family, settings = FAMILIES[name]
    net, weights = supernet(name)
    for seed in range(3):
        arch, own = member(FAMILIES[name], seed, weights)
        names = get_weights(own)
        cut = path_weights(weights, family, arch, settings.base_width)
        assert {key: value.shape for key, value in cut.items()} == {key: value.shape for key, value in names.items()}
        used = {source for source, _ in path_parts(weights, family, arch, settings.base_width).values()}
        assert {key for key in weights if not key.startswith(SLOTS)} <= used
        images = Tensor(np.random.default_rng(seed).standard_normal((2, 3, 64, 64)).astype(np.float32))
        choice = [Tensor(one) for one in switches(family, arch, settings.base_width)]
        set_weights(net, weights)
        for training in (False, True):
            net.set_train(training)
            own.set_train(training)
            for ours, theirs in zip(net.member_features(images, *choice), own.features(images), strict=True):
                ours, theirs = ours.asnumpy(), theirs.asnumpy()
                assert ours.shape == theirs.shape
                assert np.abs(ours - theirs).max() < 1e-4 * theirs.std(), (arch, training)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_path_learns_as_its_own_net_and_nothing_else_learns(name: str) -> None:
    family, settings = FAMILIES[name]
    net, weights = supernet(name)
    for seed in (1,):
        arch, own = member(FAMILIES[name], seed, weights)
        inputs = [Tensor(one) for one in batch(own)]
        choice = [Tensor(one) for one in switches(family, arch, settings.base_width)]
        found = []
        for one, given in ((net, (*inputs, *choice)), (own, tuple(inputs))):
            one.set_train(True)
            trained = [parameter for parameter in one.get_parameters() if not parameter.name.endswith(STATISTICS)]
            step = ms.value_and_grad(lambda *args, one=one: one.losses(*args).sum(), None, ms.ParameterTuple(trained))
            loss, gradients = step(*given)
            found.append((float(loss.asnumpy()), {parameter.name: g.asnumpy() for parameter, g in zip(trained, gradients, strict=True)}))
        (ours, all_gradients), (theirs, gradients) = found
        assert ours == pytest.approx(theirs, rel=1e-4)
        parts = path_parts(weights, family, arch, settings.base_width)
        total = np.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        for key, gradient in gradients.items():
            source, index = parts[key]
            assert np.abs(all_gradients[source][index] - gradient).max() < 1e-3 * max(total / 100, float(np.abs(gradient).max())), (
                arch,
                key,
            )
            all_gradients[source][index] = 0.0
        assert not any(gradient.any() for gradient in all_gradients.values())


def test_the_start_net_is_put_into_a_supernet_and_longer_members_give_its_maps() -> None:
    family, settings = Family(parse("b_11-21-21-21").serial(), more=2, inner=(4, 8)), SETTINGS
    own, net = build(family.start, settings, 2), SuperNet(family, settings, 2)
    weights = like_trained(get_weights(own))
    set_weights(own, weights)
    whole = start_supernet(get_weights(net), family, 8, weights)
    back = path_weights(whole, family, family.start, 8)
    assert all(np.array_equal(back[key], weights[key]) for key in weights if not key.endswith(STATISTICS))
    set_weights(net, put_path(whole, family, family.start, 8, weights))
    images = Tensor(np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32))
    net.set_train(False)
    own.set_train(False)
    for text in ("b_11-21-21-21_0-0-0-0", "b_1111-2111-211-21_0-0-0-0"):
        choice = [Tensor(one) for one in switches(family, parse(text), 8)]
        for ours, theirs in zip(net.member_features(images, *choice), own.features(images), strict=True):
            np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-4, atol=1e-5)
    assert all(name.endswith((*AFFINE, *STATISTICS, ".weight", ".bias")) for name in whole)
