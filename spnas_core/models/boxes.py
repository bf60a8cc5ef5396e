"""Boxes: xyxy, float32, px of the network input.

Shape shorthand: B images, A anchors, P proposals, M padded ground-truth boxes, N boxes in general.
Source: torchvision `models/detection/_utils.py` (box coder, matcher) and `ops/boxes.py`.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from spnas_core.models import primitives as p

LOG_LIMIT = math.log(1000.0 / 16)
NMS_BOXES = 256  # boxes of one call of NMS, at least those of an image


def split(boxes: Tensor) -> tuple[Tensor, ...]:
    """Coordinates x1, y1, x2, y2, each (...), of boxes (..., 4)."""
    coordinates: tuple[Tensor, ...] = p.unstack_last(boxes)
    return coordinates


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (B, N, M) of boxes (B, N, 4) and (B, M, 4); 0 where both are empty."""
    shape = (second.shape[0], first.shape[1], second.shape[1])
    ax1, ay1, ax2, ay2 = split(p.expand_dims(first, 2))
    bx1, by1, bx2, by2 = split(p.expand_dims(second, 1))
    width = p.relu(broadcast_minimum(ax2, bx2, shape) - broadcast_maximum(ax1, bx1, shape))
    height = p.relu(broadcast_minimum(ay2, by2, shape) - broadcast_maximum(ay1, by1, shape))
    inter = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    return inter / (union + 1e-12)


def broadcast_minimum(a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Elementwise minimum after broadcasting to `shape`: the CPU kernel is six times slower when it broadcasts itself."""
    return p.minimum(ops.BroadcastTo(shape)(a), ops.BroadcastTo(shape)(b))


def broadcast_maximum(a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Elementwise maximum after broadcasting to `shape` (see `broadcast_minimum`)."""
    return p.maximum(ops.BroadcastTo(shape)(a), ops.BroadcastTo(shape)(b))


def encode(boxes: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Deltas (..., 4) that turn `references` into `boxes`, both (..., 4); sides below 1e-6 px count as that."""
    rx1, ry1, rx2, ry2 = split(references)
    bx1, by1, bx2, by2 = split(boxes)
    width, height = p.maximum(rx2 - rx1, 1e-6), p.maximum(ry2 - ry1, 1e-6)
    box_width, box_height = p.maximum(bx2 - bx1, 1e-6), p.maximum(by2 - by1, 1e-6)
    dx = (bx1 + box_width * 0.5 - rx1 - width * 0.5) / width
    dy = (by1 + box_height * 0.5 - ry1 - height * 0.5) / height
    dw, dh = p.log(box_width / width), p.log(box_height / height)
    return p.stack_last((dx * weights[0], dy * weights[1], dw * weights[2], dh * weights[3]))


def decode(deltas: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Boxes (..., 4) from deltas (..., 4) and the boxes they refer to (..., 4)."""
    x1, y1, x2, y2 = split(references)
    dx, dy, dw, dh = split(deltas)
    width, height = x2 - x1, y2 - y1
    x = x1 + width * 0.5 + dx * (1.0 / weights[0]) * width
    y = y1 + height * 0.5 + dy * (1.0 / weights[1]) * height
    half_width = p.exp(p.minimum(dw * (1.0 / weights[2]), LOG_LIMIT)) * width * 0.5
    half_height = p.exp(p.minimum(dh * (1.0 / weights[3]), LOG_LIMIT)) * height * 0.5
    return p.stack_last((x - half_width, y - half_height, x + half_width, y + half_height))


def clip(boxes: Tensor, image_hw: Tensor) -> Tensor:
    """Clip boxes (B, N, 4) to the valid part (B, 2: height, width) of their images."""
    height, width = p.unstack_last(image_hw)
    limits = p.expand_dims(p.stack_last((width, height, width, height)), 1)
    return broadcast_minimum(p.relu(boxes), limits, boxes.shape)


def large(boxes: Tensor, side: float) -> Tensor:
    """Mark (...) the boxes (..., 4) of which both sides are at least `side` px."""
    x1, y1, x2, y2 = split(boxes)
    return p.minimum(x2 - x1, y2 - y1) >= side


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K, 4) of values (B, N, 4) at index (B, K)."""
    return p.gather_elements(values, 1, ops.BroadcastTo((*index.shape, 4))(p.expand_dims(index, -1)))


def draw(candidates: Tensor, noise: Tensor, limit: int) -> Tensor:
    """Mark (B, N, bool) at most `limit` of the candidates (B, N, bool), at random by noise (B, N) in (0, 1)."""
    if limit >= candidates.shape[1]:
        return candidates
    keys = p.select(candidates, noise, p.zeros_like(noise))
    values, _ = p.topk(keys, limit)
    return p.both(candidates, keys >= p.slice_strided(values, (0, limit - 1), (values.shape[0], limit), (1, 1)))


def draw_rest(candidates: Tensor, noise: Tensor, taken: Tensor, total: int) -> Tensor:
    """Mark candidates (B, N, bool) at random until with `taken` (B, N, bool) they are `total` per image."""
    if total >= candidates.shape[1]:
        return candidates
    keys = p.select(candidates, noise, p.zeros_like(noise))
    values, _ = p.topk(keys, total)
    wanted = total - p.expand_dims(p.total(p.cast(taken, ms.float32), 1), 1)
    threshold = p.gather_elements(values, 1, p.cast(p.maximum(wanted - 1, 0.0), ms.int32))
    return p.both(candidates, p.both(keys >= threshold, wanted > 0))


def set_apart(boxes: Tensor, group: Tensor, extent: float) -> Tensor:
    """Shift boxes (B, N, 4) by multiples of `extent` px, right by their group (B, N), down by their image: none of them meet."""
    image = p.zeros_like(group) + numbers(boxes.shape[0])
    return boxes + p.stack_last((group, image, group, image)) * (extent + 1.0)


def keep_after_nms(nms: ops.NMSWithMask, boxes: Tensor) -> Tensor:
    """Mark (B, N, bool) what survives NMS among boxes (B, N, 4) that are sorted by score in each image and `set_apart`.

    The operator compares all pairs of its boxes, so it gets the images in parts of about `NMS_BOXES` boxes; scores that only count down
    keep the order.
    """
    batch, count = boxes.shape[:2]
    scored = ops.Concat(1)((p.reshape(boxes, (-1, 4)), _countdown(batch * count)))
    kept: tuple[Tensor, ...] = ()
    for first, last in p.row_slices(scored.shape, _rows_of_nms(count)):
        kept = (*kept, nms(p.slice_strided(scored, first, last, (1, 1)))[2])
    return p.reshape(ops.Concat(0)(kept), (batch, count))


@ops.constexpr  # type: ignore[untyped-decorator]
def numbers(count: int) -> Tensor:
    """0 to `count` - 1 (count, 1)."""
    return Tensor(np.arange(count, dtype=np.float32).reshape(-1, 1))


@ops.constexpr  # type: ignore[untyped-decorator]
def _countdown(count: int) -> Tensor:
    """Scores (count, 1) that only count down."""
    return Tensor(np.arange(count, 0, -1, dtype=np.float32).reshape(-1, 1))


@ops.constexpr  # type: ignore[untyped-decorator]
def _rows_of_nms(count: int) -> int:
    """Boxes that NMS gets at once, of whole images with `count` boxes."""
    return max(1, NMS_BOXES // count) * count
