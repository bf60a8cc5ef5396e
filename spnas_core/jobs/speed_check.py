"""Check that MindSpore convolves on this processor about as fast as it multiplies matrices: once per processor, version and settings.

A version may lack a fast convolution for a processor (`cpu_variables.instruction_variables`): results are the same then, after 60 times the
time, and nobody is told.
"""

import contextlib
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mindspore import Tensor, ops

from spnas_core.job import canonical_json
from spnas_core.jobs.cpu_variables import INSTRUCTIONS
from spnas_core.store.storage import cache_folder

CHANNELS, SIDE = 32, 48
LIMIT = 5.0  # times the matrix product of equal work; measured: 0.6 to 3.5 where convolutions are fast, 18 to 28 where not
LEAST_ROUNDS, ROUNDS = 3, 7


def slow_convolution() -> str | None:
    """Line for the user if convolutions are slow here, with the cure, else None; the measurement is kept in ``$SPNAS_CACHE/speed``."""
    place = cache_folder("speed") / f"{_key()}.json"
    try:
        ratio = float(json.loads(place.read_text())["convolution_to_matmul"])
    except (OSError, ValueError, LookupError, TypeError):
        ratio = measure_ratio(convolve(), multiply())
        with contextlib.suppress(OSError):  # where the cache cannot be written, the next job measures again
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps({"convolution_to_matmul": round(ratio, 2), "mindspore": version("mindspore")}))
            partial.replace(place)
    return _complaint(ratio) if ratio > LIMIT else None


def measure_ratio(first: Callable[[], object], second: Callable[[], object], most: float = LIMIT) -> float:
    """Ratio of the least CPU times of two functions, called in turn after a warm-up.

    CPU time, of all threads, hardly grows when other processes take turns with this one. After `LEAST_ROUNDS` it ends as soon as the ratio
    is below `most`: only what stays slow is.
    """
    times: tuple[list[float], list[float]] = [], []
    first(), second()
    while len(times[0]) < LEAST_ROUNDS or (len(times[0]) < ROUNDS and min(times[0]) > most * min(times[1])):
        for work, spent in zip((first, second), times, strict=True):
            begun = time.process_time()
            work()
            spent.append(time.process_time() - begun)
    return min(times[0]) / min(times[1])


def convolve() -> Callable[[], object]:
    """3x3 convolution of one map of (`CHANNELS`, `SIDE`, `SIDE`), as an operator: a graph would shift the numbers of those kept."""
    images, weights = _numbers(1, CHANNELS, SIDE, SIDE), _numbers(CHANNELS, CHANNELS, 3, 3)
    operator = ops.Conv2D(CHANNELS, 3, pad_mode="pad", pad=1)
    return lambda: operator(images, weights).asnumpy()


def multiply() -> Callable[[], object]:
    """Product of matrices with as many multiplications."""
    columns, weights = _numbers(CHANNELS * 9, SIDE * SIDE), _numbers(CHANNELS, CHANNELS * 9)
    operator = ops.MatMul()
    return lambda: operator(weights, columns).asnumpy()


def _numbers(*shape: int) -> Tensor:
    return Tensor(np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape))


def _complaint(ratio: float) -> str:
    name, theirs = next(((name, os.environ[name]) for name in INSTRUCTIONS if name in os.environ), ("", ""))
    cure = f"set {INSTRUCTIONS[0]}=AVX2" if not name or theirs.upper() != "AVX2" else "use another version (make setup has a fast one)"
    given = f" with {name}={theirs}" if name else ""
    return (
        f"MindSpore {version('mindspore')}{given} convolves slowly on this processor, expected at most {LIMIT:g} times the time "
        f"of the same work as a matrix product, got {ratio:.0f} times: {cure}"
    )


def _key() -> str:
    """Digest of the processor, the version and the variables of oneDNN."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = [
            line
            for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
            if line.startswith(("model name", "flags", "Features"))
        ]
    variables = {name: value for name, value in os.environ.items() if name.startswith(("ONEDNN_", "DNNL_"))}
    parts = [sys.platform, platform.machine(), platform.processor(), lines, version("mindspore"), variables]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
