"""Scores of paths of a supernet: each after its norms got their statistics anew, all with one net and its two graphs.

As in DetNAS (test_server.py of its release), a path's statistics are reset and computed again on training batches, without a gradient;
there by the norm's moving average, here as the plain mean over the batches. Without the reset the paths would inherit each other's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
from mindspore import Tensor, nn
from safetensors.numpy import load_file

from spnas_core import arch as architecture
from spnas_core.arch import Arch
from spnas_core.data import loader
from spnas_core.data.pipeline import ImageCache
from spnas_core.data.samples import Split
from spnas_core.errors import JobError
from spnas_core.job import PathsJob
from spnas_core.jobs.detection import WORK
from spnas_core.jobs.progress import JobContext
from spnas_core.jobs.supernet import open_supernet
from spnas_core.jobs.timing import Stopwatch
from spnas_core.models import primitives as p
from spnas_core.models.step import set_weights
from spnas_core.models.supernet import SuperBackbone, SuperNet
from spnas_core.names import WEIGHTS_FILE
from spnas_core.search.family import Family, family_of
from spnas_core.search.paths import switches
from spnas_core.store.artifacts import Store
from spnas_core.weights.paths import path_parts
from spnas_core.weights.tensor_names import STATISTICS


class StatisticsPass(nn.Cell):
    """Pass of a batch through a supernet's backbone in training, by which its norms keep the batch's statistics."""

    def __init__(self, backbone: SuperBackbone) -> None:
        super().__init__(auto_prefix=False)
        self.backbone = backbone

    def construct(self, images: Tensor, gates: Tensor, masks: Tensor) -> Tensor:
        """Sum of all outputs for images (B, 3, H, W), so that no norm is left out."""
        total = p.total(gates)
        for output in self.backbone(images, gates, masks):
            total = total + p.total(output)
        return total


@dataclass(frozen=True)
class OnePath:
    """A supernet as the net of one of its paths: what `detection.detect` asks of a net."""

    net: SuperNet
    choice: tuple[Tensor, Tensor]

    def set_train(self, mode: bool) -> "OnePath":
        """Set the supernet's mode."""
        self.net.set_train(mode)
        return self

    def infer(self, images: Tensor, image_hw: Tensor) -> Any:
        """Detect with the path."""
        return self.net.infer(images, image_hw, *self.choice)


def calibrate(step: StatisticsPass, parameters: Sequence[ms.Parameter], batches: Sequence[Tensor], choice: tuple[Tensor, Tensor]) -> None:
    """Give norms the mean statistics of batches (B, 3, H, W) of a path, which nothing before it changes; `parameters`: those to set."""
    step.set_train(True)
    sums: list[npt.NDArray[np.float64]] = [np.zeros(parameter.shape) for parameter in parameters]
    for images in batches:
        step(images, *choice).asnumpy()
        for total, parameter in zip(sums, parameters, strict=True):
            total += parameter.asnumpy()
    for total, parameter in zip(sums, parameters, strict=True):
        parameter.set_data(Tensor((total / len(batches)).astype(np.float32)))


def calibration_batches(job: PathsJob, split: Split, cache: ImageCache) -> list[Tensor]:
    """Images (B, 3, H, W) of the first training batches of the job's seed."""
    settings, recipe, found = job.detector, job.recipe, list[Tensor]()
    epoch = 0
    while len(found) < job.calibration:
        stream = loader.train_batches(split, settings.image_size, recipe, settings.max_boxes, job.seed, epoch, 0, cache)
        found += [Tensor(batch.images.copy()) for batch in islice(stream, job.calibration - len(found))]
        epoch += 1
    return found


def own_statistics(net: SuperNet, family: Family, arch: Arch, width: int) -> list[ms.Parameter]:
    """Statistics of the norms of a path."""
    parameters = {parameter.name: parameter for parameter in net.get_parameters()}
    parts = path_parts(parameters, family, arch, width)
    return [parameters[source] for source in dict.fromkeys(source for source, _ in parts.values()) if source.endswith(STATISTICS)]


def run(job: PathsJob, store: Store, context: JobContext) -> dict[str, Any]:
    """Run the job and return the scores of its paths, by their texts. It has no checkpoints; JobError ``killed`` when told to stop."""
    net, data = open_supernet(job, store)
    family, width = family_of(job.arch, job.family, job.blocks), job.detector.base_width
    (source,) = job.weights
    set_weights(net, load_file(store.fetch(source.kind, source.digest, WEIGHTS_FILE)))
    val, cache, watch = data.split(job.data.val), ImageCache(), Stopwatch()
    with watch.during("data"):
        batches = calibration_batches(job, data.split(job.data.train), cache)
    step = StatisticsPass(net.backbone)
    scores: dict[str, dict[str, float]] = {}
    context.report({"event": "compile"})
    for number, text in enumerate(job.members, start=1):
        arch = architecture.parse(text)
        gates, masks = switches(family, arch, width)
        choice = (Tensor(gates), Tensor(masks))
        with watch.during("steps" if scores else "compile"):
            calibrate(step, own_statistics(net, family, arch, width), batches, choice)
        with watch.during("evaluation" if scores else "compile"):
            outputs = WORK.outputs(OnePath(net, choice), val, job.detector, cache)
            stats = WORK.score(val, outputs, "hotcoco").stats
        scores[text] = {name: stats[name] for name in WORK.task.scores}
        context.report({"event": "step", "epoch": 1, "epochs": 1, "step": number, "steps": len(job.members), **scores[text]})
        if context.stop.is_set():
            raise JobError("killed", f"stopped from outside after path {number} of {len(job.members)}")
    return {"scores": scores, "timing": watch.seconds}
