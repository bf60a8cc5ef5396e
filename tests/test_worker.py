import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import linux
from curves import curves
from nets import SMOKE, sigterm_at_epoch

from spnas_core import job as jobs
from spnas_core.data import fingerprints
from spnas_core.errors import JobError, MissingArtifactError, UserError
from spnas_core.job import Data, EvaluateJob, ReigniteJob, TrainJob, Weights
from spnas_core.jobs import memory, runner, start
from spnas_core.jobs.cpu_variables import allocator_file
from spnas_core.jobs.job_group import JobGroup
from spnas_core.jobs.request import WorkerRequest, environment, lost_device, out_of_memory
from spnas_core.jobs.runner import JobBug, run_job
from spnas_core.jobs.timing import PHASES
from spnas_core.settings.training import Recipe, Reignite
from spnas_core.store.artifacts import Store
from spnas_core.store.claims import Lease
from spnas_core.store.storage import Storage


@pytest.fixture(autouse=True)
def _new_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new interpreter takes seconds to start, so its job is still there when a test does something to it; test_warm.py has the others."""
    monkeypatch.setenv(start.SWITCH, "0")


GRAPHS = {"compile_cache_0.mindir", "compile_cache_1.mindir"}  # of the step and of the detection


def job(data: Path, **recipe: Any) -> TrainJob:
    recipe = {"epochs": 1, "batch": 4, "warmup_steps": 0, "clip_norm": 10.0, **recipe}  # the graph of the smoke preset
    named = fingerprints.data_of(str(data)) if (data / "annotations").exists() else Data(url=str(data), fingerprint="none")
    return TrainJob(arch="b_1111-2111", detector=SMOKE, recipe=Recipe(**recipe), data=named)


def on_start(act: Callable[[int], None]) -> Callable[[dict[str, Any]], None]:
    """Do something to the worker's process as soon as it says that it is there."""
    return lambda event: act(event["pid"]) if event["event"] == "start" else None


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "killed"), (signal.SIGSEGV, "crashed"), (signal.SIGABRT, "crashed")])
def test_a_dead_worker_is_a_typed_failure(tmp_path: Path, number: int, reason: str) -> None:
    with pytest.raises(JobError, match=signal.Signals(number).name) as caught:
        run_job(job(tmp_path), str(tmp_path / "store"), on_progress=on_start(lambda pid: os.kill(pid, number)))
    assert caught.value.reason == reason
    assert "last lines of its log:\n" in str(caught.value)
    assert "job: start" in str(caught.value)


def test_a_worker_that_hangs_is_killed_with_its_group(tmp_path: Path) -> None:
    pids: list[int] = []

    def stop(pid: int) -> None:
        pids.append(pid)
        os.kill(pid, signal.SIGSTOP)

    begun = time.monotonic()
    with pytest.raises(JobError) as caught:
        run_job(job(tmp_path), str(tmp_path / "store"), timeout=2, on_progress=on_start(stop))
    assert caught.value.reason == "timeout"
    assert "job: start" in str(caught.value)
    assert time.monotonic() - begun < 8
    assert gone(pids[0])


def test_stopping_a_group_ends_its_workers_alone(tmp_path: Path) -> None:
    """A process may have the jobs of several runs: only those of the run that is stopped end."""
    pids: list[int] = []
    ours, others = JobGroup(), JobGroup()

    def stop(pid: int) -> None:
        pids.append(pid)
        others.stop()
        assert not gone(pid, 0.1)
        ours.stop()

    with pytest.raises(JobError, match="SIGKILL"):
        run_job(job(tmp_path), str(tmp_path / "store"), on_progress=on_start(stop), group=ours)
    assert gone(pids[0])


def test_waiting_for_another_is_no_hang_and_ends_with_its_artifact(tmp_path: Path) -> None:
    store, one, events = Store(str(tmp_path / "store")), job(tmp_path), []
    (tmp_path / "out").mkdir()
    lease = Lease(seconds=30, heartbeat=0.2, poll=0.05)

    def on_progress(event: dict[str, Any]) -> None:
        events.append(event["event"])
        threading.Timer(1.0, lambda: store.publish(one, tmp_path / "out", {}, 1.0)).start()

    with store.claim("train", jobs.digest(one), lease) as claim:
        assert claim.acquire(lambda: None, threading.Event(), lambda: None) is None
        assert run_job(one, store.url, timeout=0.1, on_progress=on_progress, lease=lease).digest == jobs.digest(one)
    assert events == ["wait", "done"]


def test_stopping_a_group_ends_its_waiting(tmp_path: Path) -> None:
    store, one, group = Store(str(tmp_path / "store")), job(tmp_path), JobGroup()
    with store.claim("train", jobs.digest(one)) as claim:
        assert claim.acquire(lambda: None, threading.Event(), lambda: None) is None
        with pytest.raises(JobError, match="killed"):
            run_job(one, store.url, on_progress=lambda _: group.stop(), group=group)


def test_a_worker_whose_claim_is_lost_is_killed(tmp_path: Path) -> None:
    one, pids = job(tmp_path), []

    def take_over(event: dict[str, Any]) -> None:
        pids.append(event["pid"])
        os.kill(event["pid"], signal.SIGSTOP)
        Storage(str(tmp_path / "store")).write(f"claims/train/{jobs.digest(one)}/000002", b"another")

    with pytest.raises(JobError, match="took the job over") as caught:
        run_job(one, str(tmp_path / "store"), on_progress=take_over, lease=Lease(heartbeat=0.1))
    assert caught.value.reason == "killed"
    assert gone(pids[0])


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_worker_dies_with_the_flow(tmp_path: Path) -> None:
    script = f"""
import os, signal
from spnas_core.job import TrainJob
from spnas_core.jobs.runner import run_job
def stop(event):
    os.kill(event["pid"], signal.SIGSTOP)
    print(event["pid"], flush=True)
run_job(TrainJob.model_validate_json({job(tmp_path).model_dump_json()!r}), {str(tmp_path / "store")!r}, on_progress=stop)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def test_a_worker_whose_parent_is_gone_does_nothing(tmp_path: Path) -> None:
    order = WorkerRequest(job=job(tmp_path), store=str(tmp_path / "store"), parent=999_999_999)
    (tmp_path / "job.json").write_text(order.model_dump_json())
    done = subprocess.run([sys.executable, "-m", "spnas_core.jobs.worker", str(tmp_path / "job.json")], capture_output=True, timeout=60)
    assert done.returncode
    assert not done.stdout


def test_a_users_mistake_in_a_job_is_one_in_the_caller(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected annotations/instances_\*\.json, .* there is nothing"):
        run_job(job(tmp_path / "nowhere"), str(tmp_path / "store"))


def test_a_wrong_job_file_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"job": {"kind": "train"}, "store": "x"}')
    done = subprocess.run([sys.executable, "-m", "spnas_core.jobs.worker", str(tmp_path / "job.json")], capture_output=True, timeout=60)
    assert done.returncode == 2
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["reason"]) == ("failed", "bad_input")
    (line,) = done.stderr.decode().splitlines()  # the log has what the runner was told
    assert line.endswith(f"job: failed, bad_input: {last['message']}")


def test_a_finished_job_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"))
    (tmp_path / "out").mkdir()
    made = store.publish(job(tmp_path), tmp_path / "out", {"AP": 0.5}, 1.0)
    monkeypatch.setattr(runner, "start", lambda *_: pytest.fail("a process was started"))
    assert run_job(job(tmp_path), store.url) == made


def test_the_log_of_a_job_is_kept(tmp_path: Path) -> None:
    one = job(tmp_path)
    with pytest.raises(JobError):
        run_job(one, str(tmp_path / "store"), on_progress=on_start(lambda pid: os.kill(pid, signal.SIGKILL)))
    assert (tmp_path / "store" / "logs" / "train" / f"{jobs.digest(one)}.txt").exists()


@pytest.mark.parametrize(
    ("status", "last", "stopped", "log", "kind", "words"),
    [
        (1, {"event": "start"}, None, "Traceback\nKeyError: 'x'", JobBug, "KeyError"),
        (
            3,
            {"event": "failed", "reason": "diverged", "message": "loss is nan"},
            None,
            "at 3",
            JobError,
            "diverged: loss is nan; last lines of",
        ),
        (3, {"event": "failed", "reason": "missing_artifact", "message": "gone"}, None, "", MissingArtifactError, "gone"),
        (2, {"event": "failed", "reason": "bad_input", "message": "no such file"}, None, "", UserError, "no such file"),
        (2, {"event": "start"}, None, "usage: python", JobBug, "usage"),
        (-6, {}, None, "terminate called after throwing an instance of 'std::bad_alloc'", JobError, "out_of_memory"),
        (-9, {}, JobError("timeout", "too long"), "last words", JobError, "timeout: too long; last lines of its log:\nlast words"),
        (-15, {}, None, "", JobError, "killed"),
        (-11, {"event": "epoch"}, None, "one\ntwo", JobError, "crashed"),
    ],
)
def test_every_end_has_its_type(status: int, last: dict[str, Any], stopped: JobError | None, log: str, kind: type, words: str) -> None:
    error = runner._failure(status, last, stopped, log)
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.training
@linux
def test_a_job_over_its_memory_is_a_typed_failure(tiny_data: Path, tmp_path: Path) -> None:
    pids: list[int] = []
    with pytest.raises(JobError, match=r"at most memory_gb = 0.2, got 0\.\d\d GB; last lines of its log:\n.*job: start") as caught:
        run_job(job(tiny_data), str(tmp_path / "store"), memory_gb=0.2, on_progress=on_start(pids.append))
    assert caught.value.reason == "out_of_memory"
    assert gone(pids[0])


def test_memory_of_a_group_counts_children_and_shared_pages_once() -> None:
    script = """
import os, signal, time
held = bytearray(os.urandom(1)) * 200_000_000
if os.fork() == 0:
    time.sleep(60)
print("ready", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        process.stdout.readline()
        used = memory.exceeds(process.pid, 1e8)
        assert 2e8 < used < 2.6e8
        assert memory.exceeds(process.pid, 3e8) == 0  # the plain sum is above it
        os.killpg(process.pid, signal.SIGKILL)
    end = time.monotonic() + 10  # the child, which is not ours to wait for, dies a moment later
    while memory.exceeds(process.pid, 0) and time.monotonic() < end:
        time.sleep(0.05)
    assert memory.exceeds(process.pid, 0) == 0


def test_the_environment_names_threads_and_devices(tmp_path: Path) -> None:
    one = job(tmp_path)
    order = WorkerRequest(job=one.model_copy(update={"device_target": "Ascend"}), store="x", devices=(5,), threads=3)
    found = environment(order)
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["ASCEND_RT_VISIBLE_DEVICES"] == "5"
    assert "ASCEND_RT_VISIBLE_DEVICES" not in environment(order.model_copy(update={"job": one}))


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator comes with MindSpore for Linux")
def test_jobs_on_the_cpu_allocate_by_the_file_in_mindspores_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user preloads something; and a process with it says so itself."""
    if allocator_file() is None:
        pytest.skip("this version of MindSpore has none")
    order = WorkerRequest(job=job(tmp_path), store="x")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    path = environment(order)["LD_PRELOAD"]
    shown = subprocess.run(
        [sys.executable, "-c", "print(open('/proc/self/maps').read())"], env={**os.environ, "LD_PRELOAD": path}, capture_output=True
    )
    assert path in shown.stdout.decode()
    assert "LD_PRELOAD" not in environment(order.model_copy(update={"job": order.job.model_copy(update={"device_target": "Ascend"})}))
    monkeypatch.setenv("LD_PRELOAD", "/another.so")
    assert "LD_PRELOAD" not in environment(order)


@pytest.mark.parametrize("text", ["Out of memory: wanted 3 GB", "std::bad_alloc", "OSError: [Errno 12] Cannot allocate memory"])
def test_words_of_a_full_memory(text: str) -> None:
    assert out_of_memory(text)
    assert not out_of_memory("all is well")


SYNC = "Sync stream failed, stream id: 0\n\n----\n- Ascend Error Message:\n----\nEE9999: Inner Error!\n  "


@pytest.mark.parametrize(
    "text",
    [
        SYNC + "wait for compute device to finish failed, runtime result = 507010.[FUNC:ReportCallError][FILE:log_inner.cpp][LINE:148]",
        SYNC + "Device[1] lost heartbeat.[FUNC:SyncTask][FILE:direct_hwts_engine.cc][LINE:407]",
        SYNC + "rtStreamSynchronize execute failed, reason=[ts lost heartbeat][FUNC:FuncErrorReason]",
        "[PID: 389] Device_Absent/Abnormal(EL0001): Device not found or invalid.",
        "[PID: 726962] Inner_Error_Device_Status_Abnormal(E39009): Failed to connect the device.",
        "Call aclrtSetDevice failed, ret[507033]. Got device count[8] and device id[2]",
        "Call aclrtDeviceTaskAbort failed, ret code: 107022",
        "Call aclrtRecordEvent failed, error code is 507899",
        "UCEError error occurs when execute, error_code=507054.",
        "AclrtMemcpy failed, error code: 507901",
    ],
)
def test_words_of_a_lost_device(text: str) -> None:
    assert lost_device(text)


@pytest.mark.parametrize(
    "text",
    [
        "For 'MatMul', expected shapes that fit, got (1, 507010) and (507899, 3)",
        SYNC + "Task execute failed, device_id=3, stream_id=122, task_id=790, runtime result = 507011",  # a fault of the model
        SYNC + "runtime result = 5070101",
        "EL00012",
        "AttributeError: module has no attribute 'get_heartbeat'",
    ],
)
def test_words_of_a_bug(text: str) -> None:
    assert not lost_device(text)


def test_a_job_that_loses_its_device_has_crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore tells of it by a RuntimeError, here as soon as it is loaded; any other one is a bug."""
    line = "wait for compute device to finish failed, runtime result = 507010."
    for text, kind in ((SYNC + line, JobError), (SYNC + "runtime result = 507015", JobBug)):
        (tmp_path / "mindspore.py").write_text(f"raise RuntimeError({text!r})")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(kind, match=r"crashed: wait for compute|status 1") as caught:
            run_job(job(tmp_path), str(tmp_path / "store"))
        assert type(caught.value) is kind
        assert getattr(caught.value, "reason", "crashed") == "crashed"


@pytest.mark.training
def test_a_loss_that_is_not_finite_is_a_typed_failure(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        run_job(job(tiny_data, lr=1e25, epochs=3), str(tmp_path / "store"))
    assert caught.value.reason == "diverged"
    assert "job: compile" in str(caught.value)
    assert Store(str(tmp_path / "store")).find("train", jobs.digest(job(tiny_data, lr=1e25, epochs=3))) is None


@pytest.mark.training
def test_a_training_that_gets_sigterm_goes_on_from_its_checkpoint(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the middle of a training: a checkpoint, `killed`; started again, the weights are those of a training that ran through.

    That one has compiled its graphs, the others borrow them.
    """

    def kept() -> set[str]:
        (folder,) = (tmp_path / "cache" / "graphs").iterdir()
        return {path.name for path in folder.rglob("*")}

    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    one = job(tiny_data, epochs=40)
    whole = run_job(one, str(tmp_path / "whole"))
    compiled = kept()
    assert GRAPHS & compiled == {"compile_cache_0.mindir"}  # of the step; the evaluation has too few batches for one
    with pytest.raises(JobError, match="stopped from outside after step") as caught:
        run_job(one, str(tmp_path / "cut"), on_progress=sigterm_at_epoch(7))
    assert caught.value.reason == "killed"
    epochs: list[int] = []
    again = run_job(one, str(tmp_path / "cut"), on_progress=lambda event: epochs.append(event["epoch"]) if "epoch" in event else None)
    assert epochs[0] >= 7
    assert again.files["weights.safetensors"] == whole.files["weights.safetensors"]
    assert again.files["detections.json"] == whole.files["detections.json"]
    assert kept() == compiled
    drawn = curves(Store(str(tmp_path / "cut")), one)  # nothing twice, and nothing lost
    assert [step for step, _ in drawn["epoch/loss"]] == [2 * epoch for epoch in range(1, 41)]
    assert drawn["epoch/AP"] == [(80, pytest.approx(again.metrics["AP"], abs=1e-6))]
    for made in (whole, again):
        timing = made.metrics["timing"]
        assert set(timing) == set(PHASES)
        assert all(seconds > 0 for seconds in timing.values())
        assert timing["compile"] > timing["steps"] / 80
        assert made is again or sum(timing.values()) < made.seconds


@pytest.mark.training
def test_an_evaluation_of_many_batches_has_a_graph_that_is_kept(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 25th batch of inference compiles it, in the 25th epoch of these; one that borrows both graphs ends in the same numbers."""
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    one = job(tiny_data, epochs=26, eval_epochs=1)
    first = run_job(one, str(tmp_path / "first"))
    (folder,) = (tmp_path / "cache" / "graphs").iterdir()
    assert {path.name for path in folder.rglob("*")} >= GRAPHS
    second = run_job(one, str(tmp_path / "second"))
    for name in ("weights.safetensors", "detections.json"):
        assert second.files[name] == first.files[name]
    scores = [[record["AP"] for record in json.loads(one.read_text())] for one in sorted(tmp_path.glob("*/train/*/history.json"))]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 26


@pytest.mark.training
@linux
@pytest.mark.parametrize(("epochs", "most"), [(100, 1.02), pytest.param(250, 1.05, marks=pytest.mark.long)])
def test_a_training_does_not_leak(tiny_data: Path, tmp_path: Path, epochs: int, most: float) -> None:
    """Resident memory after 500 steps (250 epochs of 2) is at most 5 % above that after 50, after 200 steps at most 2 %.

    It reserves more addresses than its limit.
    """
    pids: list[int] = []
    pages: dict[int, list[int]] = {}

    def sample(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            pids.append(event["pid"])
        if event["event"] == "epoch" and event["epoch"] in (25, epochs):
            pages[event["epoch"]] = [int(text) for text in Path(f"/proc/{pids[0]}/statm").read_text().split()]

    run_job(job(tiny_data, epochs=epochs), str(tmp_path / "store"), on_progress=sample, memory_gb=1.5)
    print(pages)
    assert pages[epochs][1] <= most * pages[25][1]
    assert pages[epochs][0] * os.sysconf("SC_PAGE_SIZE") > 1.5e9


@pytest.mark.training
def test_of_eight_that_ask_for_one_training_one_trains(tiny_data: Path, tmp_path: Path) -> None:
    one, log = job(tiny_data), tmp_path / "log.txt"
    script = f"""
import os
from pathlib import Path
from spnas_core.store.claims import Lease
from spnas_core.job import TrainJob
from spnas_core.jobs.runner import run_job
def tell(event):
    if event["event"] == "compile":
        with Path({str(log)!r}).open("a") as file:
            file.write(f"{{os.getpid()}}\\n")
one = TrainJob.model_validate_json({one.model_dump_json()!r})
print(run_job(one, {str(tmp_path / "store")!r}, on_progress=tell, lease=Lease(60, 1, 0.2)).digest)
"""
    asked = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(8)]
    end = time.monotonic() + 300
    while not log.exists() and time.monotonic() < end:
        time.sleep(0.05)
    first = int(log.read_text().split()[0])
    os.kill(first, signal.SIGKILL)
    found = {process.pid: process.communicate(timeout=600)[0].strip() for process in asked}
    assert found.pop(first) == ""
    assert set(found.values()) == {jobs.digest(one)}
    assert len(set(log.read_text().split())) == 2


def test_a_worker_is_looked_for_where_this_package_lies() -> None:
    assert (start._ROOT / "spnas_core" / "jobs" / "start.py").samefile(start.__file__)


@pytest.mark.training
@pytest.mark.parametrize("kind", ["train", "reignite", "evaluate"])
def test_data_that_changed_after_the_job_was_planned_is_refused(kind: str, tiny_data: Path, tmp_path: Path) -> None:
    """Else its result would be served later as that of the data as it was."""
    data = shutil.copytree(tiny_data, tmp_path / "data")
    one, weights = job(data), Weights(kind="train", digest="0" * 64, arch="b_1111-2111")
    common = {"arch": one.arch, "detector": one.detector, "data": one.data, "weights": (weights,)}
    others = {"reignite": ReigniteJob(recipe=Reignite(), **common), "evaluate": EvaluateJob(split="val", **common)}
    path = data / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1))
    planned = f"expected the data that the job was planned with .fingerprint {one.data.fingerprint[:12]}"
    with pytest.raises(UserError, match=f"{data} train, val: {planned}"):
        run_job(others.get(kind, one), str(tmp_path / "store"))
    assert set(Store(str(tmp_path / "store")).files("train")) == set()
