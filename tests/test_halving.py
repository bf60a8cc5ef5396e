"""Successive halving: what stops, what goes on, and that a training in rungs is the training without them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crews import ScriptedCrew
from hypothesis import given
from hypothesis import strategies as st
from nets import SMOKE
from pydantic import ValidationError

from spnas_core import job as jobs
from spnas_core.data import fingerprints
from spnas_core.errors import JobError, Reason
from spnas_core.job import Data, Job, TrainJob
from spnas_core.jobs.runner import run_job
from spnas_core.metrics import STATS
from spnas_core.run.candidates import Round, train_jobs
from spnas_core.run.crew import Label
from spnas_core.run.plan import Plan
from spnas_core.search.ledger import Trial, best, survivors
from spnas_core.settings.run import Run
from spnas_core.settings.search import Halving, Parallel, Serial
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store

RECIPE = Recipe(epochs=4, batch=4, lr=0.02, warmup_steps=3, clip_norm=10.0)
FAILURES: list[Reason] = ["diverged", "out_of_memory", "timeout", "killed", "crashed"]


def job_of(number: int, url: str = "x") -> TrainJob:
    arch = f"b_{'1' * (4 + number)}-1111"
    data = Data(url=url, fingerprint="none") if url == "x" else fingerprints.data_of(url)
    return TrainJob(arch=arch, detector=SMOKE, recipe=RECIPE, data=data, seed=3)


def play(scores: list[list[float | None]], halving: Halving | None) -> tuple[list[Trial], list[list[TrainJob]]]:
    """Train made-up candidates, the AP of each rung given, None for a failure; returns the trials, and the jobs of each rung."""

    def answer(label: Label, job: Job) -> dict[str, Any] | JobError:
        assert isinstance(job, TrainJob)
        score = scores[label.index][len(crew.asked) - 1]
        metrics = dict.fromkeys(STATS, score) | {"macs": 10, "epochs": job.stop_after_epochs or job.recipe.epochs}
        return JobError(FAILURES[label.index % 5], "x") if score is None else metrics

    crew = ScriptedCrew(answer)
    plan = Plan(Run(), Store("memory://halving"), Data(url="x", fingerprint="f"), 1)
    trials = train_jobs(plan, crew, Round("serial", 1), [(job_of(number), None) for number in range(len(scores))], halving)
    asked = [[job for _, job in group] for group in crew.asked]
    rungs = len(halving.rungs) + 1 if halving else 1
    return trials, asked + [[]] * (rungs - len(asked))  # of a rung that none has reached nothing is asked


@given(
    st.lists(st.lists(st.none() | st.floats(0, 1), min_size=4, max_size=4), max_size=9),
    st.sampled_from([(1,), (2,), (1, 2), (1, 2, 3)]),
    st.sampled_from([0.2, 0.5, 0.7]),
)
def test_the_worse_candidates_stop_at_the_rungs(scores: list[list[float | None]], rungs: tuple[int, ...], keep: float) -> None:
    trials, asked = play(scores, Halving(rungs=rungs, keep=keep))
    assert [one.index for one in trials] == list(range(len(scores)))
    assert [one.arch for one in trials] == [job_of(n).arch for n in range(len(scores))]
    for place, rung in enumerate((*rungs, None)):
        at_rung = [one for one in trials if one.rung == rung]
        assert all((one.failure is None) == (one.metrics is not None) for one in at_rung)
        for job in asked[place]:
            assert job.stop_after_epochs == rung
            earlier = job.model_copy(update={"stop_after_epochs": rungs[place - 1], "resume_from": None})
            assert job.resume_from == (jobs.digest(earlier) if place else None)  # it goes on from its own earlier rung
        if rung is None:
            assert len(at_rung) == len(asked[place])
            continue
        on = {job.arch for job in asked[place + 1]}
        assert len(on) <= math.ceil(keep * len(asked[place]))
        passed = [scores[n][place] for n in range(len(scores)) if job_of(n).arch in on]
        stopped = [one.score for one in at_rung if one.failure is None]
        assert None not in passed
        assert not stopped or min(passed) >= max(stopped)  # type: ignore[type-var]
        assert not stopped or len(on) == math.ceil(keep * len(asked[place]))


@given(st.lists(st.none() | st.floats(0, 1), max_size=8))
def test_only_trainings_to_the_end_are_ranked(scores: list[float | None]) -> None:
    trials, _ = play([[score] * 2 for score in scores], Halving(rungs=(2,)))
    whole = [one for one in trials if one.rung is None and one.failure is None]
    assert {one.digest for one in best(trials, 99)} == {one.digest for one in whole}
    assert all((one.metrics or {})["epochs"] == 4 for one in whole)
    assert all((one.metrics or {})["epochs"] == one.rung for one in trials if one.rung and not one.failure)
    assert {one.digest for one in whole} <= {jobs.digest(job_of(n)) for n in range(9)}  # the digests of trainings without rungs
    if scores:
        assert survivors([replace(one, rung=2) for one in whole], 0.999, ("AP", "macs")) == [replace(t, rung=2) for t in best(whole, 99)]


def test_without_halving_all_are_trained_to_the_end() -> None:
    trials, asked = play([[0.1], [0.2], [None]], None)
    assert [[job.stop_after_epochs for job in jobs_of_rung] for jobs_of_rung in asked] == [[None, None, None]]
    assert [one.rung for one in trials] == [None, None, None]
    assert [one.failure for one in trials] == [None, None, "timeout"]


@pytest.mark.parametrize("rungs", [(), (4,), (2, 2), (3, 1), (0,)])
@pytest.mark.parametrize("stage", [Serial, Parallel])
def test_rungs_that_cannot_be(stage: type[Serial | Parallel], rungs: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        stage.model_validate({"recipe": RECIPE, "halving": {"rungs": rungs}})


def test_where_the_state_lies_is_no_part_of_the_digest() -> None:
    job = job_of(0)
    assert jobs.digest(job.model_copy(update={"resume_from": "a" * 64})) == jobs.digest(job)
    assert len({jobs.digest(job.model_copy(update={"stop_after_epochs": stop})) for stop in (None, 1, 2)}) == 3


@pytest.mark.training
def test_a_training_in_rungs_is_the_training_without_them(tiny_data: Path, tmp_path: Path) -> None:
    """Bit for bit, and no step is done twice; where the state of the earlier rung is lost, it is done again."""
    stores = {name: Store(str(tmp_path / name)) for name in ("rungs", "whole")}
    job = job_of(0, str(tiny_data)).model_copy(update={"arch": "b_1111-2111_0-0"})  # the graph of the smoke preset
    first = run_job(job.model_copy(update={"stop_after_epochs": 1}), stores["rungs"].url)
    events: list[dict[str, Any]] = []
    last = run_job(job.model_copy(update={"resume_from": first.digest}), stores["rungs"].url, on_progress=events.append)
    assert {"event": "resume", "done": 2} in events
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [2, 3, 4]
    whole = run_job(job.model_copy(update={"resume_from": "0" * 64}), stores["whole"].url)
    assert (last.digest, first.metrics["epochs"], last.metrics["epochs"]) == (whole.digest, 1, 4)
    for name in ("weights.safetensors", "detections.json", "audit.json"):
        assert last.files[name] == whole.files[name]
    assert {**last.metrics, "seconds": 0, "timing": 0} == {**whole.metrics, "seconds": 0, "timing": 0}
    assert "checkpoint.safetensors" in first.files
    assert last.files.keys() == whole.files.keys() == first.files.keys() - {"checkpoint.safetensors"}
