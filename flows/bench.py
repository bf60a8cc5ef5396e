"""Speed benchmarks: one JSON line per measurement, for the nets of the presets demo and bccd, and for three detectors at 512x512.

``python -m flows.bench [--threads N] [--repeat N] [--net NAME] [--operators] [--peer COMMAND]``; seconds, medians of `repeat` after one
warm-up. With one thread it computes as a job with one thread does.

`--peer` is a command that measures another detector, such as torchvision's: it is called with ``speed --size 512 512`` and prints one JSON
object with `infer_1_image_s` and `train_step_s`. Its figures are printed beside ours, with ratios.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from PIL import Image

from flows import presets
from spnas_core import arch as architecture
from spnas_core.data.demo import DIGITS, make_demo
from spnas_core.data.fingerprints import data_of
from spnas_core.data.loader import Batch, batch_size, eval_batches, steps_per_epoch
from spnas_core.data.samples import Sample, Split
from spnas_core.data.splits import open_split
from spnas_core.job import TrainJob
from spnas_core.jobs import cpu, initial_weights, runner, worker
from spnas_core.jobs.cpu_variables import cpu_variables
from spnas_core.models.build import build
from spnas_core.models.detector import DetectorNet
from spnas_core.models.step import TrainStep
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe

Timings = Iterator[tuple[str, float]]
PEER = {"inference_1_image": "infer_1_image_s", "train_step": "train_step_s"}
PHOTO = (480, 640)  # height and width of the decoded JPEG, px


@dataclass(frozen=True)
class BenchedNet:
    """Measured net: its architecture, settings and training recipe."""

    arch: str
    settings: Detector
    recipe: Recipe
    classes: int


def nets() -> dict[str, BenchedNet]:
    """Nets by name: the start nets of two presets, and the net to compare with torchvision's."""
    demo, bccd = presets.load_preset("demo"), presets.load_preset("bccd")
    common = {"image_size": (512, 512), "norm": "frozen", "frozen_stages": 2, "max_boxes": 8}
    large, retinanet, fcos = (Detector.model_validate({**common, "head": {"kind": kind}}) for kind in ("faster_rcnn", "retinanet", "fcos"))
    return {
        "demo": BenchedNet(demo.arch, demo.detector, demo.fine_tune, len(DIGITS)),
        "bccd": BenchedNet(bccd.arch, bccd.detector, bccd.fine_tune, 3),
        "resnet50_fpn_512": BenchedNet("111-2111-211111-211", large, Recipe(batch=2), 90),
        "retinanet_512": BenchedNet("111-2111-211111-211", retinanet, Recipe(batch=2), 91),
        "fcos_512": BenchedNet("111-2111-211111-211", fcos, Recipe(batch=2), 91),
    }


def once(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def timed(call: Callable[[], Any], repeat: int) -> float:
    """Median seconds of a call, after one warm-up."""
    call()
    return statistics.median(once(call) for _ in range(repeat))


def make_net(net: BenchedNet) -> tuple[DetectorNet, Batch]:
    """Net with new weights, and a batch of noise with as many boxes as fit."""
    arch, settings, batch = architecture.parse(net.arch), net.settings, net.recipe.batch
    detector = build(arch, settings, net.classes)
    initial_weights.freeze(detector, arch, settings)
    rng = np.random.default_rng(0)
    height, width = settings.image_size
    pictures = rng.standard_normal((batch, 3, height, width), dtype=np.float32)
    corner = rng.random((batch, settings.max_boxes, 2), dtype=np.float32) * 0.6 * min(height, width)
    truth = np.concatenate((corner, corner + 0.3 * min(height, width)), -1)
    labels = np.ones((batch, settings.max_boxes), np.int32)
    sizes = np.tile(np.array([height, width], np.float32), (batch, 1))
    return detector, Batch(pictures, sizes, truth, labels, np.arange(batch), np.ones((batch, 2), np.float32))


def training_step(net: BenchedNet, detector: DetectorNet) -> TrainStep:
    """Training step of a net."""
    decay = initial_weights.decays(detector, net.recipe.weight_decay, net.recipe.decay_norm_and_bias)
    return TrainStep(detector, net.recipe.momentum, decay, net.recipe.clip_norm).set_train()


def measure_operators(net: BenchedNet, steps: int) -> Iterator[dict[str, Any]]:
    """Yield calls and milliseconds of each type of operator in a training step, the longest first, last what lies between operators.

    By MindSpore's profiler, which adds about a microsecond to each call.
    """
    detector, given = make_net(net)
    inputs = [Tensor(a) for a in (np.float32(1e-4), *detector.inputs(given, 0, 0))]
    step = training_step(net, detector)
    whole = 1e3 * timed(lambda: step(*inputs).asnumpy(), steps)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # the profiler prints how far it is
        profiler = ms.Profiler(output_path=folder)
        for _ in range(steps):
            step(*inputs).asnumpy()
        profiler.stop()
        profiler.analyse()
        (path,) = Path(folder).glob("*/FRAMEWORK/cpu_op_type_info_0.csv")
        rows = list(csv.DictReader(path.open()))
    found = [(float(row["total_compute_time"]) / steps, int(row["type_occurrences"]) // steps, row["op_type"]) for row in rows]
    for milliseconds, calls, name in sorted(found, reverse=True):
        yield {"operator": name, "calls": calls, "ms": round(milliseconds, 3), "share": round(milliseconds / whole, 3)}
    calls, inside = sum(row[1] for row in found), sum(row[0] for row in found)
    yield {"operator": "between operators", "calls": calls, "ms": round(whole - inside, 3), "share": round(1 - inside / whole, 3)}


def measure_net(net: BenchedNet, repeat: int) -> Timings:
    """Seconds of building, compiling, inference and evaluation of one image, the first and a later training step, and reading.

    Reading is the loader's work for an evaluation image: decoding, resizing and normalising, in one thread.

    Inference comes first, as in the peer's program: after a training the memory is fragmented, and everything is slower.
    """
    settings = net.settings
    made: list[tuple[DetectorNet, Batch]] = []
    yield "build", once(lambda: made.append(make_net(net)))
    detector, given = made[0]
    inputs = [Tensor(a) for a in (np.float32(1e-4), *detector.inputs(given, 0, 0))]
    detector.set_train(False)
    single = Tensor(given.images[:1]), Tensor(given.image_hw[:1])
    yield "inference_compile", once(lambda: detector.compile(*single))
    yield "inference_1_image", timed(lambda: detector(*single)[0].asnumpy(), repeat)
    many = batch_size(settings.image_size)
    whole = Tensor(np.repeat(given.images[:1], many, 0)), Tensor(np.repeat(given.image_hw[:1], many, 0))
    yield "evaluation_per_image", timed(lambda: detector(*whole)[0].asnumpy(), repeat) / many
    step = training_step(net, detector)
    yield "train_compile", once(lambda: step.compile(*inputs))
    yield "train_first_step", once(lambda: step(*inputs).asnumpy())
    yield "train_step", timed(lambda: step(*inputs).asnumpy(), repeat)
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(_photo(np.random.default_rng(0)))
        file.flush()
        sample = Sample(1, file.name, file.name, 0, PHOTO[1], PHOTO[0], np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
        photo = Split("photo", (sample,), ())
        yield "decoding_1_image", timed(lambda: list(eval_batches(photo, settings.image_size, 1, threads=1)), repeat)


def _photo(rng: np.random.Generator) -> bytes:
    """JPEG of random content with details at all scales."""
    noise = [Image.fromarray(rng.integers(0, 256, (8 << k, 8 << k, 3)).astype(np.uint8)).resize(PHOTO[::-1]) for k in range(6)]
    file = io.BytesIO()
    Image.fromarray(np.mean(noise, axis=0).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def measure_jobs(net: BenchedNet, step: float, threads: int) -> Timings:
    """Seconds of jobs of one epoch on the demo's data, outside of their training steps: the first of a run, a later one, and one again.

    That is: process start, imports, building, compiling, reading data, evaluation, publishing. The first starts with an empty cache and
    starts the warm process; the second is forked from that and has other graphs; the third differs from the first by its seed and takes
    its graphs.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPNAS_CACHE"] = f"{folder}/cache"  # without the graphs of an earlier measurement
        data = str(make_demo(Path(folder) / "data"))
        steps = steps_per_epoch(len(open_split(data, "train").samples), net.recipe.batch)
        first = net.recipe.model_copy(update={"epochs": 1})
        other = first.model_copy(update={"weight_decay": 2 * first.weight_decay})
        recipes = {"job_outside_steps": first, "later_job_outside_steps": other, "job_outside_steps_again": first}
        for seed, (name, recipe) in enumerate(recipes.items()):
            job = TrainJob(arch=net.arch, detector=net.settings, recipe=recipe, data=data_of(data), seed=seed)
            yield name, once(lambda job=job: runner.run_job(job, f"{folder}/store", threads=threads)) - steps * step


def ask_peer(command: str, size: tuple[int, int]) -> dict[str, float]:
    """Seconds measured by the peer's program, under our names."""
    words = [*shlex.split(command), "speed", "--size", *map(str, size)]
    answer = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return {ours: float(answer[theirs]) for ours, theirs in PEER.items()}


def print_figures(name: str, measured: Timings, threads: int, peer: dict[str, float]) -> dict[str, float]:
    """Print each figure as soon as it is measured, beside the peer's if there is one; returns all figures."""
    found: dict[str, float] = {}
    for what, seconds in measured:
        found[what] = seconds
        beside = {"peer": peer[what], "ratio": round(seconds / peer[what], 3)} if what in peer else {}
        print(json.dumps({"net": name, "what": what, "seconds": round(seconds, 4), "threads": threads, **beside}), flush=True)
    return found


def main() -> None:
    """Measure the nets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeat", type=int, default=5, help="runs of which the median is taken")
    parser.add_argument("--net", choices=list(nets()), action="append", help="measure this one only")
    parser.add_argument("--operators", action="store_true", help="time by operator in a training step, instead of the measurements")
    parser.add_argument("--peer", default="", help="command that measures torchvision")
    options = parser.parse_args()
    if variables := cpu_variables():  # as in jobs
        os.execve(sys.executable, [sys.executable, "-m", "flows.bench", *sys.argv[1:]], {**os.environ, **variables})
    sys.stdout = worker.own_stdout()
    ms.set_context(mode=ms.GRAPH_MODE)
    cpu.use_threads(options.threads)
    for name, net in nets().items():
        if options.net and name not in options.net:
            continue
        if options.operators:
            for row in measure_operators(net, options.repeat):
                print(json.dumps({"net": name, "threads": options.threads, **row}), flush=True)
            continue
        demo = name == "demo"
        peer = ask_peer(options.peer, net.settings.image_size) if options.peer and name == "resnet50_fpn_512" else {}
        found = print_figures(name, measure_net(net, options.repeat), options.threads, peer)
        if demo:
            print_figures(name, measure_jobs(net, found["train_step"], options.threads), options.threads, {})


if __name__ == "__main__":
    main()
