"""Box head: its training regions, its losses and its detections.

Shape shorthand: B images, R regions per image, P proposals, M padded ground-truth boxes, D detections, K classes.
Source: torchvision `models/detection/roi_heads.py`, number for number, but that only the best `CANDIDATES` boxes per detection enter the
last NMS. NMS goes from the best box down, so the detections are torchvision's unless fewer than D of these survive; then they may lack the
rest, the lowest scores.
"""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Normal

from spnas_core.cost import POOLED
from spnas_core.models import boxes as box_ops
from spnas_core.models import primitives as p
from spnas_core.models.pooling import RegionPooling
from spnas_core.models.ranks import RankSum
from spnas_core.models.suppression import suppression
from spnas_core.settings.detector import Detector, two_stage

BOX_CODER = (10.0, 10.0, 5.0, 5.0)
FOREGROUND, POSITIVE_SHARE, MIN_SIZE = 0.5, 0.25, 1e-2
CANDIDATES = 20  # boxes that enter the last NMS, per detection kept; torchvision lets all above the threshold in


class BoxPredictor(nn.Cell):
    """Two hidden layers, class scores and `boxes` boxes: one per class, or one for all."""

    def __init__(self, settings: Detector, classes: int, boxes: int) -> None:
        super().__init__()
        hidden = two_stage(settings).head_channels
        self.fc1 = nn.Dense(settings.neck.channels * POOLED * POOLED, hidden, weight_init=HeUniform(5**0.5))
        self.fc2 = nn.Dense(hidden, hidden, weight_init=HeUniform(5**0.5))
        self.score = nn.Dense(hidden, classes + 1, weight_init=Normal(0.01))
        self.delta = nn.Dense(hidden, 4 * boxes, weight_init=Normal(0.001))

    def predict(self, pooled: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Give class scores (B, R, K+1) before softmax and deltas (B, R, 4 * boxes) of pooled features (B * R, C * S * S)."""
        shape = (batch, pooled.shape[0] // batch, -1)
        x = p.relu(self.fc1(pooled))
        x = p.relu(self.fc2(x))
        return p.reshape(self.score(x), shape), p.reshape(self.delta(x), shape)


class BoxHead(BoxPredictor):
    """One stage, one box per class: the losses and the final detections."""

    def __init__(
        self, settings: Detector, classes: int, sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], sides: tuple[float, ...]
    ) -> None:
        super().__init__(settings, classes, classes + 1)
        self.classes = classes
        self.pooling = RegionPooling(sizes, strides, sides)
        self.sample = RegionSample(two_stage(settings).roi_batch)
        self.region_losses = RegionLosses(classes)
        self.select = Selection(settings, classes)

    def construct(self, maps: tuple[Tensor, ...], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Give the class scores (B, R, K+1) before softmax and the deltas (B, R, K+1, 4)."""
        batch = regions.shape[0]
        score, delta = self.predict(self.pooling(maps, regions), batch)
        return score, p.reshape(delta, (batch, -1, self.classes + 1, 4))

    def losses(
        self, maps: tuple[Tensor, ...], proposals: Tensor, valid: Tensor, truth: Tensor, labels: Tensor, noise: Tensor, image_hw: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class and box loss of the regions that `RegionSample` draws."""
        regions, label, target, weight = self.sample(proposals, valid, truth, labels, noise)
        score, delta = self.construct(maps, regions)
        own = p.total(delta * p.expand_dims(self.region_losses.one_hot(label), -1), 2)
        losses: tuple[Tensor, Tensor] = self.region_losses(score, own, label, target, weight)
        return losses

    def detect(self, maps: tuple[Tensor, ...], proposals: Tensor, valid: Tensor, image_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find boxes (B, D, 4), scores (B, D; 0 = none) and labels (B, D)."""
        score, delta = self.construct(maps, proposals)
        batch, count = proposals.shape[0], proposals.shape[1]
        delta = p.slice_strided(delta, (0, 0, 1, 0), (batch, count, self.classes + 1, 4), (1, 1, 1, 1))
        found = box_ops.decode(delta, ops.BroadcastTo(delta.shape)(p.expand_dims(proposals, 2)), BOX_CODER)
        found = box_ops.clip(p.reshape(found, (batch, -1, 4)), image_hw)
        detections: tuple[Tensor, Tensor, Tensor] = self.select(found, p.softmax(score), valid)
        return detections


class RegionLosses(nn.Cell):
    """Class and box loss of regions, divided by their number, that of all ranks."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.numbers = Tensor(np.arange(classes + 1, dtype=np.int32))
        self.cross_entropy = ops.SoftmaxCrossEntropyWithLogits()
        self.over_ranks = RankSum()

    def one_hot(self, labels: Tensor) -> Tensor:
        """Labels (B, R) as (B, R, K+1)."""
        return p.cast(p.expand_dims(labels, -1) == self.numbers, ms.float32)

    def construct(self, score: Tensor, delta: Tensor, labels: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of scores (B, R, K+1) before softmax and deltas (B, R, 4) against what `RegionSample` gives."""
        shape = (-1, self.numbers.shape[0])
        cross_entropy, _ = self.cross_entropy(p.reshape(score, shape), p.reshape(self.one_hot(labels), shape))
        distance = p.total(p.smooth_l1(delta, target), -1)
        total = p.maximum(self.over_ranks(p.total(weight)), 1.0)
        foreground = weight * p.cast(labels > 0, ms.float32)
        return p.total(cross_entropy * p.reshape(weight, (-1,))) / total, p.total(distance * foreground) / total


class Selection(nn.Cell):
    """The detections: NMS within each class, then the best of all; for soft-NMS, which runs later, its candidates."""

    def __init__(self, settings: Detector, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.detections = settings.detections
        self.threshold = settings.score_threshold
        self.extent = float(max(settings.image_size))
        self.soft = settings.soft_nms is not None
        self.nms = suppression(settings.box_nms)

    def construct(self, found: Tensor, share: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Select from clipped boxes (B, P * K, 4), shares (B, P, K+1) of the classes and the background, and validity (B, P).

        Gives boxes (B, D, 4), scores (B, D; 0 = none) and labels (B, D); for soft-NMS as many as may enter it.
        """
        batch, count = share.shape[:2]
        score = p.slice_strided(share, (0, 0, 1), (batch, count, self.classes + 1), (1, 1, 1))
        score = score * p.expand_dims(p.cast(valid, ms.float32), -1)
        score = p.reshape(score, (batch, -1)) * p.cast(box_ops.large(found, MIN_SIZE), ms.float32)
        best, order = p.topk(score, min(CANDIDATES * self.detections, count * self.classes))
        return self.finish(box_ops.take(found, order), best, order % self.classes)

    def finish(self, found: Tensor, best: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Select from candidates, the best first: clipped boxes (B, N, 4), scores (B, N), and classes (B, N) from 0 on."""
        keep = best > self.threshold
        if not self.soft:
            kept = self.nms(box_ops.set_apart(found, p.cast(label, ms.float32), self.extent))
            best, order = p.topk(best * p.cast(p.both(kept, keep), ms.float32), min(self.detections, best.shape[1]))
            found, label = box_ops.take(found, order), p.gather_elements(label, 1, order)
        else:
            best = best * p.cast(keep, ms.float32)
        return found, best, (label + 1) * p.cast(best > 0, ms.int32)


class RegionSample(nn.Cell):
    """Draw the regions that the box head learns from; the ground truth joins the proposals, as in torchvision."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.largest = ops.ArgMaxWithValue(2)

    def construct(
        self, proposals: Tensor, valid: Tensor, truth: Tensor, labels: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw R training regions: regions (B, R, 4), their labels (B, R), encoded boxes (B, R, 4), weight (B, R) 0 or 1.

        The noise is (B, P + M) in (0, 1).
        """
        present = labels > 0
        pool = ops.Concat(1)((proposals, truth))
        usable = ops.Concat(1)((valid, present))
        nearest, best = self.largest(box_ops.iou(pool, truth) * p.expand_dims(p.cast(present, ms.float32), 1))
        positive = p.both(usable, best >= FOREGROUND)
        negative = p.both(usable, best < FOREGROUND)
        positive = box_ops.draw(positive, noise, int(self.batch * POSITIVE_SHARE))
        negative = box_ops.draw_rest(negative, noise, positive, self.batch)
        keys = p.cast(positive, ms.float32) * 2 + p.cast(negative, ms.float32)
        keys, order = p.topk(keys, min(self.batch, noise.shape[1]))
        nearest = p.gather_elements(nearest, 1, order)
        regions = box_ops.take(pool, order)
        target = box_ops.encode(box_ops.take(truth, nearest), regions, BOX_CODER)
        return regions, p.gather_elements(labels, 1, nearest) * p.cast(keys > 1.5, ms.int32), target, p.cast(keys > 0.5, ms.float32)

    def bprop(self, proposals: Tensor, valid: Tensor, truth: Tensor, labels: Tensor, noise: Tensor, out: Any, dout: Any) -> Any:
        """Count the outputs as constants."""
        return p.constant(proposals, valid, truth, labels, noise)
