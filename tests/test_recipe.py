"""A short training is what it was when the recipe version was last raised: else old artifacts would pass for what the code now does.

Where a test here fails, the meaning of a job has changed: raise RECIPE_VERSION in `spnas_core/job.py` and record the new figures.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import SMALL

from spnas_core.data import fingerprints
from spnas_core.job import RECIPE_VERSION, ReigniteJob, TrainJob, Weights, digest
from spnas_core.jobs.runner import run_job
from spnas_core.settings.training import Recipe, Reignite
from spnas_core.store.artifacts import Store

pytestmark = pytest.mark.training
ARCH, CHILD = "b_1111-2111_1-0", "b_11111-21111_1-1"
RECIPE = Recipe(epochs=3, batch=4, lr=0.02, warmup_steps=3, clip_norm=5.0, scales=(0.8, 1.0, 1.2), decay_norm_and_bias=False)
STEPS = Recipe(epochs=4, batch=4, lr=0.05, warmup_steps=1, schedule="step", milestones=(0.5,))
REIGNITE = Reignite(image_size=32, epochs=3, batch=4, lr=0.05, label_smoothing=0.1)
RECORDED: dict[tuple[int, str], list[list[float]]] = {
    (2, "train"): [
        [1.18401, 0.05161, 0.67637, 0.12372],
        [1.15787, 0.03474, 0.67956, 0.22028],
        [1.12689, 0.02057, 0.68521, 0.15275],
    ],
    (2, "reignite"): [[0.7443], [0.51519], [0.49465]],
    (2, "child"): [
        [1.94685, 0.23623, 0.66467, 0.19981],
        [1.84071, 0.2415, 0.66429, 0.14503],
        [1.67742, 0.21561, 0.66039, 0.15859],
        [1.60256, 0.24799, 0.66546, 0.12462],
    ],
}  # by recipe version and training: the mean losses of each epoch
DETECTED: dict[tuple[int, str], list[float]] = {
    (2, "train"): [40, 16.1399, 26.5957, 34.7703, 27.4914, 9.9288],
    (2, "child"): [40, 11.7902, 17.556, 12.3769, 43.578, 17.5013],
}  # the same: how many detections, the sum of their scores, the mean x, y, width and height of their boxes, px


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("recipe") / "store"))


def job_of(kind: str, data: Path) -> TrainJob | ReigniteJob:
    """A training from scratch; a reignition; a child of the former, with frozen norms and a cascade, and a schedule of steps."""
    common: dict[str, Any] = {"data": fingerprints.data_of(str(data)), "seed": 3}
    if kind == "reignite":
        return ReigniteJob(arch=ARCH, detector=SMALL, recipe=REIGNITE, **common)
    parent = TrainJob(arch=ARCH, detector=SMALL, recipe=RECIPE, **common)
    if kind == "train":
        return parent
    weights = Weights(kind="train", digest=digest(parent), arch=ARCH)
    changed = SMALL.model_copy(update={"cascade": True, "norm": "frozen"})
    return TrainJob(arch=CHILD, detector=changed, recipe=STEPS, weights=(weights,), **common)


@pytest.mark.parametrize("kind", ["train", "reignite", "child"])
def test_a_short_training_and_what_it_detects(kind: str, tiny_data: Path, store: Store) -> None:
    if kind == "child":
        run_job(job_of("train", tiny_data), store.url)  # it is there, unless this test runs alone
    job = job_of(kind, tiny_data)
    key = run_job(job, store.url).digest
    history = json.loads(store.fetch(job.kind, key, "history.json").read_text())
    losses = [record["losses"] for record in history]
    assert losses == [pytest.approx(epoch, rel=5e-3, abs=2e-5) for epoch in RECORDED[RECIPE_VERSION, kind]]
    if kind == "reignite":
        return
    found = json.loads(store.fetch(job.kind, key, "detections.json").read_text())
    facts = [len(found), sum(one["score"] for one in found), *np.mean([one["bbox"] for one in found], 0)]
    assert facts == pytest.approx(DETECTED[RECIPE_VERSION, kind], rel=5e-3)
