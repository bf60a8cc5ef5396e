"""The box head: which regions it learns from, its losses and its detections.

Shape shorthand: B images, R regions per image, P proposals, M padded ground-truth boxes, D detections, K classes.
Source: torchvision `models/detection/roi_heads.py`, number for number.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Normal

from spnas_core.config import Detector
from spnas_core.models import boxes as box_ops
from spnas_core.models.pooling import BINS, Resample, pool_regions

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
FOREGROUND, POSITIVE_SHARE, MIN_SIZE = 0.5, 0.25, 1e-2
CANDIDATES = 20  # boxes that enter the last NMS, per detection kept; torchvision lets all above the threshold in


class BoxHead(nn.Cell):
    """Two hidden layers, class scores and one box per class; the losses and the final detections."""

    def __init__(self, settings: Detector, classes: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        hidden = settings.head_channels
        self.fc1 = nn.Dense(settings.fpn_channels * BINS * BINS, hidden, weight_init=HeUniform(5**0.5))
        self.fc2 = nn.Dense(hidden, hidden, weight_init=HeUniform(5**0.5))
        self.score = nn.Dense(hidden, classes + 1, weight_init=Normal(0.01))
        self.delta = nn.Dense(hidden, 4 * (classes + 1), weight_init=Normal(0.001))
        self.classes = classes
        self.strides = strides
        self.resample = Resample()
        self.canonical = 28.0 * settings.anchor_scale
        self.batch = settings.roi_batch
        self.detections = settings.detections
        self.threshold = settings.score_threshold
        self.extent = float(max(settings.image_size))
        self.nms = ops.NMSWithMask(settings.box_nms)

    def construct(self, maps: tuple[Tensor, ...], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Give the class scores (B, R, K+1) before softmax and the deltas (B, R, K+1, 4)."""
        batch, count = regions.shape[0], regions.shape[1]
        x = ops.relu(self.fc1(pool_regions(maps, self.strides, regions, self.canonical, self.resample)))
        x = ops.relu(self.fc2(x))
        return self.score(x).reshape(batch, count, -1), self.delta(x).reshape(batch, count, -1, 4)

    def sample(
        self, proposals: Tensor, valid: Tensor, truth: Tensor, labels: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw R training regions: regions (B, R, 4), their labels (B, R), matched boxes (B, R, 4), weight (B, R) 0 or 1.

        The ground truth joins the proposals, as in torchvision; noise is (B, P + M) in (0, 1).
        """
        present = labels > 0
        pool = ops.concat((proposals, truth), 1)
        usable = ops.concat((valid, present), 1)
        overlap = ops.select(ops.broadcast_to(present.expand_dims(1), (*noise.shape, present.shape[1])), box_ops.iou(pool, truth), 0.0)
        best, nearest = overlap.max(2), overlap.argmax(2)
        positive = ops.logical_and(usable, best >= FOREGROUND)
        negative = ops.logical_and(usable, best < FOREGROUND)
        positive = box_ops.draw(positive, noise, int(self.batch * POSITIVE_SHARE))
        negative = box_ops.draw_rest(negative, noise, positive, self.batch)
        keys = positive.astype(ms.float32) * 2 + negative.astype(ms.float32)
        keys, order = ops.topk(keys, min(self.batch, keys.shape[1]))
        nearest = ops.gather_elements(nearest, 1, order)
        matched = box_ops.take(truth, nearest)
        target = ops.gather_elements(labels, 1, nearest) * (keys > 1.5).astype(labels.dtype)
        return box_ops.take(pool, order), target, matched, (keys > 0.5).astype(ms.float32)

    def losses(self, maps: tuple[Tensor, ...], regions: Tensor, target: Tensor, matched: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Class and box loss of sampled regions (see `sample`)."""
        score, delta = self.construct(maps, regions)
        total = ops.maximum(weight.sum(), 1.0)
        one_hot = (target.expand_dims(-1) == ops.arange(self.classes + 1).astype(target.dtype)).astype(ms.float32)
        cross_entropy = -(ops.log_softmax(score, -1) * one_hot).sum(-1)
        wanted = box_ops.encode(matched, regions, WEIGHTS)
        own = (delta * one_hot.expand_dims(-1)).sum(2)
        foreground = (target > 0).astype(ms.float32)
        distance = box_ops.smooth_l1(own - ops.stop_gradient(wanted)).sum(-1)
        return (cross_entropy * weight).sum() / total, (distance * foreground).sum() / total

    def detect(self, maps: tuple[Tensor, ...], proposals: Tensor, valid: Tensor, image_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find boxes (B, D, 4), scores (B, D; 0 = none) and labels (B, D): per-class NMS, then the best of all."""
        score, delta = self.construct(maps, proposals)
        batch, count = proposals.shape[0], proposals.shape[1]
        found = box_ops.decode(delta, ops.broadcast_to(proposals.expand_dims(2), delta.shape), WEIGHTS)[:, :, 1:]
        found = box_ops.clip(found.reshape(batch, -1, 4), image_hw)
        score = ops.softmax(score, -1)[:, :, 1:] * valid.expand_dims(-1).astype(ms.float32)
        score = score.reshape(batch, -1) * box_ops.large(found, MIN_SIZE).astype(ms.float32)
        best, order = ops.topk(score, min(CANDIDATES * self.detections, count * self.classes))
        found = box_ops.take(found, order)
        label = order % self.classes
        keep = box_ops.keep_after_nms(self.nms, box_ops.set_apart(found, label.astype(ms.float32), self.extent))
        keep = ops.logical_and(keep, best > self.threshold)
        best, order = ops.topk(best * keep.astype(ms.float32), min(self.detections, best.shape[1]))
        found = box_ops.take(found, order)
        return found, best, (ops.gather_elements(label, 1, order) + 1) * (best > 0).astype(label.dtype)
