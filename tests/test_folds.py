"""Folds of a small data set: no image is learnt and scored, none is lost, and nets are ranked by the mean over all of them."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_data
from crews import ScriptedCrew
from hypothesis import given
from hypothesis import strategies as st
from nets import SMOKE
from pydantic import ValidationError
from trials import trial_of

from spnas_core.data import fingerprints
from spnas_core.data.folds import fold_of
from spnas_core.data.samples import Split
from spnas_core.data.splits import open_split
from spnas_core.errors import JobError
from spnas_core.job import Data, Job, TrainJob, digest
from spnas_core.jobs.runner import run_job
from spnas_core.metrics import STATS
from spnas_core.run.candidates import Round, train_each
from spnas_core.run.crew import Label
from spnas_core.run.folds import with_start_folds
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord
from spnas_core.search.net import net_of
from spnas_core.search.propose import Proposal
from spnas_core.settings.run import Run
from spnas_core.settings.search import Race, Serial
from spnas_core.settings.supernet import Supernet
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    data = write_data(tmp_path_factory.mktemp("folds") / "data", {"train": 13, "val": 5})
    return open_split(str(data), "train"), open_split(str(data), "val")


@given(st.integers(2, 6))
def test_every_image_is_held_back_once_with_its_boxes(splits: tuple[Split, Split], count: int) -> None:
    names, boxes = Counter[str](), Counter[str]()
    whole = {one.name: one.boxes.tolist() for split in splits for one in split.samples}
    for number in range(count):
        learnt, held = fold_of(*splits, number, count)
        assert {one.name for one in learnt.samples} | {one.name for one in held.samples} == set(whole)
        assert not {one.name for one in learnt.samples} & {one.name for one in held.samples}
        assert abs(len(held.samples) - len(whole) / count) < 1
        for part in (learnt, held):
            ids = [one.image_id for one in part.samples]
            assert ids == sorted(set(ids))
            document = part.annotations
            assert {image["id"] for image in document["images"]} == set(ids)
            by_id = {one.image_id: one for one in part.samples}
            for mark in document["annotations"]:
                x, y, w, h = mark["bbox"]
                assert [x, y, x + w, y + h] in by_id[mark["image_id"]].boxes.tolist()
        for one in held.samples:
            names[one.name] += 1
            boxes[one.name] += len(one.boxes)
            assert one.boxes.tolist() == whole[one.name]
    assert set(names.values()) == {1}
    assert boxes == {name: len(found) for name, found in whole.items()}


def score_of(job: TrainJob) -> float:
    word = f"{job.arch} {job.data.fold}"
    return 0.2 + int(hashlib.sha256(word.encode()).hexdigest()[:6], 16) / 0xFFFFFF * 0.6


def play(fails: frozenset[tuple[str, int]] = frozenset()) -> tuple[StageRecord, list[Any], ScriptedCrew]:
    """The start net and a round of two children on three folds; `fails`: roles and folds that fail."""

    def answer(label: Label, job: Job) -> dict[str, Any] | JobError:
        assert isinstance(job, TrainJob)
        if label.role == "fold" and (label.stage + str(label.round), label.seed) in fails:
            return JobError("diverged", "x")
        return {**dict.fromkeys(STATS, score_of(job)), "macs": 5, "params": 1}

    crew = ScriptedCrew(answer)
    run = Run(arch="b_11-21-21-21", folds=3, fine_tune=Recipe(epochs=9), serial=Serial(recipe=Recipe(epochs=4)))
    plan = Plan(run, Store("memory://folds"), Data(url="x", fingerprint="f"), 1)
    start = trial_of("b_11-21-21-21", "fine_tune", 0, 0, None, "s", {**dict.fromkeys(STATS, 0.4), "macs": 5, "params": 1})
    record = with_start_folds(plan, crew, StageRecord(name="fine_tune", key="k", ledger=(start,)))
    children = [Proposal(net_of(f"b_11-21-21{'1' * n}-21", run.detector), record.ledger[0]) for n in (1, 2)]
    return record, train_each(plan, crew, Round("serial", 1), children, {}), crew


def folds_of(crew: ScriptedCrew) -> list[tuple[Label, TrainJob]]:
    return [(label, job) for group in crew.asked for label, job in group if label.role == "fold" and isinstance(job, TrainJob)]


def test_nets_are_ranked_by_the_mean_over_folds_and_inherit_within_a_fold() -> None:
    record, trials, crew = play()
    asked = folds_of(crew)
    assert Counter(job.recipe.epochs for _, job in asked) == {9: 3, 4: 6}
    start = record.ledger[0]
    first = [job for _, job in asked if job.recipe.epochs == 9]
    assert start.folds == tuple(map(digest, first))
    assert start.value("AP") == pytest.approx(np.mean([score_of(job) for job in first]))
    assert start.score == 0.4  # what is shown is measured on val
    for trial in trials:
        own = [job for _, job in asked if job.arch == trial.arch]
        assert [job.data.fold for job in own] == [(n, 3) for n in range(3)]
        assert [job.weights[0].digest for job in own] == list(start.folds)
        assert trial.folds == tuple(map(digest, own))
        assert trial.value("AP") == pytest.approx(np.mean([score_of(job) for job in own]))
    assert len({digest(job) for _, job in asked}) == 9


def test_a_fold_that_failed_is_left_out_for_all_that_follows() -> None:
    record, trials, crew = play(frozenset([("serial0", 1)]))
    assert [bool(one) for one in record.ledger[0].folds] == [True, False, True]
    assert all([bool(one) for one in trial.folds] == [True, False, True] for trial in trials)
    assert len(folds_of(crew)) == 3 + 2 * 2
    _, (one, other), _ = play(frozenset([("serial1", 0)]))
    assert [bool(name) for name in one.folds] == [bool(name) for name in other.folds] == [False, True, True]


def test_folds_are_in_keys_and_digests_only_where_they_are_used() -> None:
    plain, folded = Data(url="x", fingerprint="f"), Data(url="x", fingerprint="f", fold=(0, 3))
    assert "fold" not in plain.identity
    assert folded.identity["fold"] == [0, 3]


@pytest.mark.parametrize(
    "other",
    [{"serial": Serial(control=True)}, {"serial": Serial(race=Race())}, {"serial": Serial(evaluator="supernet", supernet=Supernet())}],
)
def test_folds_and_other_estimates_are_not_mixed(other: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="expected neither control nor race nor a supernet with folds"):
        Run(folds=2, **other)


@pytest.mark.training
def test_a_training_on_a_fold_scores_the_images_held_back(tiny_data: Path, tmp_path: Path) -> None:
    data = fingerprints.data_of(str(tiny_data))
    one = TrainJob(arch="b_1111-2111", detector=SMOKE, recipe=Recipe(epochs=1, batch=4, warmup_steps=0, clip_norm=10.0), data=data)
    store = Store(str(tmp_path / "store"))
    seen = set()
    sizes = [len(open_split(str(tiny_data), name).samples) for name in ("train", "val")]
    for fold in range(2):
        folded = one.model_copy(update={"data": data.model_copy(update={"fold": (fold, 2)})})
        manifest = run_job(folded, store.url)
        found = {mark["image_id"] for mark in json.loads(store.fetch("train", manifest.digest, "detections.json").read_text())}
        assert found <= set(range(1, sum(sizes) + 1))
        assert not found & seen
        seen |= found
