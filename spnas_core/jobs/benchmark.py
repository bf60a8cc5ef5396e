"""Inference cost of one architecture on the current device: latency and memory for one image, with newly initialised weights."""

import resource
import statistics
import sys
import time
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from spnas_core import arch as architecture
from spnas_core.job import BenchmarkJob
from spnas_core.jobs.progress import JobContext
from spnas_core.models.build import build

WARM_UP = 3
LEAST, MOST = 10, 100  # images
SECONDS = 5.0  # after which no further image starts, except up to LEAST


def run(job: BenchmarkJob, context: JobContext) -> dict[str, Any]:
    """Run the job and return the median latency of one image, ms, and peak memory, MB: of the device, or on the CPU of the process.

    All shapes are static, so weights and image contents do not affect the result; process memory includes the graph compiler.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(0)
    height, width = job.detector.image_size
    net = build(architecture.parse(job.arch), job.detector, job.classes).set_train(False)
    image = Tensor(np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32))
    size = Tensor(np.array([[height, width]], np.float32))
    context.report({"event": "compile"})

    def seconds() -> float:
        begun = time.perf_counter()
        for output in net(image, size):
            output.asnumpy()
        return time.perf_counter() - begun

    for _ in range(WARM_UP):
        seconds()
    times: list[float] = []
    while len(times) < LEAST or (len(times) < MOST and sum(times) < SECONDS):
        times.append(seconds())
    return {"latency_ms": 1e3 * statistics.median(times), "memory_mb": peak_memory(job.device_target) / 1e6, "images": len(times)}


def peak_memory(device_target: str) -> int:
    """Peak memory in bytes: allocated on the device, or, on the CPU, resident."""
    if device_target != "CPU":
        return int(ms.runtime.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
