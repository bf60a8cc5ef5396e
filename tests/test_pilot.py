"""The pilot of a search: what it trains, and what it says."""

import hashlib
from typing import Any

import pytest
from crews import ScriptedCrew
from pydantic import ValidationError
from trials import trial_of

from spnas_core.errors import JobError
from spnas_core.job import Data, Job, TrainJob
from spnas_core.metrics import STATS
from spnas_core.run.crew import Label
from spnas_core.run.pilot import note_of, piloted
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord
from spnas_core.run.stages import serial_search
from spnas_core.search.agreement import agreement
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run
from spnas_core.settings.search import Serial
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store

SHORT, FULL = Recipe(epochs=4), Recipe(epochs=20)
START = trial_of("b_11-21-21-21", "fine_tune", 0, 0, None, "s", {**dict.fromkeys(STATS, 0.4), "macs": 5, "params": 1})


def play(tells: bool, fails: int = 0) -> tuple[StageRecord, ScriptedCrew, Plan]:
    """A pilot of twelve nets whose short score tells the long one, or nothing; the first `fails` full trainings fail."""

    def answer(label: Label, job: Job) -> dict[str, Any] | JobError:
        assert isinstance(job, TrainJob)
        if label.role == "pilot" and label.index < fails:
            return JobError("diverged", "x")
        word = job.arch if tells else f"{job.arch} {label.role}"
        score = int(hashlib.sha256(word.encode()).hexdigest()[:6], 16) / 0xFFFFFF
        return {**dict.fromkeys(STATS, score), "macs": len(job.arch), "params": 1}

    crew = ScriptedCrew(answer)
    run = Run(arch="b_11-21-21-21", detector=Detector(base_width=8), serial=Serial(recipe=SHORT, pilot=12, rounds=1), full_train=FULL)
    plan = Plan(run, Store("memory://pilot"), Data(url="x", fingerprint="f"), 1)
    return piloted(plan, crew, StageRecord(name="fine_tune", key="k", ledger=(START,))), crew, plan


def test_a_pilot_trains_children_briefly_and_then_to_the_end() -> None:
    record, crew, plan = play(tells=True)
    short, long = crew.asked
    assert [label.role for label, _ in short] == ["candidate"] * 12
    assert [label.role for label, _ in long] == ["pilot"] * 12
    assert {job.recipe for _, job in long if isinstance(job, TrainJob)} == {FULL}
    assert record.ledger == (START,)
    assert record.notes == (
        "Pilot over 12 nets: Kendall's tau of the short score with that of the full training is 1.00, 95 % interval 1.00 to 1.00.",
    )
    assert crew.lines[-1] == record.notes[0]
    first = serial_search(plan, crew, record)  # its first round asks for trainings that the pilot has
    asked = [job for group in crew.asked[2:] for label, job in group if label.role == "candidate"]
    assert [job for _, job in short][: plan.settings.serial.candidates] == asked[: plan.settings.serial.candidates]
    assert first.notes[0] == record.notes[0]


def test_a_pilot_says_what_would_help_where_it_found_nothing() -> None:
    record, _, _ = play(tells=False)
    assert "it contains 0, what the search ranks by may be chance" in record.notes[0]
    assert "spnas study noise" in record.notes[0]


def test_failed_trainings_are_left_out() -> None:
    assert "Pilot over 9 nets" in play(tells=True, fails=3)[0].notes[0]
    assert play(tells=True, fails=12)[0].notes[0] == "Pilot: too few of its nets were trained with success to say anything, 0."
    assert note_of(agreement([0.1, 0.2], [0.1, 0.2])).endswith("to say anything, 2.")


def test_a_pilot_of_few_nets_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected pilot 0, or at least 8 nets, since fewer say nothing, got 3"):
        Serial(pilot=3)
