"""Semantic FPN on one page: each map of the neck is convolved and doubled to the finest one's size, their sum gives every cell its class.

Shape shorthand: B images, (H, W) network input, (h, w) cells of the finest map, K classes.
Source: Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, section 3.2; with batch norm, as mmsegmentation `fpn_head.py`, but
without its dropout.
"""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy.typing as npt
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

from spnas_core.arch import Arch
from spnas_core.errors import UserError
from spnas_core.models import primitives as p
from spnas_core.models.blocks import Conv, Norm
from spnas_core.models.convolution import Convolve3x3
from spnas_core.models.detector import PyramidNet
from spnas_core.models.pixel_losses import CrossEntropy, Dice, Lovasz
from spnas_core.models.resize import BilinearResize
from spnas_core.settings.detector import Detector
from spnas_core.settings.segmentation import Ladder, SemanticFpnHead, ladders_of

LEAST_EPSILON_TRAINED = 1e-5  # of norms that are trained here, whatever that of a checkpoint's backbone


class ConvNormRelu(nn.Cell):
    """3x3 convolution, batch norm (always trained) and ReLU."""

    def __init__(self, inputs: int, outputs: int, epsilon: float) -> None:
        super().__init__()
        self.conv, self.bn = Conv(inputs, outputs, 3), Norm(outputs, epsilon, False)
        self.convolve = Convolve3x3(inputs, outputs)

    def construct(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        return p.relu(self.bn(self.convolve(x, p.cast(self.conv.weight, x.dtype))))


class SemanticHead(nn.Cell):
    """Maps of the neck to scores (B, K, h, w) before softmax; `half`: its convolutions compute in float16."""

    def __init__(self, inputs: int, channels: int, ladders: Sequence[Ladder], classes: int, epsilon: float, half: bool) -> None:
        super().__init__()
        self.read = tuple(ladder.output for ladder in ladders)
        self.levels = nn.CellList(
            [
                nn.CellList([ConvNormRelu(channels if step else inputs, channels, epsilon) for step in range(len(ladder.sizes))])
                for ladder in ladders
            ]
        )
        self.resizes = nn.CellList(
            [
                nn.CellList([BilinearResize(*pair) for pair in zip(ladder.sizes, (*ladder.sizes[1:], ladder.target), strict=True)])
                for ladder in ladders
            ]
        )
        self.classes = nn.Conv2d(channels, classes, 1, has_bias=True, weight_init=Normal(0.01))
        self.counts = tuple(len(ladder.sizes) for ladder in ladders)
        if half:
            self.levels.to_float(ms.float16)

    def construct(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Scores of the neck's maps (B, C, H_l, W_l)."""
        total: Tensor | None = None
        for level in range(len(self.read)):
            x = maps[self.read[level]]
            for step in range(self.counts[level]):
                x = p.cast(self.levels[level][step](x), ms.float32)
                x = self.resizes[level][step](x)
            total = x if total is None else total + x
        return self.classes(total)


class SemanticFPN(PyramidNet):
    """The net of one architecture for `classes` classes, the background among them if it is one of the data."""

    def __init__(self, arch: Arch, settings: Detector, head: SemanticFpnHead, classes: int, half: bool = False) -> None:
        super().__init__(arch, settings, half)
        if head.class_weights and len(head.class_weights) != classes:
            raise UserError(
                f"detector.head.class_weights: expected {classes} weights, one for each class of the data, got {len(head.class_weights)}"
            )
        ladders = ladders_of(settings.neck.outputs(arch, settings.image_size))
        epsilon = max(settings.norm_epsilon, LEAST_EPSILON_TRAINED)
        self.head = SemanticHead(settings.neck.channels, head.channels, ladders, classes, epsilon, half)
        self.enlarge = BilinearResize(ladders[0].target, settings.image_size)
        self.log_softmax = ops.LogSoftmax(1)
        self.cross_entropy = CrossEntropy(head.class_weights, classes)
        kinds: dict[str, type[Dice | Lovasz]] = {"dice": Dice, "lovasz": Lovasz}
        self.overlap = kinds[head.auxiliary](classes) if head.auxiliary else None
        self.overlap_weight = head.auxiliary_weight

    def construct(self, images: Tensor, image_hw: Tensor) -> tuple[Tensor, ...]:
        """Scores (B, K, h, w) of images (B, 3, H, W), before softmax; their valid sizes (B, 2) count for nothing."""
        return (self.head(self.features(images)),)

    def losses(self, images: Tensor, masks: Tensor) -> Tensor:
        """Losses (L,) of images (B, 3, H, W) with masks (B, H, W): the cross entropy and, if there is one, the loss of overlap."""
        logs = self.log_softmax(self.enlarge(self.head(self.features(images))))
        cross_entropy = p.reshape(self.cross_entropy(logs, masks), (1,))
        if self.overlap is None:
            return cross_entropy
        return ops.Concat(0)((cross_entropy, p.reshape(self.overlap_weight * self.overlap(logs, masks), (1,))))

    def inputs(self, batch: Any, seed: int, step: int) -> tuple[npt.NDArray[Any], ...]:
        """Images and masks; nothing is drawn."""
        return (batch.images, batch.masks)
