"""The score before the first step: its statistics, and that the training does not notice it, killed or not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from nets import SMOKE, sigterm_at_epoch
from safetensors.numpy import load_file

from spnas_core.arch import parse
from spnas_core.data import fingerprints
from spnas_core.errors import JobError
from spnas_core.job import Data, TrainJob, Weights, digest
from spnas_core.jobs.inherited_score import inherited_score, new_statistics
from spnas_core.jobs.runner import run_job
from spnas_core.metrics import Scores
from spnas_core.models.blocks import Norm
from spnas_core.models.step import TrainStep, get_weights
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store
from spnas_core.weights.gammas import inserted_uses

Jobs = Callable[..., TrainJob]


class Normed(nn.Cell):
    """A norm, and a loss that depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = Norm(3, 1e-5, frozen=False)

    def losses(self, x: Tensor) -> Tensor:
        """Mean square of the normed input."""
        return self.bn(x).pow(2).mean().reshape(1)


@pytest.mark.training
def test_the_new_statistics_are_means_over_batches() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    step = TrainStep(Normed(), 0.9, (0.0, 0.0), None)
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(4, 3, 5, 6), loc=(n + 1), scale=(n + 0.5)).astype(np.float32),) for n in range(3)]
    before = get_weights(step)
    found = new_statistics(step, iter(batches))
    assert set(found) == {"bn.moving_mean", "bn.moving_variance"}
    means = [x.mean((0, 2, 3)) for (x,) in batches]
    variances = [x.var((0, 2, 3), ddof=1) for (x,) in batches]
    np.testing.assert_allclose(found["bn.moving_mean"], np.mean(means, 0), rtol=1e-5)
    np.testing.assert_allclose(found["bn.moving_variance"], np.mean(variances, 0), rtol=1e-5)
    after = get_weights(step)
    for name in ("bn.gamma", "bn.beta"):
        assert after[name].tobytes() == before[name].tobytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("inherited") / "store")


@pytest.fixture(scope="module")
def job(tiny_data: Path, store: str) -> Jobs:
    """Trainings of a net, and of a child of it with a new block."""
    data = fingerprints.data_of(str(tiny_data))

    def make(**recipe: Any) -> TrainJob:
        whole = Recipe(**{"epochs": 12, "batch": 4, "lr": 0.02, "warmup_steps": 0, "clip_norm": 10.0, **recipe})
        return TrainJob(arch="b_1111-2111", detector=SMOKE, recipe=whole, data=data)

    parent = make(epochs=20)
    run_job(parent, store)
    weights = (Weights(kind="train", digest=digest(parent), arch=parent.arch),)
    return lambda **recipe: make(**recipe).model_copy(update={"arch": "b_1111-21111", "weights": weights})


@pytest.mark.training
def test_the_training_does_not_notice_that_it_was_scored_before(job: Jobs, store: str) -> None:
    plain, scored = run_job(job(), store), run_job(job(inherited_batches=5), store)
    assert plain.digest != scored.digest
    for name in ("weights.safetensors", "detections.json"):
        assert scored.files[name] == plain.files[name]
    assert "AP_inherited" not in plain.metrics
    assert 0 <= scored.metrics["AP_inherited"] <= 1
    assert len(scored.metrics["block_gammas"]) == 9
    weights = load_file(Store(store).fetch("train", scored.digest, "weights.safetensors"))
    gammas = [np.abs(weights[f"backbone.blocks.{n}.bn2.gamma"]).mean() for n in range(9)]
    np.testing.assert_allclose(scored.metrics["block_gammas"], gammas, atol=1e-6)
    (use,) = inserted_uses(parse("b_1111-2111"), parse("b_1111-21111"), scored.metrics["block_gammas"])
    assert (use.stage, use.position) == (2, 5)
    assert 0 < use.share < 0.5  # it began at 0, the others at 1


@pytest.mark.training
def test_a_killed_training_has_the_same_score_before_its_first_step(job: Jobs, store: str, tmp_path: Path) -> None:
    one = job(inherited_batches=5)
    whole = run_job(one, store)
    shutil.copytree(Path(store) / "train" / one.weights[0].digest, tmp_path / "cut" / "train" / one.weights[0].digest)
    with pytest.raises(JobError, match="stopped from outside"):
        run_job(one, str(tmp_path / "cut"), on_progress=sigterm_at_epoch(3))
    assert list((tmp_path / "cut" / "checkpoints").rglob("inherited.json"))
    again = run_job(one, str(tmp_path / "cut"))
    assert again.metrics["AP_inherited"] == whole.metrics["AP_inherited"]
    assert again.files["weights.safetensors"] == whole.files["weights.safetensors"]


@pytest.mark.training
def test_a_rung_hands_its_score_on(job: Jobs, store: str) -> None:
    one = job(inherited_batches=3)
    rung = one.model_copy(update={"stop_after_epochs": 4})
    first = run_job(rung, store)
    on = run_job(one.model_copy(update={"resume_from": digest(rung)}), store)
    assert on.metrics["AP_inherited"] == first.metrics["AP_inherited"]


@pytest.mark.training
def test_without_training_the_score_is_that_before_it(job: Jobs, store: str) -> None:
    """At no learning rate only the statistics differ: of the last batches by moving average, or of the first ones by mean."""
    scored = run_job(job(inherited_batches=8, lr=1e-12), store)
    assert scored.metrics["AP_inherited"] == pytest.approx(scored.metrics["AP"], abs=0.1)
    assert scored.metrics["block_gammas"][8] < 1e-6


@pytest.mark.training
def test_the_graph_of_the_step_is_the_first_with_frozen_norms_too(tmp_path: Path) -> None:
    """Graphs that are kept are numbered, so their order must not depend on what is evaluated before the first step."""
    ms.set_context(mode=ms.GRAPH_MODE)
    step = TrainStep(Normed(), 0.9, (0.0, 0.0), None)
    frozen = SMOKE.model_copy(update={"norm": "frozen"})
    data = Data(url="here", fingerprint="f")
    one = TrainJob(arch="b_1111-2111", detector=frozen, recipe=Recipe(inherited_batches=1), data=data)
    compiled: list[bool] = []

    def evaluate() -> Scores:
        compiled.append(bool(step.compile_cache))
        return Scores({"AP": 0.5}, {})

    batch = (np.ones((4, 3, 5, 6), np.float32),)
    assert inherited_score(one, Store(str(tmp_path)), tmp_path, step, lambda: iter([batch]), evaluate) == {"AP_inherited": 0.5}
    assert compiled == [True]
