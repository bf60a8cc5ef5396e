"""Boxes: xyxy, float32, px of the network input.

Shape shorthand: B images, A anchors, P proposals, M padded ground-truth boxes, N boxes in general.
Source: torchvision `models/detection/_utils.py` (box coder, matcher) and `ops/boxes.py`.
"""

import math

import numpy as np
import numpy.typing as npt
from mindspore import Tensor, ops

LOG_LIMIT = math.log(1000.0 / 16)


def split(boxes: Tensor) -> tuple[Tensor, ...]:
    """Coordinates x1, y1, x2, y2, each (...), of boxes (..., 4)."""
    coordinates: tuple[Tensor, ...] = ops.unbind(boxes, -1)
    return coordinates


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (B, N, M) of boxes (B, N, 4) and (B, M, 4); 0 where both are empty."""
    shape = (second.shape[0], first.shape[1], second.shape[1])
    ax1, ay1, ax2, ay2 = split(first.expand_dims(2))
    bx1, by1, bx2, by2 = split(second.expand_dims(1))
    width = ops.relu(broadcast_minimum(ax2, bx2, shape) - broadcast_maximum(ax1, bx1, shape))
    height = ops.relu(broadcast_minimum(ay2, by2, shape) - broadcast_maximum(ay1, by1, shape))
    inter = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    return inter / (union + 1e-12)


def broadcast_minimum(a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Elementwise minimum after broadcasting to `shape`: the CPU kernel is six times slower when it broadcasts itself."""
    return ops.minimum(ops.broadcast_to(a, shape), ops.broadcast_to(b, shape))


def broadcast_maximum(a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Elementwise maximum after broadcasting to `shape` (see `broadcast_minimum`)."""
    return ops.maximum(ops.broadcast_to(a, shape), ops.broadcast_to(b, shape))


def encode(boxes: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Deltas (..., 4) that turn `references` into `boxes`, both (..., 4); sides below 1e-6 px count as that."""
    rx1, ry1, rx2, ry2 = split(references)
    bx1, by1, bx2, by2 = split(boxes)
    width, height = ops.maximum(rx2 - rx1, 1e-6), ops.maximum(ry2 - ry1, 1e-6)
    box_width, box_height = ops.maximum(bx2 - bx1, 1e-6), ops.maximum(by2 - by1, 1e-6)
    dx = (bx1 + box_width * 0.5 - rx1 - width * 0.5) / width
    dy = (by1 + box_height * 0.5 - ry1 - height * 0.5) / height
    dw, dh = ops.log(box_width / width), ops.log(box_height / height)
    return ops.stack((dx * weights[0], dy * weights[1], dw * weights[2], dh * weights[3]), -1)


def decode(deltas: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Boxes (..., 4) from deltas (..., 4) and the boxes they refer to (..., 4)."""
    x1, y1, x2, y2 = split(references)
    dx, dy, dw, dh = split(deltas)
    width, height = x2 - x1, y2 - y1
    x = x1 + width * 0.5 + dx * (1.0 / weights[0]) * width
    y = y1 + height * 0.5 + dy * (1.0 / weights[1]) * height
    half_width = ops.exp(ops.minimum(dw * (1.0 / weights[2]), LOG_LIMIT)) * width * 0.5
    half_height = ops.exp(ops.minimum(dh * (1.0 / weights[3]), LOG_LIMIT)) * height * 0.5
    return ops.stack((x - half_width, y - half_height, x + half_width, y + half_height), -1)


def clip(boxes: Tensor, image_hw: Tensor) -> Tensor:
    """Clip boxes (B, N, 4) to the valid part (B, 2: height, width) of their images."""
    limits = ops.flip(ops.concat((image_hw, image_hw), 1), (1,)).expand_dims(1)
    return broadcast_minimum(ops.relu(boxes), limits, boxes.shape)


def large(boxes: Tensor, side: float) -> Tensor:
    """Mark (...) the boxes (..., 4) of which both sides are at least `side` px."""
    x1, y1, x2, y2 = split(boxes)
    return ops.minimum(x2 - x1, y2 - y1) >= side


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K, 4) of values (B, N, 4) at index (B, K)."""
    return ops.gather_elements(values, 1, ops.broadcast_to(index.expand_dims(-1), (*index.shape, 4)))


def smooth_l1(difference: Tensor, beta: float = 1.0 / 9) -> Tensor:
    """Elementwise Huber-like loss of `difference`: quadratic below `beta`."""
    size = ops.abs(difference)
    return ops.select(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)


def draw(candidates: Tensor, noise: Tensor, limit: int) -> Tensor:
    """Mark (B, N, bool) at most `limit` of the candidates (B, N, bool), at random by noise (B, N) in (0, 1)."""
    if limit >= candidates.shape[1]:
        return candidates
    keys = ops.select(candidates, noise, ops.zeros_like(noise))
    values, _ = ops.topk(keys, limit)
    return ops.logical_and(candidates, keys >= values[:, limit - 1 : limit])


def draw_rest(candidates: Tensor, noise: Tensor, taken: Tensor, total: int) -> Tensor:
    """Mark candidates (B, N, bool) at random until with `taken` (B, N, bool) they are `total` per image."""
    if total >= candidates.shape[1]:
        return candidates
    keys = ops.select(candidates, noise, ops.zeros_like(noise))
    values, _ = ops.topk(keys, total)
    wanted = total - taken.astype(keys.dtype).sum(1, keepdims=True)
    last = ops.maximum(wanted - 1, 0.0).astype(ops.argmax(keys, 1).dtype)
    threshold = ops.gather_elements(values, 1, last)
    return ops.logical_and(candidates, ops.logical_and(keys >= threshold, wanted > 0))


def set_apart(boxes: Tensor, group: Tensor, extent: float) -> Tensor:
    """Shift boxes (B, N, 4) by multiples of `extent` px, right by their group (B, N), down by their image: none of them meet."""
    image = ops.zeros_like(group) + ops.arange(boxes.shape[0]).astype(boxes.dtype).expand_dims(-1)
    return boxes + ops.stack((group, image, group, image), -1) * (extent + 1.0)


def keep_after_nms(nms: ops.NMSWithMask, boxes: Tensor) -> Tensor:
    """Mark (B, N, bool) what survives NMS among boxes (B, N, 4) that are sorted by score in each image and `set_apart`.

    All images go through one call; scores that only count down keep the order.
    """
    batch, count = boxes.shape[0], boxes.shape[1]
    order = ops.arange(batch * count, 0, -1).astype(boxes.dtype).reshape(-1, 1)
    _, _, keep = nms(ops.concat((boxes.reshape(-1, 4), order), 1))
    return keep.reshape(batch, count)


def anchors(
    sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], scale: float, ratios: tuple[float, ...]
) -> list[npt.NDArray[np.float32]]:
    """Anchors (H*W*R, 4) of each level, order (y, x, ratio), for level sizes (H, W) and strides in px; side of a square = scale * stride.

    The last level, the pooled one, stands where torchvision has it: its cells share what the level before covers, so that of 25 rows of
    32 px it makes 13 rows of 61 px.
    """
    found = []
    for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        down, right = stride, stride
        if 0 < level == len(sizes) - 1:
            down, right = (before * strides[-2] // here for before, here in zip(sizes[-2], (height, width), strict=True))
        ratio = np.sqrt(np.asarray(ratios, np.float32))
        w, h = scale * stride / ratio, scale * stride * ratio
        base = (np.stack((-w, -h, w, h), 1) / 2).round()
        y, x = np.meshgrid(np.arange(height) * down, np.arange(width) * right, indexing="ij")
        centres = np.stack((x, y, x, y), -1).reshape(-1, 1, 4)
        found.append((centres + base).reshape(-1, 4).astype(np.float32))
    return found
