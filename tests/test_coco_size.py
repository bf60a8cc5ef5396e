"""At COCO's size: seconds and memory of opening a split, of a plan and of a check, and their growth; a small part in make test.

Figures are printed; run the long tests alone on an idle machine.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_size import BOXES, IMAGES, make_coco_size
from command_line import SPNAS

PART = IMAGES // 60
OPEN = """
    from spnas_core.data.splits import DataSet
    begun = time.perf_counter()
    split = DataSet(root).split("train")
    report(len(split.samples), int(split.box_counts.sum()))
"""
HOTCOCO = """
    import hotcoco
    begun = time.perf_counter()
    coco = hotcoco.COCO(root + "/annotations/instances_train2017.json")
    report(len(coco.get_img_ids()), len(coco.get_ann_ids()))
"""
FRAME = """
    import json, os, sys, time
    import numpy
    def peak():  # KB; that of getrusage is also of the process that this one was forked from
        return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    root, base = sys.argv[1], peak()
    def report(images, boxes):
        seconds, most = time.perf_counter() - begun, peak()
        print(json.dumps({"images": images, "boxes": boxes, "s": seconds, "mb": most / 1024, "above_mb": (most - base) / 1024}))
"""


pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the memory of a process is read from /proc")


def measured(script: str, root: Path, cache: Path) -> dict[str, Any]:
    """Run a script in a process of its own; images, boxes, seconds, peak MB, and MB above an interpreter with numpy."""
    text = textwrap.dedent(FRAME) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", text, str(root)], capture_output=True, text=True, check=True, env={**os.environ, "SPNAS_CACHE": str(cache)}
    )
    return json.loads(done.stdout.splitlines()[-1])


TIMED = """
    import json, resource, subprocess, sys, time
    begun = time.perf_counter()
    done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps([time.perf_counter() - begun, most, done.returncode, done.stdout]))
"""


def command(*words: object, cache: Path) -> tuple[float, float, int, str]:
    """Seconds, peak MB, exit status and output of `spnas` in a process of its own."""
    texts = [sys.executable, "-c", textwrap.dedent(TIMED), *SPNAS, *map(str, words)]
    done = subprocess.run(texts, capture_output=True, text=True, check=True, env={**os.environ, "SPNAS_CACHE": str(cache)})
    seconds, megabytes, status, output = json.loads(done.stdout)
    return seconds, megabytes, status, output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_coco_size(tmp_path_factory.mktemp("whole"))


@pytest.mark.training  # it starts four programs
def test_a_small_part_is_opened_planned_and_checked(tmp_path: Path) -> None:
    """The layout of COCO 2017, 1,971 images of five contents: right counts, by the file and by the index."""
    root, cache = make_coco_size(tmp_path / "set", PART), tmp_path / "cache"
    cold, warm = measured(OPEN, root, cache), measured(OPEN, root, cache)
    assert [cold["images"], cold["boxes"]] == [warm["images"], warm["boxes"]] == [PART, round(PART * BOXES / IMAGES)]
    assert len(list((cache / "index").iterdir())) == 1
    _, megabytes, status, output = command(
        "plan", "coco", "--no-measure", "--data", root, "--store", tmp_path / "store", "--json", cache=cache
    )
    assert status == 0
    assert json.loads(output)["data"]["train"] == PART
    assert megabytes < 500
    _, _, status, output = command("check", root, "--json", cache=cache)
    assert status == 1, "the splits share pictures"
    kinds = {(one["kind"], one["where"]): one["count"] for one in json.loads(output)["findings"] if one["severity"] == "error"}
    assert kinds.keys() == {("leak", "train and val")}
    assert json.loads(output)["splits"]["train"]["images"] == PART


@pytest.mark.long
def test_opening_a_split(whole: Path, tmp_path: Path) -> None:
    """Side by side, cold and from the index; medians of three."""
    rows: dict[str, list[dict[str, Any]]] = {"hotcoco": [], "cold": [], "index": []}
    for turn in range(3):
        cache = tmp_path / f"cache{turn}"
        rows["hotcoco"].append(measured(HOTCOCO, whole, cache))
        rows["cold"].append(measured(OPEN, whole, cache))
        rows["index"].append(measured(OPEN, whole, cache))
    median = {name: {key: float(np.median([row[key] for row in some])) for key in some[0]} for name, some in rows.items()}
    for name, row in median.items():
        print(f"{name}: {row['s']:.2f} s, {row['mb']:.0f} MB, {row['above_mb']:.0f} MB above the interpreter")
    print(f"cold: {median['cold']['s'] / median['hotcoco']['s']:.2f} times hotcoco's time")
    assert median["cold"]["boxes"] == median["hotcoco"]["boxes"] == BOXES
    assert median["cold"]["mb"] < 700
    assert median["index"]["s"] < 1.0
    assert median["index"]["above_mb"] < 200


@pytest.mark.long
def test_planning_and_checking(whole: Path, tmp_path: Path) -> None:
    words = ("plan", "coco", "--no-measure", "--data", whole, "--store", tmp_path / "store")
    cold = command(*words, cache=tmp_path / "cache")
    warm = command(*words, cache=tmp_path / "cache")
    check = command("check", whole, cache=tmp_path / "cache")
    for name, (seconds, megabytes, *_) in {"plan, cold": cold, "plan, warm": warm, "check": check}.items():
        print(f"{name}: {seconds:.1f} s, {megabytes:.0f} MB")
    assert cold[2] == warm[2] == 0
    assert cold[3] == warm[3]
    assert cold[0] < 30
    assert cold[1] < 900
    assert warm[0] < 8
    assert check[0] < 180


@pytest.mark.long
def test_growth_is_linear(tmp_path: Path) -> None:
    """Seconds of opening 10,000 to 120,000 images, cold: a straight line explains them, and a square adds little."""
    sizes = np.array([10_000, 30_000, 60_000, 90_000, 120_000])
    seconds = []
    for size in sizes:
        root = make_coco_size(tmp_path / f"set{size}", int(size))
        seconds.append(float(np.median([measured(OPEN, root, tmp_path / f"cache{size}-{turn}")["s"] for turn in range(3)])))
    slope, start = np.polyfit(sizes, seconds, 1)
    curve = np.polyfit(sizes, seconds, 2)
    fit = 1 - np.var(seconds - np.polyval([slope, start], sizes)) / np.var(seconds)
    print(", ".join(f"{size:,}: {one:.2f} s" for size, one in zip(sizes, seconds, strict=True)))
    print(f"{start:.3f} s + {1e6 * slope:.2f} us an image, R2 {fit:.4f}; square part at 120,000: {curve[0] * 120_000**2:+.2f} s")
    assert fit > 0.97
    assert curve[0] * 120_000**2 < 0.25 * seconds[-1]


JOB = """
    from spnas_core.data.fingerprints import fingerprint_splits
    from spnas_core.data.splits import DataSet
    begun = time.perf_counter()
    data = DataSet(root)
    splits = [data.split(name) for name in ("train", "val")]
    fingerprint_splits(splits)
    order = numpy.random.default_rng(0).permutation(len(splits[0].samples))[:2000]
    boxes = sum(len(splits[0].samples[int(row)].boxes) for row in order)
    print("ready", flush=True)
    sys.stdin.readline()
    print(open("/proc/self/smaps_rollup").read())
"""


@pytest.mark.long
def test_eight_jobs_share_the_memory_of_one_index(whole: Path, tmp_path: Path) -> None:
    """Proportional memory of eight processes that open the splits as jobs do, above eight that open a small data set."""
    small = make_coco_size(tmp_path / "small", 364)
    total = {}
    for name, root in {"small": small, "whole": whole}.items():
        text = textwrap.dedent(FRAME) + textwrap.dedent(JOB)
        env = {**os.environ, "SPNAS_CACHE": str(tmp_path / "cache")}
        subprocess.run(
            [sys.executable, "-c", text, str(root)], input="\n", capture_output=True, text=True, check=True, env=env
        )  # the index
        jobs = [
            subprocess.Popen([sys.executable, "-c", text, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
            for _ in range(8)
        ]
        for job in jobs:
            assert job.stdout
            assert job.stdout.readline() == "ready\n"
        pages = [Path(f"/proc/{job.pid}/smaps_rollup").read_text() for job in jobs]
        for job in jobs:
            job.communicate("\n")
        total[name] = sum(int(line.split()[1]) for page in pages for line in page.splitlines() if line.startswith("Pss:")) / 1024
    print(f"eight jobs: {total['whole']:.0f} MB together, {total['whole'] - total['small']:.0f} MB above eight on 364 images")
    assert total["whole"] - total["small"] < 1500
