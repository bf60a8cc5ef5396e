"""Inference and training beside torchvision at equal work: the same weights and images, as many proposals, in turn on the same cores."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from golden_weights import ARCH, CLASSES, network_input
from weight_rule import BATCH, LR, TRUTH, rule

PEER = os.environ.get("SPNAS_TORCHVISION_PYTHON")
SIZE = (512, 512)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PEER is None, reason="SPNAS_TORCHVISION_PYTHON names no environment with torchvision"),
]


def serve(path: str, work: str, kind: str) -> None:
    """Do what torchvision_speed.py does, with our detector."""
    import mindspore as ms
    from mindspore import Tensor

    from spnas_core.data.loader import Batch
    from spnas_core.jobs.initial_weights import freeze
    from spnas_core.models.build import build
    from spnas_core.models.step import TrainStep, set_weights
    from spnas_core.settings.detector import Detector
    from spnas_core.weights.net_shapes import net_shapes
    from spnas_core.weights.torchvision_names import to_torchvision

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.device_context.cpu.op_tuning.threads_num(2)
    settings = Detector(image_size=SIZE, norm="frozen", frozen_stages=2, max_boxes=8, head={"kind": kind})
    classes = CLASSES if kind == "faster_rcnn" else CLASSES + 1
    net = build(ARCH, settings, classes)
    shapes = net_shapes(ARCH, settings, classes)
    set_weights(net, {ours: rule(theirs, shapes[ours]) for ours, theirs in to_torchvision(ARCH, shapes).items()})
    freeze(net, ARCH, settings)
    sizes = np.array([SIZE] * BATCH, np.float32)
    images = np.repeat(network_input(np.load(path)[None]), BATCH, 0)
    single = Tensor(images[:1]), Tensor(sizes[:1])
    net.set_train(work == "train")
    proposals = 0
    if kind == "faster_rcnn":
        proposals = int(net.rpn.propose(*net.rpn(net.neck(net.backbone(single[0]))), single[1])[1].asnumpy().sum())
    boxes, labels = np.zeros((BATCH, settings.max_boxes, 4), np.float32), np.zeros((BATCH, settings.max_boxes), np.int32)
    boxes[:, : len(TRUTH)], labels[:, : len(TRUTH)] = TRUTH, np.arange(1, len(TRUTH) + 1)
    made = net.inputs(Batch(images, sizes, boxes, labels, np.arange(BATCH), np.ones((BATCH, 2), np.float32)), 0, 0)
    batch = [Tensor(a) for a in (np.float32(LR), *made)]
    step = TrainStep(net, 0.9, (0.0,) * len(net.trainable_params()), None).set_train() if work == "train" else None
    for _ in sys.stdin:
        begun = time.perf_counter()
        losses = step(*batch).asnumpy() if step else net(*single)[0].asnumpy()
        seconds = time.perf_counter() - begun
        assert np.isfinite(losses).all()
        print(json.dumps({"seconds": seconds, "proposals": proposals}), flush=True)


class Server:
    """A process that answers a line with the time of one inference or training step."""

    def __init__(self, python: str, *arguments: str) -> None:
        self.process = subprocess.Popen([python, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("kind", "work", "rounds", "proposals", "bound"),
    [
        ("faster_rcnn", "infer", 9, 1000, 1.0), ("faster_rcnn", "train", 5, 2000, 1.8), ("retinanet", "infer", 9, 0, 1.2),
        ("retinanet", "train", 5, 0, 1.8), ("fcos", "infer", 9, 0, 1.2), ("fcos", "train", 5, 0, 1.8),
    ],
)  # fmt: skip
def test_times_of_torchvision(kind: str, work: str, rounds: int, proposals: int, bound: float, tmp_path: Path) -> None:
    """Inference of one image takes at most torchvision's time, 1.2 times that of a one-stage head; a training step with two 1.8 times."""
    image = tmp_path / "image.npy"
    np.save(image, np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8))
    ours = Server(sys.executable, __file__, str(image), work, kind)
    theirs = Server(str(PEER), str(Path(__file__).with_name("torchvision_speed.py")), str(image), work, kind)
    try:
        answers = [(ours.ask(), theirs.ask()) for _ in range(rounds + 1)][1:]
    finally:
        ours.close()
        theirs.close()
    assert {one["proposals"] for pair in answers for one in pair} == {proposals}
    mine, peer = (statistics.median(pair[side]["seconds"] for pair in answers) for side in (0, 1))
    print(f"\n{kind} {work}: ours {mine:.3f} s, torchvision {peer:.3f} s, ratio {mine / peer:.3f}")
    assert mine <= bound * peer


if __name__ == "__main__":
    serve(*sys.argv[1:])
