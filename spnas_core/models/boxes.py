"""Boxes: xyxy, float32, px of the network input.

Shape shorthand: B images, A anchors, P proposals, M padded ground-truth boxes, N boxes in general.
Source: torchvision `models/detection/_utils.py` (box coder, matcher) and `ops/boxes.py`.
"""

import math

import numpy as np
import numpy.typing as npt
from mindspore import Tensor, ops

LOG_LIMIT = math.log(1000.0 / 16)


def area(boxes: Tensor) -> Tensor:
    """Areas (..., N) of boxes (..., N, 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (B, N, M) of boxes (B, N, 4) and (B, M, 4); 0 where both are empty."""
    a, b = first.expand_dims(2), second.expand_dims(1)
    width = ops.relu(ops.minimum(a[..., 2], b[..., 2]) - ops.maximum(a[..., 0], b[..., 0]))
    height = ops.relu(ops.minimum(a[..., 3], b[..., 3]) - ops.maximum(a[..., 1], b[..., 1]))
    inter = width * height
    union = area(first).expand_dims(2) + area(second).expand_dims(1) - inter
    return inter / ops.maximum(union, 1e-9)


def encode(boxes: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Deltas (..., 4) that turn `references` into `boxes`; both (..., 4), references not empty."""
    width, height = references[..., 2] - references[..., 0], references[..., 3] - references[..., 1]
    box_width, box_height = ops.maximum(boxes[..., 2] - boxes[..., 0], 1e-6), ops.maximum(boxes[..., 3] - boxes[..., 1], 1e-6)
    width, height = ops.maximum(width, 1e-6), ops.maximum(height, 1e-6)
    dx = (boxes[..., 0] + box_width * 0.5 - references[..., 0] - width * 0.5) / width
    dy = (boxes[..., 1] + box_height * 0.5 - references[..., 1] - height * 0.5) / height
    dw, dh = ops.log(box_width / width), ops.log(box_height / height)
    return ops.stack((dx * weights[0], dy * weights[1], dw * weights[2], dh * weights[3]), -1)


def decode(deltas: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Boxes (..., 4) from deltas (..., 4) and the boxes they refer to (..., 4)."""
    width, height = references[..., 2] - references[..., 0], references[..., 3] - references[..., 1]
    x = references[..., 0] + width * 0.5 + deltas[..., 0] / weights[0] * width
    y = references[..., 1] + height * 0.5 + deltas[..., 1] / weights[1] * height
    half_width = ops.exp(ops.minimum(deltas[..., 2] / weights[2], LOG_LIMIT)) * width * 0.5
    half_height = ops.exp(ops.minimum(deltas[..., 3] / weights[3], LOG_LIMIT)) * height * 0.5
    return ops.stack((x - half_width, y - half_height, x + half_width, y + half_height), -1)


def clip(boxes: Tensor, image_hw: Tensor) -> Tensor:
    """Clip boxes (B, N, 4) to the valid part (B, 2: height, width) of their images."""
    height, width = image_hw[:, 0:1], image_hw[:, 1:2]
    limits = ops.stack((width, height, width, height), -1)
    return ops.minimum(ops.relu(boxes), limits)


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


def keep_after_nms(nms: ops.NMSWithMask, boxes: Tensor, group: Tensor, extent: float) -> Tensor:
    """Mark (B, N, bool) what survives NMS among boxes (B, N, 4) sorted by score, within equal `group` (B, N, integer-valued float).

    All images go through one call: groups and images are set apart by shifting the boxes by multiples of `extent` px, and the order is kept
    by scores that only count down.
    """
    batch, count = boxes.shape[0], boxes.shape[1]
    image = ops.zeros_like(group) + ops.arange(batch).astype(boxes.dtype).reshape(batch, 1)
    shift = ops.stack((group, image, group, image), -1) * (extent + 1.0)
    order = ops.arange(batch * count, 0, -1).astype(boxes.dtype).reshape(-1, 1)
    _, _, keep = nms(ops.concat(((boxes + shift).reshape(-1, 4), order), 1))
    return keep.reshape(batch, count)


def anchors(sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], scale: float, ratios: tuple[float, ...]) -> list[npt.NDArray[np.float32]]:
    """Anchors (H*W*R, 4) of each level, order (y, x, ratio), for level sizes (H, W) and strides in px; side of a square = scale * stride."""
    found = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        ratio = np.sqrt(np.asarray(ratios, np.float32))
        w, h = scale * stride / ratio, scale * stride * ratio
        base = (np.stack((-w, -h, w, h), 1) / 2).round()
        y, x = np.meshgrid(np.arange(height) * stride, np.arange(width) * stride, indexing="ij")
        centres = np.stack((x, y, x, y), -1).reshape(-1, 1, 4)
        found.append((centres + base).reshape(-1, 4).astype(np.float32))
    return found
