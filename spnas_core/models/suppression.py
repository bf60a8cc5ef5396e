"""Non-maximum suppression of sorted boxes: MindSpore's operator, or on Ascend plain operators that give the same.

CANN's `NMSWithMask` takes float16 alone on the first generation of Ascend 910 (CANN 8.1, `impl/dynamic/nms_with_mask.py`): from 2,048 px on
coordinates would be rounded to 2 px and more, and those of classes that are set apart would soon be infinite, without a word. It also takes
at most 2,864 boxes.
"""

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from spnas_core.models import boxes as box_ops
from spnas_core.models import primitives as p
from spnas_core.models.target import graph_target


class OperatorSuppression(nn.Cell):
    """NMS by `ops.NMSWithMask`."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.nms = ops.NMSWithMask(limit)

    def construct(self, boxes: Tensor) -> Tensor:
        """Mark (B, N, bool) what survives among boxes (B, N, 4) that are sorted by score in each image and `boxes.set_apart`."""
        return box_ops.keep_after_nms(self.nms, boxes)


class PlainSuppression(nn.Cell):
    """NMS by comparisons of all pairs of an image, in float32.

    A box stays unless a better one that stays overlaps it. Taken for all boxes at once, again and again, that is right for one more box of
    each chain of overlaps at a time: when nothing changes any more, it is what going down from the best box gives.
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.product = ops.BatchMatMul()
        self.size = ops.Abs()

    def construct(self, boxes: Tensor) -> Tensor:
        """Mark (B, N, bool) what survives among boxes (B, N, 4) that are sorted by score in each image."""
        batch, count = boxes.shape[:2]
        number = box_ops.numbers(count)
        better = p.reshape(number, (1, count, 1)) < p.reshape(number, (1, 1, count))
        removes = p.cast(p.both(box_ops.iou(boxes, boxes) > self.limit, better), ms.float32)
        kept = ops.ones((batch, 1, count), ms.float32)
        changed = p.total(removes)
        while changed > 0:
            now = p.cast(self.product(kept, removes) < 0.5, ms.float32)
            changed = p.total(self.size(now - kept))
            kept = now
        return p.reshape(kept, (batch, count)) > 0.5


def suppression(limit: float) -> Any:
    """Cell that marks the boxes that survive NMS at IoU `limit`, for the device that nets are built for."""
    return (PlainSuppression if graph_target() == "Ascend" else OperatorSuppression)(limit)
