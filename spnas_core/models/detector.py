"""Base of all detectors: a backbone, a neck, and the interface that jobs use for training and detection.

Shape shorthand: B images, C channels, H_l and W_l rows and columns of level l, M padded ground-truth boxes, D detections.
"""

from abc import abstractmethod
from typing import Any

import mindspore as ms
import numpy.typing as npt
from mindspore import Tensor, nn

from spnas_core import arch as architecture
from spnas_core.arch import Arch
from spnas_core.data.loader import BY_OPERATORS, Batch
from spnas_core.models import primitives as p
from spnas_core.models.backbone import Backbone
from spnas_core.models.fpn import Pyramid
from spnas_core.models.nas_fcos import FusionPyramid
from spnas_core.models.nas_fpn import MergingPyramid
from spnas_core.models.target import graph_target
from spnas_core.necks.nas_fcos import NasFcos
from spnas_core.necks.nas_fpn import NasFpn
from spnas_core.settings.detector import Detector


def build_neck(arch: Arch, settings: Detector) -> nn.Cell:
    """Cell of the neck of `settings` on the backbone `arch`."""
    neck = settings.neck
    if isinstance(neck, NasFpn):
        return MergingPyramid(arch, neck, settings.base_width)
    if isinstance(neck, NasFcos):
        return FusionPyramid(arch, neck, settings.base_width, settings.image_size)
    extra = neck.extra_inputs(arch, settings.base_width)
    return Pyramid(architecture.levels(arch, settings.base_width), neck.channels, neck.reads(arch), extra, neck.extra_levels)


class PyramidNet(nn.Cell):
    """Backbone and neck; `half`: they compute in float16. The heads are those of a subclass.

    `by_operators` batches of inference are still to be computed operator by operator, see `infer`.
    """

    def __init__(self, arch: Arch, settings: Detector, half: bool) -> None:
        super().__init__()
        self.by_operators = BY_OPERATORS if graph_target() == "CPU" and not half else 0  # in float16 the graph rounds elsewhere
        frozen = settings.norm == "frozen"
        self.backbone = Backbone(arch, settings.base_width, settings.stem, settings.norm_epsilon, frozen, settings.share_weights)
        self.neck = build_neck(arch, settings)
        self.loss_names = settings.head.loss_names
        if half:
            self.backbone.to_float(ms.float16)
            self.neck.to_float(ms.float16)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, 3, H, W) to the neck's maps (B, C, H_l, W_l), in float32."""
        maps: tuple[Tensor, ...] = ()
        for one in self.neck(self.backbone(images)):
            maps = (*maps, p.cast(one, ms.float32))
        return maps

    def infer(self, *inputs: Tensor) -> tuple[npt.NDArray[Any], ...]:
        """Run `construct` and return arrays; on the CPU without a graph, operator by operator, for the first `BY_OPERATORS` batches.

        The numbers are the same bit for bit. A graph saves some 50 ms a batch and takes 1 to 5 s to compile.
        """
        if not self.by_operators:
            return tuple(output.asnumpy() for output in self(*inputs))
        self.by_operators -= 1
        mode = ms.get_context("mode")
        ms.runtime.launch_blocking()  # as in jobs/cpu.py, for commands without a job
        ms.set_context(mode=ms.PYNATIVE_MODE)
        try:
            return tuple(output.asnumpy() for output in self(*inputs))
        finally:
            ms.set_context(mode=mode)

    @abstractmethod
    def construct(self, images: Tensor, image_hw: Tensor) -> tuple[Tensor, ...]:
        """Run inference on images (B, 3, H, W) of valid size (B, 2)."""

    @abstractmethod
    def losses(self, *batch: Tensor) -> Tensor:
        """Losses (L,) of one batch, in the order of `loss_names`; their sum is minimised. `batch` is the output of `inputs`."""

    @abstractmethod
    def inputs(self, batch: Any, seed: int, step: int) -> tuple[npt.NDArray[Any], ...]:
        """Arrays that `losses` takes in training step `step`, a pure function of (batch, seed, step); of a rank, for its share."""


class DetectorNet(PyramidNet):
    """A net that finds objects."""

    @abstractmethod
    def construct(self, images: Tensor, image_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect in images (B, 3, H, W) of valid size (B, 2): boxes (B, D, 4), scores (B, D; 0 = none), labels (B, D).

        With soft-NMS in the settings, the outputs are more than D: the candidates for soft-NMS (`soft_nms.py`).
        """

    @abstractmethod
    def inputs(self, batch: Batch, seed: int, step: int) -> tuple[npt.NDArray[Any], ...]:
        """Arrays that `losses` takes in training step `step`, a pure function of (batch, seed, step); of a rank, for its share."""
