"""Where the time goes: one JSON line per measurement, for the demo's net and for ResNet-50-FPN at 512x512.

``python -m spnas_core.bench [--threads N] [--repeat N]``; seconds, medians of `repeat` after one warm run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from spnas_core import arch as architecture
from spnas_core import evaluate, start
from spnas_core.config import Detector
from spnas_core.models.detector import FasterRCNN, draw_noise
from spnas_core.models.step import TrainStep

NETS = {
    "demo": (
        "b_11-21-21-21",
        4,
        Detector(
            image_size=(128, 128), base_width=16, stem="3x3", norm="train", fpn_channels=32, head_channels=64, rpn_batch=64,
            proposals_train=100, proposals_test=50, roi_batch=32, max_boxes=8, detections=20,
        ),
    ),
    "resnet50_fpn_512": ("111-2111-211111-211", 2, Detector(image_size=(512, 512), norm="frozen", frozen_stages=2, max_boxes=8)),
}  # fmt: skip
CLASSES = {"demo": 4, "resnet50_fpn_512": 90}


def timed(call: Callable[[], Any], repeat: int) -> float:
    """Median seconds of a call, after one warm run."""
    call()
    found = []
    for _ in range(repeat):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def once(call: Callable[[], Any]) -> float:
    """Seconds of the first call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def measure(name: str, repeat: int) -> dict[str, float]:
    """Seconds of building, compiling, a training step and inference of one image."""
    text, batch, settings = NETS[name]
    rng = np.random.default_rng(0)
    nets: list[FasterRCNN] = []
    result = {"build": once(lambda: nets.append(FasterRCNN(architecture.parse(text), settings, CLASSES[name])))}
    net = nets[0]
    if settings.frozen_stages:
        start.freeze(net, architecture.parse(text), settings)
    height, width = settings.image_size
    images = rng.standard_normal((batch, 3, height, width), dtype=np.float32)
    corner = rng.random((batch, settings.max_boxes, 2), dtype=np.float32) * 0.6 * min(height, width)
    truth = np.concatenate((corner, corner + 0.3 * min(height, width)), -1)
    labels = np.ones((batch, settings.max_boxes), np.int32)
    sizes = np.tile(np.array([height, width], np.float32), (batch, 1))
    noise = draw_noise(net, batch, settings.max_boxes, 0, 0)
    inputs = [Tensor(array) for array in (np.float32(1e-4), images, sizes, truth, labels, *noise)]
    step = TrainStep(net, 0.9, start.decays(net, 1e-4, True), None).set_train()
    result["train_compile"] = once(lambda: step.compile(*inputs))
    result["train_first_step"] = once(lambda: step(*inputs).asnumpy())
    result["train_step"] = timed(lambda: step(*inputs).asnumpy(), repeat)
    net.set_train(False)
    single = Tensor(images[:1]), Tensor(sizes[:1])
    result["inference_compile"] = once(lambda: net.compile(*single))
    result["inference_1_image"] = timed(lambda: net(*single)[0].asnumpy(), repeat)
    many = evaluate.batch_size(settings.image_size)
    whole = Tensor(np.repeat(images[:1], many, 0)), Tensor(np.repeat(sizes[:1], many, 0))
    result["evaluation_per_image"] = timed(lambda: net(*whole)[0].asnumpy(), repeat) / many
    return result


def main() -> None:
    """Measure both nets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeat", type=int, default=5, help="runs of which the median is taken")
    options = parser.parse_args()
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.device_context.cpu.op_tuning.threads_num(options.threads)
    for name in NETS:
        for what, seconds in measure(name, options.repeat).items():
            print(json.dumps({"net": name, "what": what, "seconds": round(seconds, 4), "threads": options.threads}), flush=True)


if __name__ == "__main__":
    main()
