"""Weights that a training keeps: averaged, the best, of a training that ends early; killed or not, they are the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor, nn
from nets import SMALL, SMOKE, sigterm_at_epoch
from pydantic import ValidationError
from safetensors.numpy import load_file

from spnas_core.data import fingerprints
from spnas_core.errors import JobError
from spnas_core.job import Data, TrainJob, digest
from spnas_core.jobs.kept_weights import SNAPSHOT_STEPS, KeptWeights, is_exhausted
from spnas_core.jobs.runner import run_job
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store


class Two(nn.Cell):
    """Two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = ms.Parameter(Tensor(np.zeros(2, np.float32)), name="weight")

    def put(self, values: np.ndarray) -> None:
        """Set them."""
        self.weight.set_data(Tensor(values.astype(np.float32)))


@given(st.integers(1, 40), st.floats(0.5, 0.999))
def test_the_average_is_that_of_the_snapshots_with_falling_weights(count: int, decay: float) -> None:
    net, values = Two(), np.random.default_rng(count).normal(size=(count, 2))
    kept = KeptWeights(net, Recipe(ema=decay))
    for number, value in enumerate(values, start=1):
        net.put(value)
        kept.after_step(number * SNAPSHOT_STEPS)
        kept.after_step(number * SNAPSHOT_STEPS + 1)  # no snapshot
    shares = (decay**SNAPSHOT_STEPS) ** np.arange(count)[::-1]
    np.testing.assert_allclose(kept.now()["weight"], shares @ values / shares.sum(), rtol=1e-4, atol=1e-5)
    again = KeptWeights(Two(), Recipe(ema=decay))
    again.restore(*kept.arrays())
    assert again.now()["weight"].tobytes() == kept.now()["weight"].tobytes()
    with kept.in_net():
        assert net.weight.asnumpy().tobytes() == kept.now()["weight"].tobytes()
    np.testing.assert_allclose(net.weight.asnumpy(), values[-1].astype(np.float32))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_the_first_of_the_best_evaluations_is_kept(scores: list[float]) -> None:
    net = Two()
    kept = KeptWeights(net, Recipe(keep_best=True, eval_epochs=1))
    for number, score in enumerate(scores):
        net.put(np.full(2, number))
        kept.offer(score)
    assert kept.last()["weight"][0] == scores.index(max(scores))
    assert kept.has_better == (max(scores) > scores[-1])


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 4))
def test_patience_ends_when_as_many_evaluations_brought_nothing(scores: list[float], patience: int) -> None:
    best = [index for index, score in enumerate(scores) if score > max(scores[:index], default=-1)]
    assert is_exhausted(scores, patience) == (bool(scores) and len(scores) - 1 - best[-1] >= patience)
    assert not is_exhausted(scores, 0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"keep_best": True}, "expected eval_epochs of at least 1 with keep_best or patience, which compare evaluations, got 0"),
        ({"patience": 2}, "expected eval_epochs of at least 1"),
        ({"patience": 2, "eval_epochs": 1, "scored_epochs": 2}, "expected scored_epochs 1 with patience"),
        ({"epochs": 2, "scored_epochs": 3}, "expected scored_epochs of at most epochs, 2, got 3"),
    ],
)
def test_settings_that_contradict_each_other(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Recipe(**wrong)


def test_what_is_off_is_in_no_digest() -> None:
    one = TrainJob(arch="b_1111-1111", detector=SMALL, recipe=Recipe(), data=Data(url="x", fingerprint="y"))
    plain = digest(one)
    for name, value in {"ema": 0.9, "scored_epochs": 2, "keep_best": True, "patience": 1, "inherited_batches": 2}.items():
        other = one.model_copy(update={"recipe": Recipe(**{"eval_epochs": 1, name: value})})
        assert digest(other) not in (plain, digest(one.model_copy(update={"recipe": Recipe(eval_epochs=1)})))


@pytest.fixture(scope="module")
def job(tiny_data: Path) -> Callable[..., TrainJob]:
    named = fingerprints.data_of(str(tiny_data))

    def make(**recipe: Any) -> TrainJob:
        values = {"epochs": 12, "batch": 4, "lr": 0.02, "warmup_steps": 0, "clip_norm": 10.0, **recipe}
        return TrainJob(arch="b_1111-2111", detector=SMOKE, recipe=Recipe(**values), data=named)

    return make


@pytest.mark.training
def test_an_averaged_training_that_gets_sigterm_ends_in_the_same_weights(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    one = job(epochs=30, ema=0.95, scored_epochs=3, keep_best=True, eval_epochs=10)
    whole = run_job(one, str(tmp_path / "whole"))
    with pytest.raises(JobError, match="stopped from outside"):
        run_job(one, str(tmp_path / "cut"), on_progress=sigterm_at_epoch(12))
    again = run_job(one, str(tmp_path / "cut"))
    for name in ("weights.safetensors", "detections.json"):
        assert again.files[name] == whole.files[name]
    assert again.metrics["mean_AP"] == whole.metrics["mean_AP"]
    history = json.loads(Store(str(tmp_path / "cut")).fetch("train", digest(one), "history.json").read_text())
    assert [record["epoch"] for record in history if "AP" in record] == [10, 20, 28, 29, 30]
    assert again.metrics["mean_AP"] == pytest.approx(np.mean([record["AP"] for record in history[-3:]]))
    assert again.metrics["AP"] == pytest.approx(max(record["AP"] for record in history if "AP" in record))


@pytest.mark.training
def test_a_rung_goes_on_with_its_average(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    one, store = job(ema=0.9), str(tmp_path / "store")
    rung = one.model_copy(update={"stop_after_epochs": 8})
    run_job(rung, store)
    on = run_job(one.model_copy(update={"resume_from": digest(rung)}), store)
    whole = run_job(one, str(tmp_path / "whole"))
    assert on.files["weights.safetensors"] == whole.files["weights.safetensors"]
    plain = run_job(job(), store)
    first, second = (load_file(Store(store).fetch("train", one.digest, "weights.safetensors")) for one in (plain, on))
    assert any(not np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.training
def test_a_training_without_progress_ends_early(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    """At so small a rate only the statistics of norms move, and soon no evaluation is better."""
    one = job(epochs=40, lr=1e-12, eval_epochs=2, patience=2)
    manifest = run_job(one, str(tmp_path / "store"))
    history = json.loads(Store(str(tmp_path / "store")).fetch("train", digest(one), "history.json").read_text())
    scores = [record["AP"] for record in history if "AP" in record]
    assert manifest.metrics["epochs"] == len(history) == 2 * len(scores) < 40
    assert [is_exhausted(scores[:count], 2) for count in range(1, len(scores) + 1)] == [False] * (len(scores) - 1) + [True]
