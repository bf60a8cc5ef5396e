"""FCOS: scores, boxes and centerness of the points of all levels, their losses and the detections.

Shape shorthand: B images, C channels, K classes, N points of a level or of all, D detections.
Sources: Tian et al., "FCOS: A Simple and Strong Anchor-free Object Detector", TPAMI 2020; torchvision `models/detection/fcos.py`, number
for number.
"""

from typing import Any

import mindspore as ms
import numpy.typing as npt
from mindspore import Tensor

from spnas_core.arch import Arch
from spnas_core.data.loader import Batch
from spnas_core.models import boxes as box_ops
from spnas_core.models import primitives as p
from spnas_core.models.anchors import Grid, anchor_grid
from spnas_core.models.dense_head import DenseHead
from spnas_core.models.dense_losses import FocalLoss, giou_loss
from spnas_core.models.dense_targets import point_targets
from spnas_core.models.detector import DetectorNet
from spnas_core.models.ranks import RankSum
from spnas_core.models.towers import prediction
from spnas_core.settings.detector import Detector
from spnas_core.settings.one_stage import FcosHead


def boxes_around(points: Tensor, distance: Tensor) -> Tensor:
    """Boxes (..., 4) whose left, upper, right and lower side have these distances (..., 4) from the centres of squares `points` (..., 4).

    Distances are in sides of the squares.
    """
    x1, y1, x2, y2 = box_ops.split(points)
    left, top, right, bottom = box_ops.split(distance)
    x, y, side = (x1 + x2) * 0.5, (y1 + y2) * 0.5, x2 - x1
    return p.stack_last((x - left * side, y - top * side, x + right * side, y + bottom * side))


class FcosPointHead(DenseHead):
    """Scores, distances and centerness of points."""

    def __init__(self, settings: Detector, classes: int, grid: Grid) -> None:
        super().__init__(settings, classes, grid)
        head = settings.head
        assert isinstance(head, FcosHead)
        self.distance = prediction(settings.neck.channels, 4, head.first_distance)
        self.centrality = prediction(settings.neck.channels, 1)
        self.focal = FocalLoss(head.focal_alpha, head.focal_gamma)
        self.points = Tensor(self.places[None])
        self.over_ranks = RankSum()

    def construct(self, x: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, 1, K, N) before the sigmoid, distances (B, 1, 4, N) and centerness (B, 1, 1, N) before the sigmoid, of one level."""
        score, features = self.score(self.class_tower(x, number)), self.box_tower(x, number)
        distance = p.relu(self.distance(features))
        return self.split(score, self.classes), self.split(distance, 4), self.split(self.centrality(features), 1)

    def level(self, number: int, outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Best of a level, see `DenseHead`; a score is the geometric mean of the class's probability and the centerness."""
        score, distance, centrality = outputs
        best = self.best[number]
        middle = p.sigmoid(p.reshape(centrality, (score.shape[0], -1)))
        box = best.of_boxes(p.sigmoid(p.reshape(p.largest(score, 2), middle.shape)) * middle)
        joint = p.sqrt(p.sigmoid(best.scores(score, box)) * p.expand_dims(p.gather_elements(middle, 1, box), -1))
        found, label, points, sides = best.of_pairs(joint, box, distance)
        return found, label, boxes_around(points, sides)

    def losses(self, maps: tuple[Tensor, ...], label: Tensor, target: Tensor, centrality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class, box and centerness loss of the points; label and centrality (B, N), target (B, N, 4), see `PointTargets`.

        They are divided by the number of points with an object, of all images of all ranks.
        """
        score, distance, middle = self.of_all_levels(maps)
        objects = p.cast(label > 0, ms.float32)
        count = p.maximum(self.over_ranks(p.total(objects)), 1.0)
        each = p.expand_dims(label, 1)
        classification = self.focal(score, each, p.ones_like(p.cast(each, ms.float32)))
        distance = p.transpose(p.reshape(distance, (label.shape[0], 4, -1)), (0, 2, 1))
        box = p.total(giou_loss(boxes_around(self.points, distance), target) * objects)
        middle = p.reshape(middle, label.shape)
        centred = p.total(p.binary_cross_entropy(middle, centrality, objects, p.ones_like(middle)))
        return classification / count, box / count, centred / count


class FCOS(DetectorNet):
    """The detector of one architecture for `classes` classes (background not counted)."""

    def __init__(self, arch: Arch, settings: Detector, classes: int, half: bool = False) -> None:
        super().__init__(arch, settings, half)
        grid = anchor_grid(arch, settings)
        cells = [height * width for height, width in grid.sizes]
        self.ends = cells[0], cells[-1]
        assert isinstance(settings.head, FcosHead)
        self.radius = settings.head.centre_radius
        self.fcos = FcosPointHead(settings, classes, grid)

    def construct(self, images: Tensor, image_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect, see `DetectorNet`."""
        return self.fcos.detect(self.features(images), image_hw)

    def losses(self, images: Tensor, label: Tensor, target: Tensor, centrality: Tensor) -> Tensor:
        """Class, box and centerness loss (3,) of one batch, from what `inputs` gives."""
        return p.stack_last(self.fcos.losses(self.features(images), label, target, centrality))

    def inputs(self, batch: Batch, seed: int, step: int) -> tuple[npt.NDArray[Any], ...]:
        """Images, and what their points learn. Nothing is drawn."""
        return (batch.images, *point_targets(self.fcos.places, self.ends, batch.boxes, batch.labels, self.radius))
