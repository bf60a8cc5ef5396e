"""Inference beside torchvision at equal work: the same weights, the same image, as many proposals, in turn on the same cores."""

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

PEER = os.environ.get("SPNAS_TORCHVISION_PYTHON")
SIZE, ROUNDS = (512, 512), 9
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PEER is None, reason="SPNAS_TORCHVISION_PYTHON names no environment with torchvision"),
    pytest.mark.skipif(not GOLDEN.exists(), reason="the golden values are not there: they list torchvision's names"),
]


def serve(path: str) -> None:
    """Do what torchvision_speed.py does, with our detector."""
    import mindspore as ms
    from mindspore import Tensor

    from spnas_core.models.detector import FasterRCNN
    from spnas_core.models.step import set_weights
    from spnas_core.settings import Detector

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.device_context.cpu.op_tuning.threads_num(2)
    with np.load(GOLDEN) as file:
        weights = spnas_weights(file["names"].tolist(), file["shapes"].tolist())
    net = FasterRCNN(ARCH, Detector(image_size=SIZE, norm="frozen"), CLASSES).set_train(False)
    set_weights(net, weights)
    sizes = Tensor(np.array([SIZE], np.float32))
    image = Tensor(network_input(np.load(path)[None]))
    valid = net.rpn.propose(*net.rpn(net.neck(net.backbone(image))), sizes)[1].asnumpy()
    for _ in sys.stdin:
        begun = time.perf_counter()
        net(image, sizes)[0].asnumpy()
        print(json.dumps({"seconds": time.perf_counter() - begun, "proposals": int(valid.sum())}), flush=True)


class Server:
    """A process that answers a line with the time of one inference."""

    def __init__(self, python: str, *arguments: str) -> None:
        self.process = subprocess.Popen([python, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(timeout=60)


def test_inference_takes_no_longer_than_torchvisions(tmp_path: Path) -> None:
    image = tmp_path / "image.npy"
    np.save(image, np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8))
    ours = Server(sys.executable, __file__, str(image))
    theirs = Server(str(PEER), str(Path(__file__).with_name("torchvision_speed.py")), str(image))
    try:
        answers = [(ours.ask(), theirs.ask()) for _ in range(ROUNDS + 1)][1:]
    finally:
        ours.close()
        theirs.close()
    assert {one["proposals"] for pair in answers for one in pair} == {1000}
    mine, peer = (statistics.median(pair[side]["seconds"] for pair in answers) for side in (0, 1))
    print(f"\nours {mine:.3f} s, torchvision {peer:.3f} s, ratio {mine / peer:.3f}")
    assert mine <= peer


if __name__ == "__main__":
    serve(sys.argv[1])
