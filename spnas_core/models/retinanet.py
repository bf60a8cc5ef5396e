"""RetinaNet: scores and boxes of the anchors of all levels, their losses and the detections.

Shape shorthand: B images, C channels, S anchors per place, K classes, N places of all levels, A = S * N anchors, D detections.
Sources: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017; torchvision `models/detection/retinanet.py`, number for number.
"""

from typing import Any

import mindspore as ms
import numpy.typing as npt
from mindspore import Tensor, ops

from spnas_core.arch import Arch
from spnas_core.data.loader import Batch
from spnas_core.models import boxes as box_ops
from spnas_core.models import primitives as p
from spnas_core.models.anchors import Grid, anchor_grid
from spnas_core.models.dense_head import DenseHead
from spnas_core.models.dense_losses import FocalLoss, giou_loss
from spnas_core.models.dense_targets import anchor_targets
from spnas_core.models.detector import DetectorNet
from spnas_core.models.ranks import rank
from spnas_core.models.towers import prediction
from spnas_core.settings.detector import Detector
from spnas_core.settings.one_stage import RetinaNetHead

CODER = (1.0, 1.0, 1.0, 1.0)


class RetinaHead(DenseHead):
    """Scores and deltas of anchors."""

    def __init__(self, settings: Detector, classes: int, grid: Grid) -> None:
        super().__init__(settings, classes, grid)
        head = settings.head
        assert isinstance(head, RetinaNetHead)
        self.delta = prediction(settings.neck.channels, 4 * head.shapes)
        self.focal = FocalLoss(head.focal_alpha, head.focal_gamma)
        self.giou = head.box_loss == "giou"
        self.anchors = Tensor(self.places.reshape(1, self.shapes, -1, 4))

    def construct(self, x: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Scores (B, S, K, N) before the sigmoid and deltas (B, S, 4, N) for one level's map (B, C, H, W)."""
        score, delta = self.score(self.class_tower(x, number)), self.delta(self.box_tower(x, number))
        return self.split(score, self.classes), self.split(delta, 4)

    def level(self, number: int, outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Best of a level, see `DenseHead`."""
        score, delta = outputs
        best = self.best[number]
        box = best.of_boxes(p.reshape(p.largest(score, 2), (score.shape[0], -1)))
        found, label, anchors, moved = best.of_pairs(best.scores(score, box), box, delta)
        return p.sigmoid(found), label, box_ops.decode(moved, anchors, CODER)

    def losses(self, maps: tuple[Tensor, ...], label: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Class and box loss of the anchors; label and weight (B, A), target (B, A, 4), see `AnchorTargets`."""
        score, delta = self.of_all_levels(maps)
        batch, shapes, _, places = score.shape
        shape = (batch, shapes, places)
        label, weight = p.reshape(label, shape), p.reshape(weight, shape)
        target = p.reshape(target, (*shape, 4))
        classification = self.focal(score, label, weight)
        delta = p.transpose(delta, (0, 1, 3, 2))
        if self.giou:
            distance = giou_loss(box_ops.decode(delta, ops.BroadcastTo(delta.shape)(self.anchors), CODER), target)
        else:
            distance = p.total(p.absolute(delta - target), 3)
        return classification, p.total(distance * weight * p.cast(label > 0, ms.float32))


class RetinaNet(DetectorNet):
    """The detector of one architecture for `classes` classes (background not counted)."""

    def __init__(self, arch: Arch, settings: Detector, classes: int, half: bool = False) -> None:
        super().__init__(arch, settings, half)
        assert isinstance(settings.head, RetinaNetHead)
        self.head_settings = settings.head
        self.retinanet = RetinaHead(settings, classes, anchor_grid(arch, settings))

    def construct(self, images: Tensor, image_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect, see `DetectorNet`."""
        return self.retinanet.detect(self.features(images), image_hw)

    def losses(self, images: Tensor, label: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        """Class and box loss (2,) of one batch, from what `inputs` gives."""
        return p.stack_last(self.retinanet.losses(self.features(images), label, weight, target))

    def inputs(self, batch: Batch, seed: int, step: int) -> tuple[npt.NDArray[Any], ...]:
        """Images, and what their anchors learn; each image counts as much as any other of the batch, of all ranks. Nothing is drawn."""
        found = anchor_targets(self.retinanet.places, batch.boxes, batch.labels, self.head_settings)
        return batch.images, found.label, found.weight / (rank().of * len(batch.images)), found.target
