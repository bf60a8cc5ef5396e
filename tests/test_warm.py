"""Jobs that are forked from a warm process: the same results, failures and limits as in new interpreters, and nothing left behind."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_worker import gone, job

from spnas_core import job as jobs
from spnas_core.errors import JobError, UserError
from spnas_core.jobs import start
from spnas_core.jobs.job_group import JobGroup
from spnas_core.jobs.runner import run_job
from spnas_core.store.artifacts import Store

pytestmark = [pytest.mark.training, pytest.mark.skipif(sys.platform != "linux", reason="forks")]


@pytest.fixture(autouse=True)
def _warm() -> Iterator[None]:
    """No warm process of an earlier test, and none for a later one."""
    start.end_warm_processes()
    yield
    start.end_warm_processes()


def warm_pids() -> set[int]:
    return {warm.process.pid for warm in start._warm.values()}


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1])


def at(event: str, act: Callable[[int], None]) -> Callable[[dict[str, Any]], None]:
    """Do something to a job's process when it reports `event` for the first time."""
    pids: list[int] = []

    def on_progress(told: dict[str, Any]) -> None:
        if told["event"] == "start":
            pids.append(told["pid"])
        if told["event"] == event and pids:
            act(pids.pop())

    return on_progress


def test_a_fork_gives_what_a_new_interpreter_gives(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, twice from one warm process; and a warm process starts no thread of MindSpore, so there is nothing to be copied."""
    one, found, parents = job(tiny_data, epochs=2), [], []
    for name in ("first", "second"):
        run_job(one, str(tmp_path / name), on_progress=at("compile", lambda pid: parents.append(parent_of(pid))))
    assert len(set(parents)) == 1
    assert set(parents) == warm_pids()
    names = [(task / "comm").read_text() for task in Path(f"/proc/{parents[0]}/task").iterdir()]
    assert not [name for name in names if name.startswith(("Actor", "Kernel"))]
    monkeypatch.setenv(start.SWITCH, "0")
    run_job(one, str(tmp_path / "cold"), on_progress=at("compile", lambda pid: parents.append(parent_of(pid))))
    assert parents[-1] == os.getpid()
    for name in ("first", "second", "cold"):
        files = Store(str(tmp_path / name)).find("train", jobs.digest(one)).files
        found.append({file: entry.sha256 for file, entry in files.items() if file != "history.json"})  # that has seconds
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "killed"), (signal.SIGSEGV, "crashed")])
def test_a_dead_fork_is_a_typed_failure_of_its_job_alone(number: int, reason: str, tiny_data: Path, tmp_path: Path) -> None:
    group, store = JobGroup(), str(tmp_path / "store")
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(run_job, job(tiny_data, lr=0.005), store, group=group)
        with pytest.raises(JobError, match="last lines of its log") as caught:
            run_job(job(tiny_data), store, on_progress=at("compile", lambda pid: os.kill(pid, number)), group=group)
        assert caught.value.reason == reason
        assert other.result().metrics["epochs"] == 1
    assert len(warm_pids()) == 1


def test_limits_and_mistakes_are_those_of_any_job(tiny_data: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with pytest.raises(UserError, match="there is nothing"):
        run_job(job(tmp_path / "nowhere"), store)
    with pytest.raises(JobError, match="within 3 s") as late:
        run_job(job(tiny_data), store, timeout=3, on_progress=at("compile", lambda pid: os.kill(pid, signal.SIGSTOP)))
    assert late.value.reason == "timeout"
    with pytest.raises(JobError, match=r"memory_gb = 0\.05") as large:
        run_job(job(tiny_data), store, memory_gb=0.05)
    assert large.value.reason == "out_of_memory"


def test_a_fork_saves_its_checkpoint_and_goes_on(tiny_data: Path, tmp_path: Path) -> None:
    """SIGTERM in the middle of a training, and again from there: the weights are those of a training that nobody stopped."""
    one, store, whole = job(tiny_data, epochs=6), str(tmp_path / "store"), str(tmp_path / "whole")
    with pytest.raises(JobError, match="stopped from outside"):
        run_job(one, store, on_progress=at("epoch", lambda pid: os.kill(pid, signal.SIGTERM)))
    events: list[dict[str, Any]] = []
    run_job(one, store, on_progress=events.append)
    assert [event["done"] > 0 for event in events if event["event"] == "resume"] == [True]
    run_job(one, whole)
    weights = [Store(url).find("train", jobs.digest(one)).files["weights.safetensors"].sha256 for url in (store, whole)]
    assert weights[0] == weights[1]


def test_a_prepared_process_serves_the_first_job(tiny_data: Path, tmp_path: Path) -> None:
    start.prepare((1, 2, 1))
    prepared, parents = warm_pids(), []
    run_job(job(tiny_data), str(tmp_path / "store"), on_progress=at("start", lambda pid: parents.append(parent_of(pid))))
    assert len(prepared) == 2
    assert parents[0] in prepared
    assert warm_pids() == prepared


def test_none_is_prepared_where_the_user_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(start.SWITCH, "0")
    start.prepare((1, 2))
    assert warm_pids() == set()


def test_a_warm_process_that_dies_costs_its_jobs_and_no_more(tiny_data: Path, tmp_path: Path) -> None:
    pids: list[int] = []

    def kill_parent(pid: int) -> None:
        pids.append(pid)
        os.kill(parent_of(pid), signal.SIGKILL)

    with pytest.raises(JobError) as caught:
        run_job(job(tiny_data), str(tmp_path / "store"), on_progress=at("compile", kill_parent))
    assert caught.value.reason == "killed"
    assert gone(pids[0])
    assert run_job(job(tiny_data), str(tmp_path / "store")).metrics["epochs"] == 1


def test_a_run_that_dies_leaves_no_process_and_no_lock(tiny_data: Path, tmp_path: Path) -> None:
    """A flow runs jobs in threads and holds files that lock devices: neither its warm process nor a job keeps them."""
    lock = tmp_path / "lock"
    script = f"""
import fcntl, os, sys, threading
from spnas_core.job import TrainJob
from spnas_core.jobs.runner import run_job
held = open({str(lock)!r}, "w")
fcntl.flock(held, fcntl.LOCK_EX)
os.set_inheritable(held.fileno(), True)
def tell(event):
    if event["event"] == "start":
        print(event["pid"], int(open(f"/proc/{{event['pid']}}/stat").read().rsplit(") ", 1)[1].split()[1]), flush=True)
one = TrainJob.model_validate_json({job(tiny_data, epochs=500).model_dump_json()!r})
thread = threading.Thread(target=run_job, args=(one, {str(tmp_path / "store")!r}), kwargs={{"on_progress": tell}})
thread.start()
thread.join()
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid, warm = map(int, parent.stdout.readline().split())
    assert warm != parent.pid
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)
    assert gone(warm)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_warm_process_rests_between_jobs_and_ends_with_its_runner(tiny_data: Path, tmp_path: Path) -> None:
    with contextlib.suppress(UserError):
        run_job(job(tmp_path / "nowhere"), str(tmp_path / "store"))
    (pid,) = warm_pids()

    def ticks() -> int:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[11:13]))

    before = ticks()
    time.sleep(1)
    assert ticks() - before <= 2
    start.end_warm_processes()
    assert gone(pid)
    assert not [thread for thread in threading.enumerate() if thread.name == "spnas-job-end"]
