"""Weights that a job starts from, out of a store; and a checkpoint that holds everything a training needs."""

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from safetensors.numpy import save_file

from spnas_core import arch as architecture
from spnas_core import job as jobs
from spnas_core.errors import UserError
from spnas_core.job import Data, ReigniteJob, TrainJob, Weights
from spnas_core.jobs import initial_weights, training
from spnas_core.jobs.progress import JobContext
from spnas_core.models.blocks import Conv, Norm
from spnas_core.models.build import build
from spnas_core.models.step import ZEROS, TrainStep, get_weights
from spnas_core.names import WEIGHTS_FILE
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe, Reignite
from spnas_core.store.artifacts import Store

pytestmark = pytest.mark.training
PARENT, CHILD = "b_1111-1111_0-0", "b_11111-11111_0-0"
SETTINGS = Detector(image_size=(64, 64), base_width=4, fpn_channels=8, head_channels=16)
COMMON = {"detector": SETTINGS, "data": Data(url="x", fingerprint="y")}
Arrays = dict[str, np.ndarray]


def net_weights(text: str, value: float, settings: Detector = SETTINGS) -> Arrays:
    """Weights of a detector, all of them `value`."""
    net = build(architecture.parse(text), settings, 2)
    return {name: np.full_like(array, value) for name, array in get_weights(net).items()}


def publish(store: Store, folder: Path, job: TrainJob | ReigniteJob, weights: Arrays) -> Weights:
    out = folder / jobs.digest(job)[:8]
    out.mkdir()
    save_file(weights, out / WEIGHTS_FILE)
    store.publish(job, out, {}, 1.0)
    return Weights(kind=job.kind, digest=jobs.digest(job), arch=job.arch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"), cache=tmp_path / "cache")


@pytest.fixture
def sources(store: Store, tmp_path: Path) -> tuple[Weights, Weights]:
    """A trained detector of ones, and its reignited backbone of twos."""
    ones = net_weights(PARENT, 1.0)
    twos = {name: 2 * array for name, array in ones.items() if name.startswith("backbone.")}
    first = publish(store, tmp_path, TrainJob(arch=PARENT, recipe=Recipe(), **COMMON), ones)
    return first, publish(store, tmp_path, ReigniteJob(arch=PARENT, recipe=Reignite(), weights=(first,), **COMMON), twos)


def test_later_weights_replace_earlier_ones(store: Store, sources: tuple[Weights, Weights]) -> None:
    arch, merged = initial_weights.merge_weights(sources, store)
    assert arch == PARENT
    assert merged.keys() == net_weights(PARENT, 1.0).keys()
    assert all((array == (2 if name.startswith("backbone.") else 1)).all() for name, array in merged.items())


def test_a_child_takes_the_reignited_backbone_and_the_detectors_heads(store: Store, sources: tuple[Weights, Weights]) -> None:
    job = TrainJob(arch=CHILD, recipe=Recipe(), weights=sources, **COMMON)
    fresh = net_weights(CHILD, 7.0)
    weights, audit = initial_weights.start_detector(job, store, fresh)
    assert weights.keys() == fresh.keys()
    for name in audit.copied:
        assert (weights[name] == (2 if name.startswith("backbone.") else 1)).all()
    assert {name.rsplit(".", 2)[0] for name in audit.zero} == {"backbone.blocks.4", "backbone.blocks.9"}
    assert all((weights[name] == (0 if name in audit.zero else 7)).all() for name in audit.new)
    assert audit.dropped == ()


def test_the_backbone_of_a_classifier(store: Store, sources: tuple[Weights, Weights]) -> None:
    job = ReigniteJob(arch=PARENT, recipe=Reignite(), weights=sources[:1], **COMMON)
    fresh = {name: array for name, array in net_weights(PARENT, 7.0).items() if name.startswith("backbone.")}
    found = initial_weights.start_backbone(job, store, {**fresh, "score.weight": np.full((2, 2), 7, np.float32)})
    assert all((array == (1 if name.startswith("backbone.") else 7)).all() for name, array in found.items())


def test_a_reignition_may_change_the_stem(store: Store, sources: tuple[Weights, Weights], tmp_path: Path) -> None:
    """The classifier learns the new stem; a detector that starts from it has no trace of the old one."""
    small = SETTINGS.model_copy(update={"stem": "3x3"})
    common = {**COMMON, "detector": small}
    job = ReigniteJob(arch=PARENT, recipe=Reignite(stem="3x3"), weights=sources[:1], **common)
    fresh = {name: array for name, array in net_weights(PARENT, 7.0, small).items() if name.startswith("backbone.")}
    found = initial_weights.start_backbone(job, store, fresh)
    assert found.keys() == fresh.keys()
    assert all((array == (7 if ".stem." in name else 1)).all() for name, array in found.items())

    reignited = publish(store, tmp_path, job, {name: np.full_like(array, 3) for name, array in found.items()})
    child = net_weights(CHILD, 9.0, small)
    weights, audit = initial_weights.start_detector(
        TrainJob(arch=CHILD, recipe=Recipe(), weights=(sources[0], reignited), **common), store, child
    )
    assert weights.keys() == child.keys()
    assert all((weights[name] == (3 if name.startswith("backbone.") else 1)).all() for name in audit.copied)
    assert {"backbone.stem.conv1.weight", "backbone.stem.bn2.moving_mean"} <= set(audit.copied)
    assert audit.dropped == ()
    with pytest.raises(UserError, match=r"\+backbone\.stem\.bn1\.beta .*-backbone\.stem\.bn\.beta"):
        initial_weights.start_detector(TrainJob(arch=CHILD, recipe=Recipe(), weights=sources[:1], **common), store, child)


def test_weights_that_do_not_fit(store: Store, sources: tuple[Weights, Weights], tmp_path: Path) -> None:
    fresh = net_weights(PARENT, 7.0)
    stray = {name: array for name, array in fresh.items() if name != "rpn.conv.bias"} | {"rpn.scale": np.ones(3, np.float32)}
    bad = publish(store, tmp_path, TrainJob(arch=PARENT, recipe=Recipe(), seed=1, **COMMON), stray)
    with pytest.raises(UserError, match=r"\+rpn\.conv\.bias \(8,\), -rpn\.scale \(3,\)"):
        initial_weights.start_detector(TrainJob(arch=PARENT, recipe=Recipe(), weights=(bad,), **COMMON), store, fresh)
    other = Weights(kind="train", digest="0" * 64, arch=CHILD)
    with pytest.raises(UserError, match="expected one architecture"):
        initial_weights.merge_weights((sources[0], other), store)


class Normed(nn.Cell):
    """A convolution and a trained norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = Conv(3, 4, 3), Norm(4, 1e-5, frozen=False)

    def losses(self, x: Tensor) -> Tensor:
        """Mean square of the output's distance from one."""
        return ((self.bn(self.conv.plain(x)) - 1) ** 2).mean().reshape(1)


@pytest.mark.parametrize("last", [1, 2, 3, 4, 7])
def test_a_checkpoint_holds_statistics_momenta_and_the_step(tmp_path: Path, last: int) -> None:
    """A training of three epochs of three steps that dies at its checkpoint number `last` ends as one that ran through."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    histories: list[list[dict[str, Any]]] = []

    def run(folder: Path, stop: bool) -> Arrays:
        folder.mkdir(exist_ok=True)
        ms.set_seed(0)
        net = Normed()
        step = TrainStep(net, 0.9, (1e-3,) * len(net.trainable_params()), None)

        saved = 0

        def report(event: dict[str, object]) -> None:
            nonlocal saved
            saved += event["event"] == "checkpoint"
            if stop and saved == last:
                raise KeyboardInterrupt

        def batches(epoch: int, first: int) -> list[tuple[np.ndarray, ...]]:
            return [(np.random.default_rng((epoch, n)).standard_normal((2, 3, 8, 8)).astype(np.float32),) for n in range(first, 3)]

        histories.append(training.run_epochs(step, batches, lambda n: 0.1 / (n + 1), 3, 3, JobContext(report, folder, 0.0), lambda _: {}))
        return get_weights(step)

    whole = run(tmp_path / "whole", stop=False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop=True)
    again = run(tmp_path / "cut", stop=False)
    assert {"bn.moving_mean", "bn.moving_variance"} <= {name.removeprefix("net.") for name in whole}
    assert any(name.startswith("velocity") for name in whole)
    assert not any(name.startswith(ZEROS) for name in whole)
    assert all(whole[name].tobytes() == again[name].tobytes() for name in whole)
    first, second = ([{**one, "seconds": 0, "timing": 0} for one in history] for history in histories)
    assert first == second
