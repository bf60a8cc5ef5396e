"""What versions of MindSpore need on a CPU, and the check that convolutions are fast there."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_worker import job
from versions import announce, ask

from spnas_core.jobs import cpu_variables
from spnas_core.jobs.runner import run_job

SHOWN = "import json; from spnas_core.jobs.cpu_variables import cpu_variables; print(json.dumps(cpu_variables()))"
OF_A_JOB = (
    "import json; from test_graphs import TRAIN; from spnas_core.jobs.request import WorkerRequest, environment\n"
    "job = TRAIN.model_copy(update={'device_target': %r}); print(json.dumps(environment(WorkerRequest(job=job, store='x'))))"
)


@pytest.mark.parametrize(
    ("version", "held"), [("2.8.0", False), ("2.8.1.post1", False), ("2.9.0rc1", True), ("2.9.0", True), ("2.10.0", True), ("3.0.0", True)]
)
def test_onednn_is_held_to_avx2_from_the_version_that_needs_it(version: str, held: bool, tmp_path: Path) -> None:
    found = json.loads(ask(announce(tmp_path, version), SHOWN))
    assert ("ONEDNN_MAX_CPU_ISA", "AVX2") in found.items() if held else "ONEDNN_MAX_CPU_ISA" not in found
    assert "LD_PRELOAD" not in found  # not the system's allocator either


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_what_the_user_has_set_stays(name: str, tmp_path: Path) -> None:
    place = announce(tmp_path, "2.10.0", allocator=True)
    assert list(json.loads(ask(place, SHOWN, **{name: "AVX"}))) == ["LD_PRELOAD"]


def test_jobs_on_other_devices_are_left_alone(tmp_path: Path) -> None:
    place = announce(tmp_path, "2.10.0", allocator=True)
    found = {target: json.loads(ask(place, OF_A_JOB % target)) for target in ("CPU", "Ascend")}
    assert found["CPU"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert found["CPU"]["LD_PRELOAD"] == str(tmp_path / "mindspore/lib/libjemalloc.so.2")
    assert not {"ONEDNN_MAX_CPU_ISA", "LD_PRELOAD"} & found["Ascend"].keys()


def test_a_store_is_shared_by_versions_but_no_compiled_graph_is(tmp_path: Path) -> None:
    code = (
        "from test_graphs import TRAIN; from spnas_core.job import digest; from spnas_core.jobs.graphs import key\n"
        "print(digest(TRAIN), key(TRAIN))"
    )
    (digest, key), (other_digest, other_key) = (ask(announce(tmp_path / version, version), code).split() for version in ("2.8.0", "2.10.0"))
    assert digest == other_digest
    assert key != other_key


def burn(times: int) -> Callable[[], int]:
    """Use CPU time in proportion to `times`."""
    return lambda: sum(number * number for number in range(20_000 * times))


def test_the_ratio_is_of_cpu_time() -> None:
    """So waiting, or processes that take their turns, count for nothing."""
    from spnas_core.jobs.speed_check import measure_ratio

    assert 10 < measure_ratio(burn(20), burn(1)) < 40
    assert measure_ratio(lambda: (time.sleep(0.05), burn(2)()), burn(2)) < 3


@pytest.mark.training
def test_a_job_says_that_convolutions_are_slow_as_often_as_they_are(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first job measures, later ones read what it has measured, even of other settings of a training; all say it in one line."""
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    events: list[dict[str, Any]] = []
    run_job(job(tiny_data), str(tmp_path / "store"), on_progress=events.append)
    (kept,) = (tmp_path / "cache" / "speed").iterdir()
    measured = json.loads(kept.read_text())
    assert 0 < measured["convolution_to_matmul"] < 5
    assert [event for event in events if event["event"] == "warning"] == []
    kept.write_text(json.dumps({**measured, "convolution_to_matmul": 61.4}))
    run_job(job(tiny_data, lr=0.005), str(tmp_path / "store"), on_progress=events.append)
    (text,) = (event["text"] for event in events if event["event"] == "warning")
    assert "expected at most 5 times the time of the same work as a matrix product, got 61 times: " in text
    assert "\n" not in text


@pytest.mark.training
@pytest.mark.skipif(cpu_variables.mindspore_version() < (2, 9), reason="MindSpore 2.8 convolves fast with AVX-512 too")
@pytest.mark.skipif("avx512f" not in Path("/proc/cpuinfo").read_text(), reason="the processor has no AVX-512")
def test_newer_versions_are_slow_with_avx512_and_say_so(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails, they have been mended, and `instruction_variables` may let them be."""
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    events: list[dict[str, Any]] = []
    run_job(job(tiny_data), str(tmp_path / "store"), on_progress=events.append)
    (text,) = (event["text"] for event in events if event["event"] == "warning")
    assert text.endswith("times: set ONEDNN_MAX_CPU_ISA=AVX2")
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE"
