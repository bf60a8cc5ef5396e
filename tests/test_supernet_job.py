"""Jobs of a supernet: a training that is stopped and goes on, paths that score as their own nets, and a whole run with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from nets import SMOKE, sigterm_at_epoch
from safetensors.numpy import load_file

from spnas_core.arch import parse
from spnas_core.data import fingerprints
from spnas_core.data.pipeline import ImageCache
from spnas_core.errors import JobError, MissingArtifactError
from spnas_core.job import PathsJob, SupernetJob, TrainJob, Weights, digest
from spnas_core.jobs import paths, supernet
from spnas_core.jobs.detection import WORK
from spnas_core.jobs.progress import JobContext
from spnas_core.jobs.runner import run_job
from spnas_core.models.build import build
from spnas_core.models.step import get_weights, set_weights
from spnas_core.names import WEIGHTS_FILE
from spnas_core.search.family import family_of
from spnas_core.search.paths import switches
from spnas_core.settings.supernet import FamilySpace, PathTraining
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store
from spnas_core.weights.paths import path_weights
from spnas_core.weights.tensor_names import STATISTICS, Arrays

pytestmark = pytest.mark.training
START = "b_1111-2111_0-0"
MEMBERS = (START, "b_111-12111_0-0_4-8", "b_11111-21111_0-0", "b_1111-21111_0-0_8-4")
RECIPE = Recipe(epochs=12, batch=4, lr=0.01, warmup_steps=2, clip_norm=10.0)
SPACE = FamilySpace(inner=(4, 8))


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, SupernetJob]:
    """A store with a trained start net and a trained supernet, and the latter's job."""
    store, data = Store(str(tmp_path_factory.mktemp("supernet") / "store")), fingerprints.data_of(str(tiny_data))
    start = TrainJob(arch=START, detector=SMOKE, recipe=RECIPE.model_copy(update={"epochs": 1}), data=data)
    weights = Weights(kind="train", digest=run_job(start, store.url).digest, arch=START)
    job = SupernetJob(
        arch=START, detector=SMOKE, family=SPACE, blocks=(8, 60), recipe=RECIPE, paths=PathTraining(), data=data, weights=(weights,)
    )
    run_job(job, store.url)
    return store, job


def paths_job(job: SupernetJob, members: tuple[str, ...] = MEMBERS, calibration: int = 3) -> PathsJob:
    common = {name: getattr(job, name) for name in ("arch", "detector", "family", "blocks", "recipe", "data", "seed", "device_target")}
    weights = Weights(kind="supernet", digest=digest(job), arch=job.arch)
    return PathsJob(calibration=calibration, members=members, weights=(weights,), **common)


def weights_of(store: Store, job: SupernetJob) -> Arrays:
    return load_file(store.fetch("supernet", digest(job), WEIGHTS_FILE))


def test_a_supernet_that_is_stopped_goes_on_to_the_same_weights(trained: tuple[Store, SupernetJob], tmp_path: Path) -> None:
    store, job = trained
    other = Store(str(tmp_path / "store"))
    (weights,) = job.weights
    source, target = (Path(one.url.removeprefix("file://"), "train", weights.digest) for one in (store, other))
    shutil.copytree(source, target)
    for epoch in (1, 3):
        with pytest.raises(JobError, match="killed") as caught:
            run_job(job, other.url, on_progress=sigterm_at_epoch(epoch))
        assert caught.value.reason == "killed"
    run_job(job, other.url)
    ours, theirs = weights_of(store, job), weights_of(other, job)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())
    history = json.loads(store.fetch("supernet", digest(job), "history.json").read_text())
    assert [record["epoch"] for record in history] == list(range(1, 13))


def test_all_members_are_drawn_and_each_step_has_its_own(trained: tuple[Store, SupernetJob]) -> None:
    _, job = trained
    path = supernet.draw_paths(job, 2)
    drawn = [path(step) for step in range(60)]
    assert drawn == [path(step) for step in range(60)]
    assert len(set(drawn)) > 20
    always = job.model_copy(update={"paths": PathTraining(sandwich=1.0)})
    ends = {supernet.draw_paths(always, 2)(step) for step in range(20)}
    assert len(ends) == 2


def test_a_path_scores_as_its_own_net_with_the_mean_statistics_of_the_batches(trained: tuple[Store, SupernetJob]) -> None:
    """Whatever was scored before it: statistics of one path do not reach the next."""
    store, job = trained
    scoring = paths_job(job)
    found = run_job(scoring, store.url).metrics["scores"]
    assert set(found) == set(MEMBERS)
    assert run_job(paths_job(job, MEMBERS[2:3]), store.url).metrics["scores"][MEMBERS[2]] == found[MEMBERS[2]]

    ms.set_context(mode=ms.GRAPH_MODE)
    data = WORK.open_data(job.data, store)
    batches = paths.calibration_batches(scoring, data.split("train"), ImageCache())
    assert len(batches) == 3
    family, val = family_of(job.arch, job.family, job.blocks), data.split("val")
    text = MEMBERS[1]
    own = build(parse(text), job.detector, 2)
    cut = path_weights(weights_of(store, job), family, parse(text), job.detector.base_width)
    means: dict[str, Any] = {name: np.zeros(array.shape) for name, array in cut.items() if name.endswith(STATISTICS)}
    for images in batches:  # a tenth of each batch's statistics enters the running ones, which begin with mean 0 and variance 1
        fresh = {name: np.full_like(array, float(name.endswith("variance"))) if name in means else array for name, array in cut.items()}
        set_weights(own, fresh)
        own.set_train(True)
        own.features(images)
        for name, after in get_weights(own).items():
            if name in means:
                means[name] += ((after - 0.9 * fresh[name]) / 0.1) / len(batches)
    net, _ = supernet.open_supernet(job, store)
    set_weights(net, weights_of(store, job))
    choice = tuple(map(Tensor, switches(family, parse(text), job.detector.base_width)))
    statistics = paths.own_statistics(net, family, parse(text), job.detector.base_width)
    paths.calibrate(paths.StatisticsPass(net.backbone), statistics, batches, choice)  # type: ignore[arg-type]
    after = path_weights(get_weights(net), family, parse(text), job.detector.base_width)
    assert {name for name in after if not np.array_equal(after[name], cut[name])} <= means.keys()
    for name, mean in means.items():
        np.testing.assert_allclose(after[name], mean, rtol=2e-3, atol=2e-3 * np.abs(mean).max() + 1e-5, err_msg=name)
    set_weights(own, after)
    ours, theirs = (WORK.outputs(one, val, job.detector, None) for one in (paths.OnePath(net, choice), own))  # type: ignore[arg-type]
    assert len(ours) == len(theirs) > 0
    rows = [[(one["score"], *one["bbox"]) for one in outputs] for outputs in (ours, theirs)]
    np.testing.assert_allclose(*rows, rtol=1e-3, atol=1e-2)
    score = WORK.score(val, ours, "hotcoco").stats
    assert found[text] == pytest.approx({name: score[name] for name in found[text]}, abs=1e-6)


def test_a_finalist_starts_from_its_path(trained: tuple[Store, SupernetJob]) -> None:
    store, job = trained
    recipe = RECIPE.model_copy(update={"epochs": 1, "lr": 1e-9})
    weights = Weights(kind="supernet", digest=digest(job), arch=MEMBERS[3])
    manifest = run_job(TrainJob(arch=MEMBERS[3], detector=SMOKE, recipe=recipe, data=job.data, weights=(weights,)), store.url)
    family = family_of(job.arch, job.family, job.blocks)
    cut = path_weights(weights_of(store, job), family, parse(MEMBERS[3]), SMOKE.base_width)
    after = load_file(store.fetch("train", manifest.digest, WEIGHTS_FILE))
    assert after.keys() == cut.keys()
    assert manifest.metrics["inherited"] == 1.0
    for name in cut.keys() - {name for name in cut if name.endswith(STATISTICS)}:
        np.testing.assert_allclose(after[name], cut[name], rtol=1e-4, atol=1e-5)


def test_paths_that_are_told_to_stop_are_killed(trained: tuple[Store, SupernetJob], tmp_path: Path) -> None:
    store, job = trained
    context = JobContext(lambda _: None, tmp_path)
    context.stop.set()
    with pytest.raises(JobError, match="stopped from outside after path 1 of 4"):
        paths.run(paths_job(job), store, context)
    missing = paths_job(job.model_copy(update={"seed": 7}))
    with pytest.raises(MissingArtifactError):
        paths.run(missing, store, context)
