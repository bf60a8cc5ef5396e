"""Speed of training and evaluation, measured by a few real steps and images on the current device, with new weights.

Graphs are always compiled here, even when cached, so the compile time is that of a net that was never trained before.
"""

import itertools
import os
import time
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from spnas_core import arch as architecture
from spnas_core.data.loader import batch_size
from spnas_core.data.pipeline import ImageCache
from spnas_core.errors import JobError
from spnas_core.job import MeasureJob
from spnas_core.jobs import initial_weights, train
from spnas_core.jobs.benchmark import peak_memory
from spnas_core.jobs.progress import JobContext
from spnas_core.jobs.works import work_of

DECODED = 32  # images; at least one training batch
WARM_UP, LEAST, MOST, SECONDS = 1, 3, 60, 4.0  # training steps or evaluation batches; after SECONDS none starts but up to LEAST


def run(job: MeasureJob, context: JobContext) -> dict[str, Any]:
    """Run the job and return its metrics, in seconds and MB; JobError ``diverged`` if a loss is not finite.

    `prepare`: opening the data and building the net; `decode`: reading and resizing one image; `train_compile`, `step`; `eval_compile`,
    `image`: evaluation of one image; `by_operators`: extra time of an evaluation batch without a graph; `memory_mb`: peak memory of
    the training (of the device; on the CPU of the process, including the graph compiler); `inside`: total time of this function.
    """
    begun = time.perf_counter()
    os.environ["MS_COMPILER_CACHE_ENABLE"] = "0"
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(0)
    settings, recipe = job.detector, job.recipe
    work = work_of(settings)
    data = work.open_data(job.data, None)
    split, val = data.split(job.data.train), data.split(job.data.val)
    arch = architecture.parse(job.arch)
    net = work.build(arch, settings, len(split.categories), recipe.mixed_precision)
    initial_weights.freeze(net, arch, settings)
    step = train.make_step(net, recipe)

    ready = time.perf_counter()
    stream = work.batches(net, split, settings, recipe, 0, 0, 0, ImageCache(0))
    batches = list(itertools.islice(stream, max(1, DECODED // recipe.batch)))
    decode = (time.perf_counter() - ready) / (len(batches) * recipe.batch)
    context.report({"event": "compile"})

    def one_step(number: int) -> None:
        losses = step(Tensor(np.float32(1e-4)), *map(Tensor, batches[number % len(batches)])).asnumpy()
        if not np.isfinite(losses).all():
            raise JobError("diverged", f"loss {losses.tolist()} at step {number + 1} of a measurement")

    step.set_train()
    train_compile, step_seconds, steps = clocked(one_step)
    memory = peak_memory(job.device_target)
    net.set_train(False)
    size = batch_size(settings.image_size)
    images = list(itertools.islice(work.eval_batches(val, settings, size, None), 4))

    def one_batch(number: int) -> None:
        batch = images[number % len(images)]
        work.infer(net, settings, batch.images, batch.image_hw)

    by_operators = 0.0
    if net.by_operators:
        net.by_operators = MOST
        by_operators = clocked(one_batch)[1]
        net.by_operators = 0
    eval_compile, batch_seconds, _ = clocked(one_batch)
    return {
        "prepare": ready - begun,
        "decode": decode,
        "train_compile": train_compile,
        "step": step_seconds,
        "steps": steps,
        "eval_compile": eval_compile,
        "image": batch_seconds / size,
        "by_operators": max(0.0, by_operators - batch_seconds),
        "memory_mb": memory / 1e6,
        "inside": time.perf_counter() - begun,
    }


def clocked(work: Callable[[int], None]) -> tuple[float, float, int]:
    """Extra seconds of the first call of `work` compared with later calls, mean seconds of a later call, and the count of these."""
    times: list[float] = []
    while len(times) < 1 + WARM_UP + LEAST or (len(times) < MOST and sum(times[1:]) < SECONDS):
        clock = time.perf_counter()
        work(len(times))
        times.append(time.perf_counter() - clock)
    later = times[1 + WARM_UP :]
    mean = sum(later) / len(later)
    return max(0.0, times[0] - mean), mean, len(later)
