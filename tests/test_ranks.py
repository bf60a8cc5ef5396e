"""One job on several devices: what two ranks do is what one process does, and a rank that dies ends the job."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import psutil
import pytest
import rank_script
from conftest import linux, write_data
from nets import SIZES, sigterm_at_epoch
from safetensors.numpy import load_file, save_file

from spnas_core.data import fingerprints
from spnas_core.errors import JobError, UserError
from spnas_core.job import EvaluateJob, Job, ReigniteJob, TrainJob, Weights
from spnas_core.jobs import cluster, training
from spnas_core.jobs.progress import JobContext
from spnas_core.jobs.runner import JobBug, run_job
from spnas_core.models.step import get_weights
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run
from spnas_core.settings.training import Recipe, Reignite
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest

TWO = (0, 1)
SHOW = """
import json, os, sys
from pathlib import Path
(Path(sys.argv[1]) / (os.environ["MS_ROLE"] + os.environ["RANK_ID"])).write_text(json.dumps(dict(os.environ)))
"""
FAIL = (
    SHOW
    + """
import time
time.sleep(1 if os.environ["RANK_ID"] == "1" else 60)
sys.exit(3)
"""
)


HEADS: dict[str, dict[str, Any]] = {
    "faster_rcnn": {},
    "retinanet": {"head": {"kind": "retinanet", "depth": 1, "candidates": 20}},
    "fcos": {"head": {"kind": "fcos", "depth": 1, "candidates": 20, "norm_groups": 4}},
}


def job(data: Path, norm: str = "frozen", kind: str = "faster_rcnn", **recipe: Any) -> TrainJob:
    detector = Detector(norm=norm, stem="3x3", **SIZES).model_copy(update=HEADS[kind])
    settings = Recipe(**{"epochs": 4, "batch": 8, "warmup_steps": 2, "clip_norm": 5.0, "scales": (0.8, 1.2), **recipe})
    return TrainJob(arch="b_1111-2111_1-0", detector=detector, recipe=settings, data=fingerprints.data_of(str(data)), seed=3)


def do(one: Job, folder: Path, devices: tuple[int, ...] = TWO, **options: Any) -> Manifest:
    return run_job(one, str(folder), devices=contextlib.nullcontext(devices), threads=len(devices), **options)


def document(folder: Path, manifest: Manifest, name: str) -> Any:
    return json.loads(Store(str(folder)).fetch(manifest.kind, manifest.digest, name).read_text())


def weights(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    return load_file(Store(str(folder)).fetch(manifest.kind, manifest.digest, "weights.safetensors"))


def children(parent: int) -> dict[str, int]:
    """Process ids of the scheduler and the ranks that the process `parent` has started, by role and number."""
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                fields = (place / "stat").read_text().rsplit(") ", 1)[1].split()
                variables = dict(item.split("=", 1) for item in (place / "environ").read_text(errors="replace").split("\0") if "=" in item)
            except OSError:
                continue
            if int(fields[1]) == parent and fields[0] != "Z" and "MS_ROLE" in variables:
                found[f"{variables['MS_ROLE']} {variables['RANK_ID']}"] = int(place.name)
    return found


def listeners(parent: int, going: Callable[[], bool]) -> dict[str, set[str]]:
    """Addresses at which the scheduler and the ranks listen at any moment while they are `going`, by role and number."""
    found: dict[str, set[str]] = defaultdict(set)
    while going():
        for name, pid in children(parent).items():
            with contextlib.suppress(psutil.Error):
                opened = psutil.Process(pid).net_connections("inet")
                found[name] |= {one.laddr.ip for one in opened if one.status == psutil.CONN_LISTEN}
        time.sleep(0.2)
    return found


def are_gone(pids: list[int], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images to train on, one batch of all; twenty to validate, three batches: an uneven number for two ranks."""
    return write_data(tmp_path_factory.mktemp("ranks") / "data", {"train": 8, "val": 20})


@pytest.mark.training
@pytest.mark.long
@pytest.mark.parametrize("kind", HEADS)
def test_two_ranks_do_what_one_process_does(data: Path, tmp_path: Path, kind: str) -> None:
    """Frozen norms: the losses of every step, and the weights after the last; of the same weights, every detection and so the AP."""
    folders = {"alone": tmp_path / "alone", "two": tmp_path / "two"}
    whole = job(data, kind=kind)
    alone, two = do(whole, folders["alone"], (0,)), do(whole, folders["two"])
    assert alone.digest == two.digest
    histories = [document(folders[name], one, "history.json") for name, one in (("alone", alone), ("two", two))]
    for first, second in zip(*histories, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
        assert second["losses"] == pytest.approx(first["losses"], abs=2e-5)
    expected, found = weights(folders["alone"], alone), weights(folders["two"], two)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5, err_msg=name)

    source = Weights(kind="train", digest=alone.digest, arch=alone.job["arch"])
    scoring = EvaluateJob(arch=source.arch, detector=whole.detector, data=whole.data, split="val", weights=(source,))
    shutil.copytree(folders["alone"], tmp_path / "copy")
    ends = [(tmp_path / "copy", do(scoring, tmp_path / "copy")), (folders["alone"], do(scoring, folders["alone"], (0,)))]
    assert ends[0][1].metrics == ends[1][1].metrics
    detections = [document(folder, one, "detections.json") for folder, one in ends]
    assert detections[0] == detections[1]
    assert len({one["image_id"] for one in detections[0]}) == 20


@pytest.mark.training
def test_ranks_train_one_net(tmp_path: Path) -> None:
    """Equal weights on both, near those of one process, with frozen and with trained norms; a stop that one hears of stops both."""
    command = [sys.executable, str(Path(rank_script.__file__)), str(tmp_path)]
    with (tmp_path / "log").open("w") as output, ThreadPoolExecutor(1) as thread:
        running = thread.submit(cluster.run_ranks, command, 2, output, threading.Event())
        listening = listeners(os.getpid(), running.running)
        running.result()
    assert listening["MS_SCHED 0"]
    assert {address for addresses in listening.values() for address in addresses} == {"127.0.0.1"}  # nobody else can join them
    found = [json.loads((tmp_path / f"found{number}.json").read_text()) for number in (0, 1)]
    assert found[0] == found[1]
    assert found[0]["gathered"] == [[0, "ü"], [1, "üüüüüü"]]
    assert found[0]["nothing"] == [None, None]
    assert found[0]["stopped"] == "stopped from outside after step 5 of 12"
    assert found[0]["apart"] == "expected all ranks to have the same weights after all, got 2 kinds"
    ms.set_context(mode=ms.GRAPH_MODE)
    (tmp_path / "resume").mkdir()
    (tmp_path / training.CHECKPOINT).rename(tmp_path / "resume" / training.CHECKPOINT)
    for name, folder in (("frozen", tmp_path), ("frozen", tmp_path / "resume"), ("trained", tmp_path)):
        net, history = rank_script.train(JobContext(lambda _: None, folder), name == "frozen", slice(None))
        assert [record["loss"] for record in history] == pytest.approx(found[0][name], rel=1e-5)
        first, second = (load_file(tmp_path / f"{name}{number}.safetensors") for number in (0, 1))
        assert {key: value.tobytes() for key, value in first.items()} == {key: value.tobytes() for key, value in second.items()}
        for key, value in get_weights(net).items():
            np.testing.assert_allclose(first[key], value, rtol=1e-4, atol=1e-6, err_msg=key)


@linux
@pytest.mark.training
@pytest.mark.parametrize(
    ("victim", "moment", "words"),
    [
        ("MS_WORKER 1", "start", "rank 1 ended with SIGKILL"),
        pytest.param("MS_WORKER 1", "compile", "rank 1 ended with SIGKILL", marks=pytest.mark.long),
        pytest.param("MS_WORKER 0", "epoch", "rank 0 ended with SIGKILL", marks=pytest.mark.long),
        pytest.param("leader", "compile", "it died of SIGKILL", marks=pytest.mark.long),
    ],
)
def test_a_process_that_is_killed_ends_the_job(data: Path, tmp_path: Path, victim: str, moment: str, words: str) -> None:
    found: dict[str, int] = {}

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            found["leader"] = event["pid"]
        if event["event"] == moment and len(found) == 1:
            while len(found) < 4:  # they are started one after the other
                found.update(children(found["leader"]))
            os.kill(found[victim], signal.SIGKILL)

    with pytest.raises(JobError, match=words) as caught:
        do(job(data), tmp_path / "store", on_progress=kill)
    assert caught.value.reason == "killed"
    assert "job: start" in str(caught.value) or moment != "start"
    assert set(found) == {"leader", "MS_SCHED 0", "MS_WORKER 0", "MS_WORKER 1"}
    assert are_gone(list(found.values()))


@pytest.mark.training
@pytest.mark.long
def test_a_mistake_that_every_rank_finds_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="instances_train"):
        do(job(tmp_path / "nowhere"), tmp_path / "store")


@pytest.mark.training
@pytest.mark.long
def test_a_bug_in_the_ranks_is_one_of_the_job(data: Path, tmp_path: Path) -> None:
    """Weights without any tensor: an exception that no job foresees, and at which none waits for the others."""
    store, source = Store(str(tmp_path / "store")), job(data)
    (tmp_path / "out").mkdir()
    save_file({}, tmp_path / "out" / "weights.safetensors")
    given = Weights(kind="train", digest=store.publish(source, tmp_path / "out", {}, 1.0).digest, arch=source.arch)
    scoring = EvaluateJob(arch=source.arch, detector=source.detector, data=source.data, split="val", weights=(given,))
    with pytest.raises(JobBug, match=r"the worker ended with status 1(?s:.*)KeyError"):
        do(scoring, tmp_path / "store", timeout=200)


@pytest.mark.training
def test_the_variables_are_those_of_msrun(tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text(SHOW)
    command = [sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num=2", "--local_worker_num=2", "--master_port=9123"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    options = ["--join=True", f"--log_dir={tmp_path}/log", "--tail_worker_log=0", str(script), str(tmp_path)]
    subprocess.run([*command, *options], check=True, capture_output=True, timeout=120, env={**os.environ, "PATH": path})
    for name, number in (("MS_SCHED0", None), ("MS_WORKER0", 0), ("MS_WORKER1", 1)):
        found = json.loads((tmp_path / name).read_text())
        expected = cluster.rank_variables(number, 2, 9123)
        assert {key: found.get(key) for key in expected} == expected
        assert {key for key in found if key.startswith(("MS_", "RANK_", "DEVICE_"))} - set(os.environ) <= expected.keys()


@pytest.mark.parametrize(
    ("statuses", "status"), [([0, -9], -9), ([-6, -9], -9), ([1, 3], 3), ([-6, 2], 2), ([1, -11], -11), ([1, None], 1)]
)
def test_the_end_that_says_best_why_counts(statuses: list[int | None], status: int) -> None:
    with pytest.raises(cluster.RankError) as caught:
        cluster.all_done(statuses)
    assert caught.value.status == status
    assert cluster.all_done([0, 0])
    assert not cluster.all_done([0, None])


def test_what_runs_the_ranks_leaves_none_behind(tmp_path: Path) -> None:
    begun = time.monotonic()
    with (tmp_path / "out").open("w") as output, pytest.raises(cluster.RankError, match="rank 1 ended with status 3"):
        cluster.run_ranks([sys.executable, "-c", FAIL, str(tmp_path)], 2, output, threading.Event())
    assert {path.name for path in tmp_path.iterdir()} == {"out", "MS_SCHED0", "MS_WORKER0", "MS_WORKER1"}
    assert time.monotonic() - begun < 20
    assert not children(os.getpid())


def test_a_rank_that_does_not_leave_after_the_others_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore may let a rank wait for the last message of one that has gone, whose work was done with."""
    monkeypatch.setattr(cluster, "LINGER", 0.5)
    script = "import os, sys, time; time.sleep(0 if (os.environ['MS_ROLE'], os.environ['RANK_ID']) == ('MS_WORKER', '1') else 60)"
    begun = time.monotonic()
    with (tmp_path / "out").open("w") as output:
        cluster.run_ranks([sys.executable, "-c", script], 2, output, threading.Event())
    assert time.monotonic() - begun < 20
    assert not children(os.getpid())


def test_a_scheduler_that_fails_ends_them(tmp_path: Path) -> None:
    script = "import os, sys, time; time.sleep(60 if os.environ['MS_ROLE'] == 'MS_WORKER' else 0); sys.exit(1)"
    with (tmp_path / "out").open("w") as output, pytest.raises(JobError, match="crashed: MindSpore's scheduler ended with status 1"):
        cluster.run_ranks([sys.executable, "-c", script], 2, output, threading.Event())
    assert not children(os.getpid())


def test_settings_share_devices_and_batches_without_rest() -> None:
    assert Run(devices=(0, 1, 2, 3), devices_per_job=2).device_groups == ((0, 1), (2, 3))
    assert Run(devices=(5, 7)).device_groups == ((5,), (7,))
    with pytest.raises(ValueError, match=r"groups of devices_per_job = 2 different devices, got devices \[0, 1, 2\]"):
        Run(devices=(0, 1, 2), devices_per_job=2)
    with pytest.raises(ValueError, match=r"different devices, got devices \[1, 1\]"):
        Run(devices=(1, 1), devices_per_job=2)
    with pytest.raises(ValueError, match=r"expected full_train.batch to be a multiple of devices_per_job = 2, got 3"):
        Run(devices=(0, 1), devices_per_job=2, full_train=Recipe(batch=3))


@linux
@pytest.mark.training
@pytest.mark.long
def test_a_training_of_two_ranks_goes_on_from_its_checkpoint(data: Path, tmp_path: Path) -> None:
    """Trained norms too: both ranks stop at one step, and end with the weights of a training that ran through; one process may go on."""
    one = job(data, "train", epochs=16, batch=4)
    whole = do(one, tmp_path / "whole")
    with pytest.raises(JobError, match="stopped from outside after step") as caught:
        do(one, tmp_path / "cut", on_progress=sigterm_at_epoch(3))
    assert caught.value.reason == "killed"
    shutil.copytree(tmp_path / "cut", tmp_path / "alone")
    epochs: list[int] = []
    again = do(one, tmp_path / "cut", on_progress=lambda event: epochs.append(event["epoch"]) if "epoch" in event else None)
    assert epochs[0] >= 3
    assert again.files["weights.safetensors"] == whole.files["weights.safetensors"]
    assert again.files["detections.json"] == whole.files["detections.json"]
    events: list[dict[str, Any]] = []
    do(one, tmp_path / "alone", (0,), on_progress=events.append)
    assert next(event["done"] for event in events if event["event"] == "resume") >= 6


@pytest.mark.training
@pytest.mark.long
def test_a_reignition_on_two_ranks(data: Path, tmp_path: Path) -> None:
    """Its norms are trained, on the statistics of both ranks; mix-up reaches over them, and every crop is scored once."""
    recipe = Reignite(image_size=32, epochs=4, batch=16, lr=0.01, label_smoothing=0.1)
    one = ReigniteJob(arch="b_1111-2111", detector=job(data).detector, recipe=recipe, data=job(data).data)
    alone, two = do(one, tmp_path / "alone", (0,)), do(one, tmp_path / "two")
    assert two.files.keys() == alone.files.keys()
    assert (40 * two.metrics["top1"]) % 1 == pytest.approx(0, abs=1e-9)
    losses = [document(folder, end, "history.json")[0]["loss"] for folder, end in ((tmp_path / "alone", alone), (tmp_path / "two", two))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
