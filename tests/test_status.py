"""Watching a run: what its jobs leave while they go on, where their time goes, and what TensorBoard makes of it."""

import threading
from pathlib import Path

import pytest
from curves import curves
from hypothesis import given
from hypothesis import strategies as st

from spnas_core.errors import JobError
from spnas_core.job import Data, TrainJob, digest
from spnas_core.jobs import progress_file
from spnas_core.jobs.timing import PHASES, Stopwatch, parts, total_seconds
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store


@given(st.lists(st.dictionaries(st.sampled_from((*PHASES, "other")), st.floats(0, 1e6))))
def test_what_jobs_took_adds_up(several: list[dict[str, float]]) -> None:
    assert sum(total_seconds(several).values()) == pytest.approx(sum(sum(one.values()) for one in several))


@given(st.floats(0, 1000), st.dictionaries(st.sampled_from(PHASES), st.floats(0, 100)))
def test_all_of_a_job_is_some_part(seconds: float, phases: dict[str, float]) -> None:
    found = parts("train", seconds, {"timing": phases})
    assert sum(found.values()) == pytest.approx(max(seconds, sum(phases.values())))
    assert parts("evaluate", seconds, {}) == {"evaluation": seconds}


def test_a_stopwatch_goes_on_and_hears_nothing_of_what_is_done_with_an_item() -> None:
    watch = Stopwatch({"data": 5.0})
    for _ in watch.waiting("data", range(3)):
        with watch.during("steps"):
            threading.Event().wait(0.02)
    assert 5.0 <= watch.seconds["data"] < 5.02
    assert 0.06 <= watch.seconds["steps"] < 1


def job_of(tmp_path: Path, arch: str = "x(32x4d)_1111-1111") -> tuple[Store, TrainJob]:
    store = Store(str(tmp_path / "store"))
    return store, TrainJob(arch=arch, detector=Detector(base_width=64), recipe=Recipe(epochs=2), data=Data(url="x", fingerprint="f"))


def attempt(store: Store, job: TrainJob, first: int, last: int, error: Exception | None = None) -> None:
    """Tell of the steps after `first` up to `last`, of 10 to an epoch, as a training does."""
    told = progress_file.ProgressFile(store, job)
    told({"event": "start", "pid": 1})
    told({"event": "resume", "done": first} if first else {"event": "compile"})
    for number in range(first + 1, last + 1):
        epoch, step = divmod(number - 1, 10)
        told({"event": "step", "epoch": epoch + 1, "epochs": 2, "step": step + 1, "steps": 10, "loss": 100.0 * first + number})
        if step == 9:
            told({"event": "epoch", "epoch": epoch + 1, "epochs": 2, "steps": 10, "loss": float(number), "timing": {"steps": 1.0 * number}})
        if number % 5 == 0:
            told({"event": "checkpoint", "done": number})
    if not error:
        told({"event": "scored", "epoch": 2, "epochs": 2, "steps": 10, "AP": 0.25, "AP50": 0.5, "timing": {"steps": 20.0}})
        told({"event": "done", "seconds": 3.0})
    told.close(error)


@pytest.mark.parametrize("resumed", [0, 5, 10])
def test_a_curve_goes_on_without_double_points(resumed: int, tmp_path: Path) -> None:
    store, job = job_of(tmp_path)
    attempt(store, job, 0, 13, JobError("killed", "it died\nof SIGKILL"))
    state = progress_file.read_progress(store, "train", digest(job))
    assert (state["event"], state["reason"], state["message"], state["attempt"]) == ("failed", "killed", "killed: it died", 1)
    attempt(store, job, resumed, 20)
    state = progress_file.read_progress(store, "train", digest(job))
    assert (state["event"], state["attempt"], state["AP"]) == ("done", 2, 0.25)
    found = curves(store, job)
    values = [float(n) if n <= resumed else 100.0 * resumed + n for n in range(1, 21)]
    assert found["step/loss"] == list(zip(range(1, 21), values, strict=True))
    assert [step for step, _ in found["epoch/loss"]] == [10, 20]
    assert found["epoch/AP"] == [(20, 0.25)]
    assert [step for step, _ in found["seconds/steps"]] == [10, 20]


def test_a_store_that_is_full_does_not_disturb_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, job = job_of(tmp_path)
    told = progress_file.ProgressFile(Store("memory://full"), job)
    monkeypatch.setattr(
        "fsspec.implementations.memory.MemoryFileSystem.pipe_file", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full"))
    )
    told({"event": "start"})
    told.close()
