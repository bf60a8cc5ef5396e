"""Small nets: gradients, repeatability, selection of proposals and detections against slow numpy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
import pytest
from mindspore import Tensor, nn

from spnas_core import arch as architecture
from spnas_core.data import loader, splits
from spnas_core.errors import JobError
from spnas_core.job import Data, TrainJob
from spnas_core.jobs import initial_weights, training
from spnas_core.jobs.progress import JobContext
from spnas_core.models import boxes as box_ops
from spnas_core.models.anchors import Grid, place_anchors
from spnas_core.models.backbone import Backbone
from spnas_core.models.build import build
from spnas_core.models.detector import DetectorNet
from spnas_core.models.step import TrainStep, get_weights, set_weights
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe
from spnas_core.weights import inherit
from spnas_core.weights.tensor_names import STATISTICS

pytestmark = pytest.mark.training
Floats = npt.NDArray[np.float32]
SETTINGS = Detector(
    image_size=(64, 96), base_width=4, stem="3x3", norm="train", fpn_channels=8, head_channels=16, anchor_scale=4, rpn_batch=16,
    proposals_train=40, proposals_test=25, roi_batch=8, max_boxes=1, detections=12, score_threshold=0.3,
)  # fmt: skip
HW = np.array([[64, 96], [50, 71]], np.float32)


# gradients of backbones, without compiling


def random_weights(net: nn.Cell, seed: int = 1) -> dict[str, Floats]:
    """Weights of a net whose norms have random statistics and scales, as a trained net has them."""
    rng, weights = np.random.default_rng(seed), get_weights(net)
    for name, value in weights.items():
        if name.endswith((".gamma", ".moving_variance")):
            weights[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif name.endswith((".beta", ".moving_mean")):
            weights[name] = rng.normal(0, 0.2, value.shape).astype(np.float32)
    return weights


def gradients(net: nn.Cell, images: Tensor) -> dict[str, Floats]:
    """Gradient, of a sum over all stages, for every trained parameter."""
    weights = ms.ParameterTuple(net.trainable_params())

    def loss(x: Tensor) -> Tensor:
        return sum((output * output).mean() for output in net(x))

    found = ms.value_and_grad(loss, None, weights)(images)[1]
    return {parameter.name: gradient.asnumpy() for parameter, gradient in zip(weights, found, strict=True)}


class Body(nn.Cell):
    """A backbone under the names that it has in a detector."""

    def __init__(self, arch: architecture.Arch, settings: Detector) -> None:
        super().__init__()
        frozen = settings.norm == "frozen"
        self.backbone = Backbone(arch, settings.base_width, settings.stem, settings.norm_epsilon, frozen, settings.share_weights)

    def construct(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(images)


@pytest.mark.parametrize(
    ("kind", "share", "norm"),
    [
        pytest.param("b", True, "train", marks=pytest.mark.long),
        pytest.param("r", False, "train", marks=pytest.mark.long),
        ("x(2x32d)", True, "train"),
        ("b", False, "frozen"),
        ("r", True, "frozen"),
        pytest.param("x(2x32d)", False, "frozen", marks=pytest.mark.long),
    ],
)
def test_inserted_blocks_learn_within_two_steps(kind: str, share: bool, norm: str) -> None:
    """Every new parameter of theirs has a gradient, also where norms are frozen and where a block is inserted into a frozen stage.

    Copies and connections come after: a connection's scale first, what lies behind it next, an inserted block of the last copy last.
    """
    ms.set_context(mode=ms.PYNATIVE_MODE)
    parent, child = architecture.parse(f"{kind}_11-21-12-1"), architecture.parse(f"{kind}_111-21-112-11_1-0-2-1")
    settings = Detector(base_width=8, stem="3x3", norm=norm, frozen_stages=2 if norm == "frozen" else 0, share_weights=share)
    before, net = Body(parent, settings), Body(child, settings).set_train()
    weights, audit = inherit.inherit(parent, child, random_weights(before), get_weights(net))
    set_weights(net, weights)
    job = TrainJob(arch=str(child), detector=settings, recipe=Recipe(), data=Data(url="", fingerprint=""))
    initial_weights.choose_trained(net, job, audit)
    images = Tensor(np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32))
    trained = {parameter.name for parameter in net.trainable_params()}
    new = {name for name in audit.new if not name.endswith(STATISTICS)}
    inserted = {name for name in new if name.startswith("backbone.blocks.")}
    assert {name.split(".")[2] for name in inserted} == {"2", "6", "9"}
    assert new <= trained
    reached: set[str] = set()
    for number in range(4):
        found = gradients(net, images)
        assert all(np.isfinite(gradient).all() for gradient in found.values())
        reached |= {name for name, gradient in found.items() if np.abs(gradient).max() > 0}
        length = np.sqrt(sum(float((gradient**2).sum()) for gradient in found.values()))
        for parameter in net.trainable_params():  # a step of a fixed length: with frozen norms nothing else bounds it
            parameter.set_data(Tensor(parameter.asnumpy() - 0.5 / length * found[parameter.name]))
        if number == 1:
            assert inserted - reached == set()
            assert not [name for name in trained - reached if name.startswith(("backbone.stem.", "backbone.blocks."))]
    assert trained - reached == set()


# selection, against slow numpy


def random_maps(net: DetectorNet) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Pyramid, scores and deltas as a net might give them, for two images."""
    rng = np.random.default_rng(0)
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    maps = tuple(Tensor(rng.standard_normal((2, 8, *size)).astype(np.float32)) for size in sizes)
    count = sum(net.rpn.counts)
    scores, deltas = rng.standard_normal((2, count)), 0.3 * rng.standard_normal((2, count, 4))
    return maps, Tensor(scores.astype(np.float32)), Tensor(deltas.astype(np.float32))


def slow_nms(boxes: Floats, limit: float) -> list[int]:
    """Indices of boxes (N, 4), best first, that overlap no kept one by more than `limit`."""
    kept: list[int] = []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i, box in enumerate(boxes):
        sides = np.minimum(box[2:], boxes[kept, 2:]) - np.maximum(box[:2], boxes[kept, :2])
        inter = np.clip(sides, 0, None).prod(1)
        if (inter <= limit * (area[i] + area[kept] - inter)).all():
            kept.append(i)
    return kept


def clip(boxes: Floats, hw: Floats) -> Floats:
    return np.clip(boxes, 0, [hw[1], hw[0], hw[1], hw[0]]).astype(np.float32)


@pytest.fixture(scope="module")
def eager_net() -> DetectorNet:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    ms.set_seed(0)
    return build(architecture.parse("b_111-211-211"), SETTINGS, 3).set_train(False)


def test_proposals_are_the_best_of_each_level(eager_net: DetectorNet) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    _, scores, deltas = random_maps(eager_net)
    proposals, valid = (one.asnumpy() for one in eager_net.rpn.propose(scores, deltas, Tensor(HW)))
    starts = np.cumsum((0, *eager_net.rpn.counts))
    for image in range(2):
        found = []
        for level in range(len(eager_net.rpn.counts)):
            own = slice(starts[level], starts[level + 1])
            score, delta = scores.asnumpy()[image, own], deltas.asnumpy()[image, own]
            order = np.argsort(-score, kind="stable")[: SETTINGS.head.proposals_test]
            anchors = eager_net.rpn.propose.anchors.asnumpy()[own]
            boxes = clip(box_ops.decode(Tensor(delta), Tensor(anchors), (1.0,) * 4).asnumpy()[order], HW[image])
            big = ((boxes[:, 2:] - boxes[:, :2]) >= 1e-3).all(1)
            boxes, order = boxes[big], order[big]
            found += [(score[order[i]], boxes[i]) for i in slow_nms(boxes, SETTINGS.head.rpn_nms)]
        found.sort(key=lambda pair: -pair[0])
        wanted = np.array([box for _, box in found[: SETTINGS.head.proposals_test]])
        assert valid[image].sum() == len(wanted)
        np.testing.assert_allclose(proposals[image][valid[image]], wanted, atol=1e-4)


def test_detections_are_the_best_of_each_class(eager_net: DetectorNet) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    maps, scores, deltas = random_maps(eager_net)
    head = eager_net.head
    head.score.weight.set_data(Tensor(np.random.default_rng(1).normal(0, 2, head.score.weight.shape).astype(np.float32)))
    proposals, valid = eager_net.rpn.propose(scores, deltas, Tensor(HW))
    boxes, confidence, labels = (one.asnumpy() for one in head.detect(maps[:3], proposals, valid, Tensor(HW)))
    score, delta = (one.asnumpy() for one in head(maps[:3], proposals))
    share = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
    total = 0
    for image in range(2):
        found = []
        for label in range(1, 4):
            rows = np.flatnonzero(valid.asnumpy()[image] & (share[image, :, label] > SETTINGS.score_threshold))
            rows = rows[np.argsort(-share[image, rows, label], kind="stable")]
            chosen = Tensor(proposals.asnumpy()[image, rows])
            own = clip(box_ops.decode(Tensor(delta[image, rows, label]), chosen, (10.0, 10.0, 5.0, 5.0)).asnumpy(), HW[image])
            found += [(share[image, rows[i], label], label, own[i]) for i in slow_nms(own, SETTINGS.box_nms)]
        found = sorted(found, key=lambda one: -one[0])[: SETTINGS.detections]
        kept = confidence[image] > 0
        total += int(kept.sum())
        assert labels[image][kept].tolist() == [label for _, label, _ in found]
        assert not labels[image][~kept].any()
        np.testing.assert_allclose(confidence[image][kept], [one for one, _, _ in found], atol=1e-5)
        np.testing.assert_allclose(boxes[image][kept], np.array([box for *_, box in found]), atol=1e-3)
    assert total > 0


def test_the_pooled_levels_anchors_stand_where_torchvision_has_them() -> None:
    """At 800 x 1344 px the last stage has 25 x 42 cells, the pooled level 13 x 21: 800 // 13 = 61 px down, 64 px right."""
    last, pooled = place_anchors(Grid(((25, 42), (13, 21)), (32, 64), (256.0, 512.0)), (1.0,))
    np.testing.assert_array_equal(last[42], [-128, 32 - 128, 128, 32 + 128])
    np.testing.assert_array_equal(pooled[1], [64 - 256, -256, 64 + 256, 256])
    np.testing.assert_array_equal(pooled[-1], [20 * 64 - 256, 12 * 61 - 256, 20 * 64 + 256, 12 * 61 + 256])


# one compiled step


@pytest.fixture(scope="module")
def step() -> TrainStep:
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(3)
    net = build(architecture.parse("b_1111-2111_0-1"), SETTINGS, 2)
    initial_weights.freeze(net, architecture.parse("b_1111-2111_0-1"), SETTINGS)
    return TrainStep(net, 0.9, initial_weights.decays(net, 1e-4, True), 10.0)


def crowded(folder: Path, net: DetectorNet) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches of images with two boxes, padded to one."""
    split = splits.open_split(str(folder), "train", False)
    recipe = Recipe(batch=2)
    for number, batch in enumerate(loader.train_batches(split, SETTINGS.image_size, recipe, SETTINGS.max_boxes, 0, 0)):
        assert (batch.labels > 0).all()
        yield (batch.images, batch.image_hw, batch.boxes, batch.labels, *net.draws(batch.boxes, batch.labels, 0, number))


def test_two_runs_with_one_seed_are_one(step: TrainStep, tiny_data: Path, tmp_path: Path) -> None:
    """Images with more boxes than the padding train; the same seed gives the same weights bit for bit; NaN is a typed failure."""
    ms.set_context(mode=ms.GRAPH_MODE)
    begun = get_weights(step)

    def run(folder: Path, batches: list[tuple[np.ndarray, ...]]) -> tuple[list[dict[str, Any]], dict[str, Floats]]:
        folder.mkdir()
        set_weights(step, begun)
        history = training.run_epochs(
            step, lambda *_: batches, lambda _: 0.02, 1, len(batches), JobContext(lambda _: None, folder), lambda _: {}
        )
        return history, get_weights(step)

    batches = list(crowded(tiny_data, step.net))
    first, second = run(tmp_path / "first", batches), run(tmp_path / "second", batches)
    assert np.isfinite(first[0][0]["losses"]).all()
    assert first[0][0]["losses"] == second[0][0]["losses"]
    assert all(first[1][name].tobytes() == second[1][name].tobytes() for name in begun)
    assert any(first[1][name].tobytes() != begun[name].tobytes() for name in begun)
    spoilt = (np.full_like(batches[0][0], np.nan), *batches[0][1:])
    with pytest.raises(JobError, match=r"diverged: .* is not finite after epoch 1 of 1") as caught:
        run(tmp_path / "third", [batches[0], spoilt])
    assert caught.value.reason == "diverged"


def test_one_seed_gives_one_net() -> None:
    weights = []
    for _ in range(2):
        ms.set_seed(5)
        weights.append(get_weights(build(architecture.parse("b_1111-2111"), SETTINGS, 2)))
    assert all(weights[0][name].tobytes() == weights[1][name].tobytes() for name in weights[0])
