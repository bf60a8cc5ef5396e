"""Losses over all places of all levels: the focal loss, and the generalised IoU of boxes.

Shape shorthand: B images, S boxes per place, K classes, N places of all levels.
Sources: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017; Rezatofighi et al., CVPR 2019; torchvision `ops/focal_loss.py`
and `ops/giou_loss.py`, number for number.
"""

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from spnas_core.models import boxes as box_ops
from spnas_core.models import primitives as p

IOU_EPSILON = 1e-7


class BackgroundLoss(nn.Cell):
    """Focal loss, over the classes, of scores of the background; with a gradient of its own, in few operators."""

    def __init__(self, alpha: float, gamma: float) -> None:
        super().__init__()
        self.share, self.gamma = 1 - alpha, gamma

    def construct(self, scores: Tensor) -> Tensor:
        """Sum (B, S, N) over the classes, of scores (B, S, K, N) before the sigmoid."""
        return p.total(power(p.sigmoid(scores), self.gamma) * p.softplus(scores), 2) * self.share

    def bprop(self, scores: Tensor, out: Any, dout: Tensor) -> tuple[Tensor]:
        """Gradient of the scores."""
        chance = p.sigmoid(scores)
        slope = p.softplus(scores) * (1 - chance) * self.gamma + chance
        each = ops.BroadcastTo(scores.shape)(p.expand_dims(dout * self.share, 2))
        return (power(chance, self.gamma) * slope * each,)


class FocalLoss(nn.Cell):
    """Focal loss of all classes at all places. It is that of the background everywhere, changed for the class of an object."""

    def __init__(self, alpha: float, gamma: float) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma
        self.background = BackgroundLoss(alpha, gamma)

    def construct(self, scores: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        """Sum () over all places, times their weight (B, S, N); scores (B, S, K, N) before the sigmoid, label (B, S, N), 0 = background."""
        own = p.gather_elements(scores, 2, p.expand_dims(p.maximum(label - 1, 0), 2))
        own = p.reshape(own, label.shape)
        chance = p.sigmoid(own)
        as_object = power(1 - chance, self.gamma) * p.softplus(-own) * self.alpha
        as_background = power(chance, self.gamma) * p.softplus(own) * (1 - self.alpha)
        change = (as_object - as_background) * p.cast(label > 0, ms.float32)  # Ascend lacks what the gradient of `Select` needs
        return p.total((self.background(scores) + change) * weight)


def power(x: Tensor, exponent: float) -> Tensor:
    """Power of elements from 0 to 1; at 0, where a small exponent has no finite gradient, that of 1e-12."""
    return x * x if exponent == 2.0 else ops.Pow()(p.maximum(x, 1e-12), exponent)


def giou_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    """1 - generalised IoU (...) of boxes and truth, both (..., 4)."""
    ax1, ay1, ax2, ay2 = box_ops.split(boxes)
    bx1, by1, bx2, by2 = box_ops.split(truth)
    inter = p.relu(p.minimum(ax2, bx2) - p.maximum(ax1, bx1)) * p.relu(p.minimum(ay2, by2) - p.maximum(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    around = (p.maximum(ax2, bx2) - p.minimum(ax1, bx1)) * (p.maximum(ay2, by2) - p.minimum(ay1, by1))
    return 1 - inter / (union + IOU_EPSILON) + (around - union) / (around + IOU_EPSILON)
