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
from golden_weights import ARCH, CLASSES, GOLDEN, network_input, spnas_weights
from weight_rule import BATCH, LR, TRUTH

PEER = os.environ.get("SPNAS_TORCHVISION_PYTHON")
SIZE = (512, 512)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PEER is None, reason="SPNAS_TORCHVISION_PYTHON names no environment with torchvision"),
    pytest.mark.skipif(not GOLDEN.exists(), reason="the golden values are not there: they list torchvision's names"),
]


def serve(path: str, work: str) -> None:
    """Do what torchvision_speed.py does, with our detector."""
    import mindspore as ms
    from mindspore import Tensor

    from spnas_core.jobs.initial_weights import freeze
    from spnas_core.models.build import build
    from spnas_core.models.step import TrainStep, set_weights
    from spnas_core.settings.detector import Detector

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.device_context.cpu.op_tuning.threads_num(2)
    with np.load(GOLDEN) as file:
        weights = spnas_weights(file["names"].tolist(), file["shapes"].tolist())
    settings = Detector(image_size=SIZE, norm="frozen", frozen_stages=2, max_boxes=8)
    net = build(ARCH, settings, CLASSES)
    set_weights(net, weights)
    freeze(net, ARCH, settings)
    sizes = np.array([SIZE] * BATCH, np.float32)
    images = np.repeat(network_input(np.load(path)[None]), BATCH, 0)
    single = Tensor(images[:1]), Tensor(sizes[:1])
    net.set_train(work == "train")
    valid = net.rpn.propose(*net.rpn(net.neck(net.backbone(single[0]))), single[1])[1].asnumpy()
    boxes, labels = np.zeros((BATCH, settings.max_boxes, 4), np.float32), np.zeros((BATCH, settings.max_boxes), np.int32)
    boxes[:, : len(TRUTH)], labels[:, : len(TRUTH)] = TRUTH, np.arange(1, len(TRUTH) + 1)
    batch = [Tensor(a) for a in (np.float32(LR), images, sizes, boxes, labels, *net.draws(boxes, labels, 0, 0))]
    step = TrainStep(net, 0.9, (0.0,) * len(net.trainable_params()), None).set_train() if work == "train" else None
    for _ in sys.stdin:
        begun = time.perf_counter()
        losses = step(*batch).asnumpy() if step else net(*single)[0].asnumpy()
        seconds = time.perf_counter() - begun
        assert np.isfinite(losses).all()
        print(json.dumps({"seconds": seconds, "proposals": int(valid.sum())}), flush=True)


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


@pytest.mark.parametrize(("work", "rounds", "proposals", "bound"), [("infer", 9, 1000, 1.0), ("train", 5, 2000, 1.8)])
def test_times_of_torchvision(work: str, rounds: int, proposals: int, bound: float, tmp_path: Path) -> None:
    """Inference of one image takes at most torchvision's time, a training step with two at most 1.8 times as long."""
    image = tmp_path / "image.npy"
    np.save(image, np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8))
    ours = Server(sys.executable, __file__, str(image), work)
    theirs = Server(str(PEER), str(Path(__file__).with_name("torchvision_speed.py")), str(image), work)
    try:
        answers = [(ours.ask(), theirs.ask()) for _ in range(rounds + 1)][1:]
    finally:
        ours.close()
        theirs.close()
    assert {one["proposals"] for pair in answers for one in pair} == {proposals}
    mine, peer = (statistics.median(pair[side]["seconds"] for pair in answers) for side in (0, 1))
    print(f"\n{work}: ours {mine:.3f} s, torchvision {peer:.3f} s, ratio {mine / peer:.3f}")
    assert mine <= bound * peer


if __name__ == "__main__":
    serve(*sys.argv[1:])
