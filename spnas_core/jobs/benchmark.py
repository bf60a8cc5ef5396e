"""Inference cost of one architecture on the current device: latency and memory for one image, with newly initialised weights.

A machine that others share is a third slower at one hour than at another. So a small reference detector is measured beside the net, in
turn: the quotient of both changes much less than either, and compares nets that were measured at different times.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from spnas_core import arch as architecture
from spnas_core.job import BenchmarkJob
from spnas_core.jobs.progress import JobContext
from spnas_core.models.build import build
from spnas_core.necks.fpn import Fpn
from spnas_core.settings.detector import Detector, FasterRcnnHead

WARM_UP = 3
PARTS, PAUSE = 8, 0.25  # s between two of them, since what disturbs often lasts for a second
LEAST, MOST = 3, 20  # images of a part
SECONDS = 0.5  # of a part, after which no further image starts, except up to LEAST
# about half of its time goes into large products and half into calls of small kernels, which other load slows differently
REFERENCE = "b_11-21-21-21"
REFERENCE_DETECTOR = Detector(
    image_size=(192, 240),
    base_width=24,
    stem="3x3",
    norm="train",
    neck=Fpn(channels=32),
    head=FasterRcnnHead(head_channels=64, anchor_scale=4, proposals_test=60),
)


def run(job: BenchmarkJob, context: JobContext) -> dict[str, Any]:
    """Run the job; return the latency of one image and of the reference, ms, and peak memory, MB: of the device, or of a CPU's process.

    `latency_ms` is the median over the parts of its quotient to the reference, times `reference_ms`, the reference's own median. All shapes
    are static, so weights and image contents do not affect the result; process memory includes the graph compiler.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(0)
    context.report({"event": "compile"})
    net = _timed(job.arch, job.detector, job.classes)
    memory = peak_memory(job.device_target)
    reference = _timed(REFERENCE, REFERENCE_DETECTOR, 1)
    parts: list[tuple[list[float], list[float]]] = []
    for part in range(PARTS):
        time.sleep(PAUSE if part else 0.0)
        parts.append((_part(net), _part(reference)))
    ours, theirs = ([1e3 * statistics.median(times) for times in side] for side in zip(*parts, strict=True))
    reference_ms = statistics.median(theirs)
    return {
        "latency_ms": reference_ms * statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "reference_ms": reference_ms,
        "memory_mb": memory / 1e6,
        "images": sum(len(times) for times, _ in parts),
    }


def _timed(arch: str, detector: Detector, classes: int) -> Callable[[], float]:
    """Build a net, warm it up, and return what detects in one image and says how many seconds that took."""
    height, width = detector.image_size
    net = build(architecture.parse(arch), detector, classes).set_train(False)
    image = Tensor(np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32))
    size = Tensor(np.array([[height, width]], np.float32))

    def seconds() -> float:
        begun = time.perf_counter()
        for output in net(image, size):
            output.asnumpy()
        return time.perf_counter() - begun

    for _ in range(WARM_UP):
        seconds()
    return seconds


def _part(seconds: Callable[[], float]) -> list[float]:
    """Seconds of the images of one part, after one that brings the net back into the caches."""
    seconds()
    times: list[float] = []
    while len(times) < LEAST or (len(times) < MOST and sum(times) < SECONDS):
        times.append(seconds())
    return times


def peak_memory(device_target: str) -> int:
    """Peak memory in bytes: allocated on the device, or, on the CPU, resident."""
    if device_target != "CPU":
        return int(ms.runtime.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
