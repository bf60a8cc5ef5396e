"""Cascade R-CNN box head: three stages, each trained on the boxes of the stage before at a higher IoU.

Shape shorthand: B images, R regions per image, P proposals, M padded ground-truth boxes, D detections, K classes.
Sources: Cai & Vasconcelos, CVPR 2018; the published configurations (mmdetection `cascade_rcnn_r50_fpn`, detectron2 `CascadeROIHeads`):
one box for all classes, and the box coder, IoU and loss weight of each stage. As in detectron2, the regions are drawn once and then only
relabelled, and the class probabilities, not the scores before softmax, are averaged over the stages.
"""

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from spnas_core.cost import CASCADE_STAGES
from spnas_core.models import boxes as box_ops
from spnas_core.models import primitives as p
from spnas_core.models.pooling import RegionPooling
from spnas_core.models.roi import BOX_CODER, MIN_SIZE, BoxPredictor, RegionLosses, RegionSample, Selection
from spnas_core.settings.detector import Detector, two_stage

IOUS = (0.5, 0.6, 0.7)  # least IoU of a positive region; the first is that of `RegionSample`
CODERS = (BOX_CODER, (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
LOSS_WEIGHTS = (1.0, 0.5, 0.25)


class CascadeHead(nn.Cell):
    """Three box heads after each other: the losses and the final detections."""

    def __init__(
        self, settings: Detector, classes: int, sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], sides: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.classes = classes
        self.stages = nn.CellList([BoxPredictor(settings, classes, 1) for _ in range(CASCADE_STAGES)])
        self.pooling = RegionPooling(sizes, strides, sides)
        self.sample = RegionSample(two_stage(settings).roi_batch)
        self.improve = nn.CellList([ImprovedRegions(stage) for stage in range(CASCADE_STAGES - 1)])
        self.region_losses = RegionLosses(classes)
        self.select = Selection(settings, classes)

    def construct(self, maps: tuple[Tensor, ...], regions: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """Give the class scores (B, R, K+1) before softmax and the deltas (B, R, 4) of one stage."""
        predicted: tuple[Tensor, Tensor] = self.stages[stage].predict(self.pooling(maps, regions), regions.shape[0])
        return predicted

    def losses(
        self, maps: tuple[Tensor, ...], proposals: Tensor, valid: Tensor, truth: Tensor, labels: Tensor, noise: Tensor, image_hw: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class and box loss, weighted sums over the stages."""
        regions, label, target, weight = self.sample(proposals, valid, truth, labels, noise)
        classifier, box = Tensor(0.0, ms.float32), Tensor(0.0, ms.float32)
        for stage in range(CASCADE_STAGES):
            score, delta = self.construct(maps, regions, stage)
            own = self.region_losses(score, delta, label, target, weight)
            classifier, box = classifier + LOSS_WEIGHTS[stage] * own[0], box + LOSS_WEIGHTS[stage] * own[1]
            if stage < CASCADE_STAGES - 1:
                regions, label, target, weight = self.improve[stage](regions, delta, weight, truth, labels, image_hw)
        return classifier, box

    def detect(self, maps: tuple[Tensor, ...], proposals: Tensor, valid: Tensor, image_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find boxes (B, D, 4), scores (B, D; 0 = none) and labels (B, D): the last stage's boxes, the mean of all stages' shares."""
        batch, count = proposals.shape[0], proposals.shape[1]
        found, share = proposals, Tensor(0.0, ms.float32)
        for stage in range(CASCADE_STAGES):
            score, delta = self.construct(maps, found, stage)
            share = share + p.softmax(score) * (1 / CASCADE_STAGES)
            found = box_ops.clip(box_ops.decode(delta, found, CODERS[stage]), image_hw)
        for_each = ops.BroadcastTo((batch, count, self.classes, 4))(p.expand_dims(found, 2))
        detections: tuple[Tensor, Tensor, Tensor] = self.select(p.reshape(for_each, (batch, -1, 4)), share, valid)
        return detections


class ImprovedRegions(nn.Cell):
    """The regions of the next stage: the boxes of stage `stage`, labelled at the next one's IoU."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.before, self.coder, self.iou = CODERS[stage], CODERS[stage + 1], IOUS[stage + 1]
        self.largest = ops.ArgMaxWithValue(2)

    def construct(
        self, regions: Tensor, delta: Tensor, weight: Tensor, truth: Tensor, labels: Tensor, image_hw: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move regions (B, R, 4) by deltas (B, R, 4); returns what `RegionSample` does. Those that become empty lose their weight."""
        regions = box_ops.clip(box_ops.decode(delta, regions, self.before), image_hw)
        weight = weight * p.cast(box_ops.large(regions, MIN_SIZE), ms.float32)
        present = p.expand_dims(p.cast(labels > 0, ms.float32), 1)
        nearest, best = self.largest(box_ops.iou(regions, truth) * present)
        positive = p.both(best >= self.iou, weight > 0)
        target = box_ops.encode(box_ops.take(truth, nearest), regions, self.coder)
        return regions, p.gather_elements(labels, 1, nearest) * p.cast(positive, ms.int32), target, weight

    def bprop(
        self, regions: Tensor, delta: Tensor, weight: Tensor, truth: Tensor, labels: Tensor, image_hw: Tensor, out: Any, dout: Any
    ) -> Any:
        """Count the outputs as constants: a stage does not learn through the next one's regions."""
        return p.constant(regions, delta, weight, truth, labels, image_hw)
