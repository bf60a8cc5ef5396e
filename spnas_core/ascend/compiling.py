"""Process that compiles the graphs of a net as jobs do, and saves them as texts: ``python -m spnas_core.ascend.compiling REQUEST.json``.

The net is built for the target, but compiled on the CPU, whose backend no device is needed for. The texts are of the pass ``validate``,
the last before the graph goes to a backend, which chooses kernels: up to there it is the same for all devices, but for what MindSpore
itself decides by the device in its gradients.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
import numpy.typing as npt
from mindspore import Tensor, nn

from spnas_core import arch as architecture
from spnas_core.ascend.nets import AuditedNet, CompileRequest, GraphKind
from spnas_core.data.loader import Batch, batch_size
from spnas_core.data.masks.mask_loader import MaskBatch, empty_mask_batch
from spnas_core.jobs import cpu, initial_weights
from spnas_core.jobs.train import make_step
from spnas_core.jobs.training import StepInputs
from spnas_core.jobs.worker import leave
from spnas_core.models.build import build
from spnas_core.models.classifier import Classifier
from spnas_core.models.step import TrainStep
from spnas_core.models.target import built_for
from spnas_core.settings.task import DETECTION

RATE = np.array(0.01, np.float32)


def saved_graph(cell: nn.Cell, inputs: StepInputs) -> str:
    """Compile a cell for arrays of these shapes and return the text of its graph; MS_DEV_SAVE_GRAPHS must be 1 since the process began."""
    place = Path(os.environ["MS_DEV_SAVE_GRAPHS_PATH"])
    for old in place.rglob("*.ir"):
        old.unlink()
    cell.compile(*map(Tensor, inputs))
    if not (found := sorted(place.glob("*_validate_*.ir"))):
        raise RuntimeError(f"expected MindSpore's graph after the pass validate in {place}, got none")
    return "".join(path.read_text() for path in found)


def cells(net: AuditedNet) -> Iterator[tuple[GraphKind, nn.Cell, StepInputs]]:
    """Cells of a net with inputs of the shapes that jobs give them."""
    arch, settings, recipe = architecture.parse(net.arch), net.detector, net.recipe
    detector = build(arch, settings, net.classes, recipe.mixed_precision)
    initial_weights.freeze(detector, arch, settings)
    batch = _batch(net) if settings.task is DETECTION else _mask_batch(net)
    yield "training", make_step(detector, recipe).set_train(), (RATE, *detector.inputs(batch, 0, 0))
    yield "detection", build(arch, settings, net.classes).set_train(False), _images(batch_size(settings.image_size), settings.image_size)
    if recipe.mixed_precision:
        yield "detection in float16", detector.set_train(False), _images(batch_size(settings.image_size), settings.image_size)
    small = settings.model_copy(update={"stem": net.reignite.stem}) if net.reignite.stem else settings
    classifier = Classifier(arch, small, net.classes)
    crops, _ = _images(net.reignite.batch, (net.reignite.image_size, net.reignite.image_size))
    decays = initial_weights.decays(classifier, net.reignite.weight_decay, True)
    step = TrainStep(classifier, net.reignite.momentum, decays, None).set_train()
    yield "reignition", step, (RATE, crops, np.zeros((len(crops), net.classes), np.float32))
    yield "classification", classifier.set_train(False), (crops,)


def _images(batch: int, size: tuple[int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Blank images and their sizes."""
    return np.zeros((batch, 3, *size), np.float32), np.tile(np.array(size, np.float32), (batch, 1))


def _batch(net: AuditedNet) -> Batch:
    """Make a training batch of blank images without objects."""
    images, sizes = _images(net.recipe.batch, net.detector.image_size)
    boxes = np.zeros((len(images), net.detector.max_boxes, 4), np.float32)
    labels = np.zeros(boxes.shape[:2], np.int32)
    return Batch(images, sizes, boxes, labels, np.zeros(len(images), np.int64), np.ones((len(images), 2), np.float32))


def _mask_batch(net: AuditedNet) -> MaskBatch:
    """Make a training batch of blank images whose pixels are all ignored."""
    size = net.detector.image_size
    return empty_mask_batch(net.recipe.batch, size, size)


def main(path: str) -> None:
    """Compile the graphs that the request in the file `path` asks for; their texts are `KIND.ir` in its folder."""
    request = CompileRequest.model_validate_json(Path(path).read_bytes())
    cpu.use_threads(1)
    ms.set_context(mode=ms.GRAPH_MODE)
    with built_for(request.target):
        for kind, cell, inputs in cells(request.net):
            Path(request.folder, f"{kind}.ir").write_text(saved_graph(cell, inputs))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as texts:
        os.environ["MS_DEV_SAVE_GRAPHS_PATH"] = texts
        main(sys.argv[1])
    leave(0)
