"""A short training is what it was when the recipe version was last raised: else old artifacts would pass for what the code now does.

Where a test here fails, the meaning of a job has changed: raise RECIPE_VERSION in `spnas_core/job.py` and record the new losses.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from spnas_core.data import coco
from spnas_core.job import RECIPE_VERSION, ReigniteJob, TrainJob
from spnas_core.jobs.runner import run_job
from spnas_core.settings import Detector, Recipe, Reignite
from spnas_core.store.artifacts import Store

pytestmark = pytest.mark.training
SIZES = {"base_width": 4, "fpn_channels": 8, "head_channels": 16, "anchor_scale": 4, "rpn_batch": 16, "roi_batch": 8, "max_boxes": 8}
COMMON: dict[str, Any] = {
    "arch": "b_1111-2111_1-0",
    "detector": Detector(image_size=(64, 64), stem="3x3", proposals_train=20, proposals_test=10, detections=10, **SIZES),
    "seed": 3,
}
RECORDED = {
    (2, "train"): [
        [1.18401, 0.05161, 0.67637, 0.12372],
        [1.15787, 0.03474, 0.67956, 0.22028],
        [1.12689, 0.02057, 0.68521, 0.15275],
    ],
    (2, "reignite"): [[0.7443], [0.51519], [0.49465]],
}  # by recipe version and kind: the mean losses of each epoch


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        ("train", Recipe(epochs=3, batch=4, lr=0.02, warmup_steps=3, clip_norm=5.0, scales=(0.8, 1.0, 1.2), decay_norm_and_bias=False)),
        ("reignite", Reignite(image_size=32, epochs=3, batch=4, lr=0.05, label_smoothing=0.1)),
    ],
)
def test_losses_of_a_short_training(kind: str, recipe: Any, tiny_data: Path, tmp_path: Path) -> None:
    data = coco.describe(str(tiny_data))
    job = TrainJob(recipe=recipe, data=data, **COMMON) if kind == "train" else ReigniteJob(recipe=recipe, data=data, **COMMON)
    store = Store(str(tmp_path / "store"))
    history = json.loads(store.fetch(kind, run_job(job, store.url).digest, "history.json").read_text())
    losses = [record["losses"] for record in history]
    assert losses == [pytest.approx(epoch, rel=5e-3, abs=2e-5) for epoch in RECORDED[RECIPE_VERSION, kind]]
