"""What a search costs besides its jobs: of candidates whose trainings are all in the store, and of 10 that are really trained."""

import time
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from published import published_search

from flows import presets
from spnas_core.jobs import runner
from spnas_core.run.opening import open_plan
from spnas_core.run.record import StageRecord, ended_trial
from tasks.jobs import Executor
from tasks.stages import run_stage

TRAINED = 10


@pytest.mark.training
@pytest.mark.parametrize(("candidates", "seconds"), [(40, 12), pytest.param(200, 60, marks=pytest.mark.long)])
def test_candidates_of_the_store_take_less_than_a_third_of_a_second(
    prefect_server: str, tiny_data: Path, tmp_path: Path, candidates: int, seconds: float
) -> None:
    rounds = ["serial.rounds=4", f"serial.candidates={candidates // 4}", "serial.max_reignite=0"]
    plan = open_plan(presets.load_preset("smoke", rounds), str(tiny_data), (tmp_path / "store").as_uri())
    start, *_ = ledger = published_search(plan, tmp_path / "nothing")
    assert len(ledger) == candidates + 1

    @flow(name="serial-only")
    def search() -> StageRecord:
        before = StageRecord(name="fine_tune", key=plan.keys["fine_tune"], ledger=(start,))
        return run_stage(plan, Executor(plan.store.url, plan.settings), "serial", before)

    begun = time.monotonic()
    assert search().ledger == ledger
    assert time.monotonic() - begun < seconds


@pytest.mark.training
@pytest.mark.long
def test_a_candidate_that_is_trained_takes_half_a_second_more_than_its_process(
    prefect_server: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, on an idle machine: the time of a round, without that from the start of each worker to its end."""
    settings = presets.load_preset("smoke", [f"serial.candidates={TRAINED}", "serial.max_reignite=0", "devices=[0]"])
    plan = open_plan(settings, str(tiny_data), (tmp_path / "store").as_uri())
    job = plan.train(settings.arch, settings.detector, settings.fine_tune)
    start = ended_trial(plan, "fine_tune", 0, 0, None, job, runner.run_job(job, plan.store.url))
    processes, seconds = runner._follow, []

    def timed(*words: Any) -> Any:
        begun = time.monotonic()
        try:
            return processes(*words)
        finally:
            seconds.append(time.monotonic() - begun)

    monkeypatch.setattr(runner, "_follow", timed)

    @flow(name="serial-trained")
    def search() -> tuple[StageRecord, float]:
        begun, before = time.monotonic(), StageRecord(name="fine_tune", key=plan.keys["fine_tune"], ledger=(start,))
        return run_stage(plan, Executor(plan.store.url, plan.settings), "serial", before), time.monotonic() - begun

    found, whole = search()
    assert [trial.failure for trial in found.ledger] == [None] * (TRAINED + 1)
    assert len(seconds) == TRAINED
    each = (whole - sum(seconds)) / TRAINED
    print(f"{TRAINED} candidates in {whole:.1f} s, their processes {sum(seconds):.1f} s: {each:.3f} s more for each")
    assert each <= 0.5
