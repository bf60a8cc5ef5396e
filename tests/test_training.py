"""Training steps of a small detector, and trainings that stop and go on."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from flows import presets
from spnas_core import arch as architecture
from spnas_core.errors import JobError
from spnas_core.job import Data, TrainJob
from spnas_core.jobs import initial_weights, training
from spnas_core.jobs.progress import JobContext
from spnas_core.models.build import build
from spnas_core.models.detector import DetectorNet
from spnas_core.models.step import TrainStep, get_weights, set_weights
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe, learning_rate
from spnas_core.weights import adopt, inherit
from spnas_core.weights.tensor_names import STATISTICS

pytestmark = pytest.mark.training
PARENT, CHILD = architecture.parse("b_1111-1111"), architecture.parse("b_11111-11111_1-0")
SETTINGS = Detector(
    image_size=(64, 64), base_width=4, stem="3x3", fpn_channels=8, head_channels=16, rpn_batch=16, proposals_train=20,
    roi_batch=8, max_boxes=4,
)  # fmt: skip
Batch = tuple[np.ndarray, ...]


@pytest.fixture(autouse=True)
def _graph() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(0)


def batch(net: DetectorNet, boxes: tuple[int, int], number: int = 0) -> Batch:
    """Two images with so many boxes."""
    rng = np.random.default_rng(number)
    pictures = rng.standard_normal((2, 3, 64, 64)).astype(np.float32)
    corner = rng.random((2, 4, 2)) * 30
    truth = np.concatenate((corner, corner + 10 + rng.random((2, 4, 2)) * 20), -1).astype(np.float32)
    labels = np.stack([np.where(np.arange(4) < count, 1 + np.arange(4) % 2, 0) for count in boxes]).astype(np.int32)
    sizes = np.full((2, 2), 64, np.float32)
    truth *= (labels > 0)[..., None]
    return (pictures, sizes, truth, labels, *net.draws(truth, labels, 0, number))


def test_an_inherited_net_learns_in_every_part() -> None:
    """One compiled graph: batches with no box, one box and all boxes; padding that changes nothing; every new parameter moves."""
    parent, net = build(PARENT, SETTINGS, 2), build(CHILD, SETTINGS, 2)
    weights, audit = inherit.inherit(PARENT, CHILD, get_weights(parent), get_weights(net))
    set_weights(net, weights)
    assert len(audit.zero) == 2 * 3  # two inserted blocks and a connection: gamma and beta of one norm each
    initial_weights.freeze(net, CHILD, SETTINGS)
    step = TrainStep(net, 0.9, initial_weights.decays(net, 1e-4, True), 10.0).set_train()

    def run(rate: float, *inputs: np.ndarray) -> np.ndarray:
        return np.asarray(step(Tensor(np.float32(rate)), *map(Tensor, inputs)).asnumpy())

    for boxes in ((0, 0), (1, 0), (4, 4)):
        losses = run(0.0, *batch(net, boxes))
        assert losses.shape == (4,)
        assert np.isfinite(losses).all()
        assert (losses[[1, 3]] > 0).all() == (sum(boxes) > 0)
    given = batch(net, (2, 1))
    padded = list(given)
    padded[2] = np.where(given[3][..., None] > 0, given[2], 7.0).astype(np.float32)
    np.testing.assert_allclose(run(0.0, *given), run(0.0, *padded), rtol=1e-5)

    before = get_weights(net)
    for number in range(3):
        run(0.02, *batch(net, (4, 3), number))
    after = get_weights(net)
    still = [p.name for p in net.trainable_params() if np.array_equal(before[p.name], after[p.name])]
    assert still == []
    assert set(audit.zero) <= {p.name for p in net.trainable_params()}
    run(1e20, *batch(net, (1, 1)))
    assert not np.isfinite(run(0.0, *batch(net, (1, 1)))).all()


class Line(nn.Cell):
    """Least squares: a net whose step compiles at once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = ms.Parameter(Tensor(np.zeros(3, np.float32)), name="weight")

    def losses(self, x: Tensor) -> Tensor:
        """Mean square distance from a line."""
        return ((x * self.weight).sum(1) - 1.0).pow(2).mean().reshape(1)


def train_line(context: JobContext, bad: int | None = None, stop_at: int | None = None) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Train `Line` for 4 epochs of 5 steps; batch `bad` is not finite, at batch `stop_at` a stop is asked for."""
    net = Line()
    step = TrainStep(net, 0.9, (1e-3,), None)

    def batches(epoch: int, first: int) -> Iterator[Batch]:
        for number in range(first, 5):
            if epoch * 5 + number == stop_at:
                context.stop.set()
            x = np.random.default_rng((epoch, number)).standard_normal((4, 3)).astype(np.float32)
            yield (x * np.float32(np.nan) if epoch * 5 + number == bad else x,)

    history = training.run_epochs(step, batches, lambda n: 0.05 / (n + 1), 4, 5, context, lambda epoch: {"AP": float(epoch)})
    return net.weight.asnumpy(), history


@pytest.mark.parametrize("number", [0, 3, 4, 5, 11, 18])
def test_a_training_that_is_stopped_goes_on_where_it_was(tmp_path: Path, number: int) -> None:
    """A stop is obeyed after the step at hand, with a checkpoint, and nothing is lost. Without compiling: the loop is the subject."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    events: list[str] = []
    whole, history = train_line(JobContext(lambda _: None, tmp_path))
    (tmp_path / "resume").mkdir()
    context = JobContext(lambda event: events.append(event["event"]), tmp_path / "resume")
    with pytest.raises(JobError, match=f"stopped from outside after step {number + 1} of 20") as caught:
        train_line(context, stop_at=number)
    assert caught.value.reason == "killed"
    assert events[-1] == "checkpoint"
    again, resumed = train_line(JobContext(lambda _: None, tmp_path / "resume"))
    assert again.tobytes() == whole.tobytes()
    assert [{**one, "seconds": 0, "timing": 0} for one in resumed] == [{**one, "seconds": 0, "timing": 0} for one in history]


def test_a_loss_that_is_not_finite_says_where(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"diverged: loss \[nan\] at step 8 of 20"):
        train_line(JobContext(lambda _: None, tmp_path), bad=7)


def test_sgd_with_momentum_decay_and_clipping() -> None:
    net = Line()
    net.weight.set_data(Tensor(np.array([1.0, -2.0, 0.5], np.float32)))
    step = TrainStep(net, 0.9, (0.1,), 1.0)
    weight, velocity = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    for number in range(3):
        x = np.random.default_rng(number).standard_normal((4, 3))
        gradient = 2 * ((x @ weight - 1)[:, None] * x).mean(0)
        gradient = gradient * min(1.0, 1.0 / np.linalg.norm(gradient)) + 0.1 * weight
        velocity = 0.9 * velocity + gradient
        weight = weight - 0.1 * velocity
        step(Tensor(np.float32(0.1)), Tensor(x.astype(np.float32)))
    np.testing.assert_allclose(net.weight.asnumpy(), weight, rtol=1e-4)


def test_schedules() -> None:
    cosine = Recipe(lr=0.1, warmup_steps=10, schedule="cosine")
    assert learning_rate(cosine, 0, 100) == pytest.approx(0.01)
    assert learning_rate(cosine, 50, 100) == pytest.approx(0.05)
    assert learning_rate(cosine, 99, 100) < 1e-4
    steps = Recipe(lr=0.1, warmup_steps=0, schedule="step", milestones=(0.5, 0.75))
    assert [learning_rate(steps, n, 100) for n in (0, 49, 50, 75)] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def trained(net: DetectorNet) -> set[str]:
    return {p.name for p in net.get_parameters() if p.requires_grad}


def test_what_is_trained() -> None:
    frozen = SETTINGS.model_copy(update={"norm": "frozen", "frozen_stages": 2})
    net = build(CHILD, frozen, 2)
    weights, audit = inherit.inherit(PARENT, CHILD, get_weights(build(PARENT, frozen, 2)), get_weights(net))
    assert set(weights) == {p.name for p in net.get_parameters()}
    common = {"arch": str(CHILD), "data": Data(url="x", fingerprint="y")}
    job = TrainJob(**common, detector=frozen, recipe=Recipe())
    initial_weights.choose_trained(net, job, audit)
    names = trained(net)
    new = {name for name in audit.new if not name.endswith(STATISTICS)}
    assert set(audit.zero) < new <= names  # what is new is trained, frozen norms and stages or not
    assert not [n for n in names if n.endswith(STATISTICS)]
    assert not [n for n in names - new if n.endswith((".gamma", ".beta"))]
    assert not [n for n in names - new if n.startswith(("backbone.stem.", *(f"backbone.blocks.{index}." for index in range(5))))]
    assert {"backbone.blocks.9.conv1.weight", "neck.inner.0.weight", "rpn.conv.bias", "head.fc1.weight"} <= names

    source = {"kind": "train", "digest": "0" * 64, "arch": str(PARENT)}
    job = TrainJob(**common, detector=SETTINGS, recipe=Recipe(freeze_inherited=True), weights=(source,))
    initial_weights.choose_trained(net, job, audit)
    names = trained(net)
    assert {n.split(".")[2] for n in names if n.startswith("backbone.blocks.")} == {"4", "9"}
    assert "backbone.stem.conv1.weight" not in names
    assert "head.score.weight" in names


def test_what_is_frozen_stays_bit_for_bit_and_what_is_trained_moves() -> None:
    """With `freeze_inherited`: an inserted block, a moved one and a connection learn, as do neck and heads; no other parameter changes."""
    parent, child = architecture.parse("b_1111-1111"), architecture.parse("b_111-111111_0-1")  # block 3 is new, 5 had a stride
    net = build(child, SETTINGS, 2)
    weights, audit = inherit.inherit(parent, child, get_weights(build(parent, SETTINGS, 2)), get_weights(net))
    set_weights(net, weights)
    source = {"kind": "train", "digest": "0" * 64, "arch": str(parent)}
    job = {"arch": str(child), "detector": SETTINGS, "data": Data(url="x", fingerprint="y"), "weights": (source,)}
    initial_weights.choose_trained(net, TrainJob(recipe=Recipe(freeze_inherited=True), **job), audit)
    learning = trained(net)
    step = TrainStep(net, 0.9, initial_weights.decays(net, 0.0, True), 10.0).set_train()
    for number in range(3):
        step(Tensor(np.float32(0.02)), *map(Tensor, batch(net, (4, 3), number)))
    after = get_weights(net)
    moved = {name for name in weights if not np.array_equal(weights[name], after[name])}
    parameters = {name for name in weights if not name.endswith(adopt.STATISTICS)}
    assert moved & parameters == learning
    assert {name.split(".")[2] for name in learning if ".blocks." in name} == {"3", "5"}
    assert {name.split(".")[0] for name in learning} == {"backbone", "neck", "rpn", "head"}
    assert any(name.startswith("backbone.connect.1.0.") for name in learning)


def test_decay_spares_norm_and_bias_where_asked() -> None:
    net = build(PARENT, SETTINGS, 2)
    initial_weights.freeze(net, PARENT, SETTINGS)
    assert set(initial_weights.decays(net, 0.5, True)) == {0.5}
    spared = {
        p.name.rsplit(".", 1)[1] for p, one in zip(net.trainable_params(), initial_weights.decays(net, 0.5, False), strict=True) if not one
    }
    assert spared == {"gamma", "beta", "bias"}


@pytest.mark.long
def test_freezing_what_was_inherited_makes_a_step_faster() -> None:
    """At the size of the preset `bccd`, in turn on the same cores; the child has one block more, in its last stage."""
    bccd = presets.load_preset("bccd")
    parent, child = architecture.parse("b_11-21-21-21"), architecture.parse("b_11-21-21-211")
    detector = bccd.detector
    source = {"kind": "train", "digest": "0" * 64, "arch": str(parent)}
    given = get_weights(build(parent, detector, 3))
    height, width = detector.image_size
    rng = np.random.default_rng(0)
    runs: dict[bool, Callable[[], Any]] = {}
    for frozen in (False, True):
        net = build(child, detector, 3)
        weights, audit = inherit.inherit(parent, child, given, get_weights(net))
        set_weights(net, weights)
        recipe = bccd.serial.recipe.model_copy(update={"freeze_inherited": frozen})
        job = TrainJob(arch=str(child), detector=detector, recipe=recipe, data=Data(url="x", fingerprint="y"), weights=(source,))
        initial_weights.choose_trained(net, job, audit)
        step = TrainStep(net, 0.9, initial_weights.decays(net, 0.0, True), 10.0).set_train()
        count, boxes = recipe.batch, detector.max_boxes
        truth, labels = np.tile(np.float32([10, 10, 60, 60]), (count, boxes, 1)), np.ones((count, boxes), np.int32)
        inputs = (
            rng.standard_normal((count, 3, height, width)).astype(np.float32),
            np.tile(np.float32([height, width]), (count, 1)),
            truth,
            labels,
            *net.draws(truth, labels, 0, 0),
        )
        tensors = [Tensor(one) for one in (np.float32(0.001), *inputs)]
        runs[frozen] = lambda step=step, tensors=tensors: step(*tensors).asnumpy()
        runs[frozen]()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for frozen in (False, True) * 9:
        begun = time.perf_counter()
        runs[frozen]()
        seconds[frozen].append(time.perf_counter() - begun)
    whole, part = (statistics.median(seconds[frozen]) for frozen in (False, True))
    print(f"\nstep {whole:.3f} s, with freeze_inherited {part:.3f} s, ratio {part / whole:.2f}")
    assert part < whole
