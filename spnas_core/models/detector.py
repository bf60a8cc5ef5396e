"""Faster R-CNN on one page: backbone, pyramid, proposals, box head; its losses and its detections.

Shape shorthand: B images, M padded ground-truth boxes, A anchors, P proposals, D detections.
Source: torchvision `models/detection/faster_rcnn.py`.
"""

import mindspore as ms
import numpy as np
import numpy.typing as npt
from mindspore import Tensor, nn

from spnas_core import arch as architecture
from spnas_core.arch import Arch
from spnas_core.models import primitives as p
from spnas_core.models.anchors import anchor_grid
from spnas_core.models.backbone import Backbone
from spnas_core.models.cascade import CascadeHead
from spnas_core.models.neck import Pyramid
from spnas_core.models.roi import BoxHead
from spnas_core.models.rpn import RegionProposal
from spnas_core.settings.detector import Detector


class FasterRCNN(nn.Cell):
    """The detector of one architecture for `classes` classes (background not counted); `half`: backbone and neck compute in float16."""

    def __init__(self, arch: Arch, settings: Detector, classes: int, half: bool = False) -> None:
        super().__init__()
        levels = architecture.levels(arch, settings.base_width)
        grid = anchor_grid(arch, settings)
        frozen = settings.norm == "frozen"
        self.backbone = Backbone(arch, settings.base_width, settings.stem, settings.norm_epsilon, frozen, settings.share_weights)
        self.neck = Pyramid(levels, settings.fpn_channels, architecture.tapped(arch, settings.taps))
        self.rpn = RegionProposal(settings, grid)
        self.head = (CascadeHead if settings.cascade else BoxHead)(settings, classes, grid.sizes[:-1], grid.strides[:-1], grid.sides[:-1])
        if half:
            self.backbone.to_float(ms.float16)
            self.neck.to_float(ms.float16)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Pyramid (B, C, H_l, W_l) of images (B, 3, H, W), in float32."""
        maps: tuple[Tensor, ...] = ()
        for one in self.neck(self.backbone(images)):
            maps = (*maps, p.cast(one, ms.float32))
        return maps

    def construct(self, images: Tensor, image_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect in images (B, 3, H, W) of valid size (B, 2): boxes (B, D, 4), scores (B, D; 0 = none), labels (B, D).

        With soft-NMS in the settings, they are more than D: the candidates that are still to go through it (`soft_nms.py`).
        """
        maps = self.features(images)
        scores, deltas = self.rpn(maps)
        proposals, valid = self.rpn.propose(scores, deltas, image_hw)
        return self.head.detect(maps, proposals, valid, image_hw)

    def losses(self, images: Tensor, image_hw: Tensor, truth: Tensor, labels: Tensor, anchor_noise: Tensor, region_noise: Tensor) -> Tensor:
        """Class, box, objectness and proposal-box loss (4,) of one batch.

        Ground truth is (B, M, 4) with labels (B, M), 0 = padding; noise in (0, 1), (B, A) and (B, P + M), draws anchors and regions.
        """
        maps = self.features(images)
        scores, deltas = self.rpn(maps)
        objectness, rpn_box = self.rpn.losses(scores, deltas, truth, labels > 0, anchor_noise)
        proposals, valid = self.rpn.propose(scores, deltas, image_hw)
        classifier, box = self.head.losses(maps, proposals, valid, truth, labels, region_noise, image_hw)
        return p.stack_last((classifier, box, objectness, rpn_box))

    def noise_sizes(self) -> tuple[int, int]:
        """Anchors A, and proposals P in training."""
        limit, counts = self.rpn.propose.limits[1], self.rpn.counts
        return sum(counts), min(limit, sum(min(limit, count) for count in counts))


def draw_noise(
    net: FasterRCNN, batch: int, max_boxes: int, seed: int, step: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Noise of one step, (batch, A) and (batch, P + max_boxes), a pure function of (seed, step)."""
    rng = np.random.default_rng((seed, step))
    anchors, proposals = net.noise_sizes()
    shapes = ((batch, anchors), (batch, proposals + max_boxes))
    first, second = (rng.random(shape, dtype=np.float32) * (1 - 2e-6) + 1e-6 for shape in shapes)
    return first, second
