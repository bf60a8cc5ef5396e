"""Training targets of one-stage heads, in numpy: they depend on the ground truth alone, so they are ready before a step needs them.

Shape shorthand: A anchors or points of all levels, B images, M padded ground-truth boxes, N ground-truth boxes of an image.
Sources: torchvision `models/detection/retinanet.py` and `fcos.py` (`compute_loss`), number for number.
"""

from typing import NamedTuple

import numpy as np

from spnas_core.data.images import Floats, Ints
from spnas_core.models.anchor_targets import anchor_deltas, match_anchors
from spnas_core.settings.one_stage import RetinaNetHead

FINEST, COARSEST = 4.0, 8.0  # largest distance of a point from a side of its object, in strides: above and below these
_LARGEST_AREA = np.float32(1e8)  # px^2


class AnchorTargets(NamedTuple):
    """What the anchors learn."""

    label: Ints  # (B, A), 0 = background
    weight: Floats  # (B, A), 0 for anchors that are neither, else 1 / objects' anchors of the image
    target: Floats  # (B, A, 4), deltas to the object's box, or with GIoU the box; 0, or the anchor, for others


class PointTargets(NamedTuple):
    """What the points learn."""

    label: Ints  # (B, A), 0 = background
    target: Floats  # (B, A, 4), box of the object, or the square around a point of none
    centrality: Floats  # (B, A), centerness, 0 for points of no object


def anchor_targets(anchors: Floats, truth: Floats, labels: Ints, head: RetinaNetHead) -> AnchorTargets:
    """Targets of the anchors (A, 4) for truth (B, M, 4) with labels (B, M), 0 = padding."""
    images, count, as_boxes = len(labels), len(anchors), head.box_loss == "giou"
    target = np.repeat(anchors[None], images, 0) if as_boxes else np.zeros((images, count, 4), np.float32)
    found = AnchorTargets(np.zeros((images, count), np.int32), np.ones((images, count), np.float32), target)
    for row in range(images):
        own = labels[row] > 0
        if not own.any():
            continue
        boxes = truth[row, own]
        positive, negative, nearest = match_anchors(anchors, boxes, head.foreground_iou, head.background_iou)
        nearest = nearest[positive]
        found.label[row, positive] = labels[row, own][nearest]
        found.weight[row] = (positive | negative) / np.float32(max(1, len(nearest)))
        found.target[row, positive] = boxes[nearest] if as_boxes else anchor_deltas(boxes[nearest], anchors[positive])
    return found


def point_targets(squares: Floats, last: tuple[int, int], truth: Floats, labels: Ints, radius: float) -> PointTargets:
    """Targets of points, the centres of `squares` (A, 4) whose sides are the strides, for truth (B, M, 4) with labels (B, M), 0 = padding.

    `last`: how many points the finest level has, which takes objects however small, and the coarsest, however large.
    """
    images, count = len(labels), len(squares)
    found = PointTargets(np.zeros((images, count), np.int32), np.repeat(squares[None], images, 0), np.zeros((images, count), np.float32))
    for row in range(images):
        own = labels[row] > 0
        if not own.any():
            continue
        boxes = truth[row, own]
        match = match_points(squares, last, boxes, radius)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        rank = match * (_LARGEST_AREA - area)
        nearest = rank.argmax(1)
        positive = rank.max(1) >= np.float32(1e-5)
        nearest = nearest[positive]
        found.label[row, positive] = labels[row, own][nearest]
        found.target[row, positive] = boxes[nearest]
        found.centrality[row, positive] = _centrality(squares[positive], boxes[nearest])
    return found


def match_points(squares: Floats, last: tuple[int, int], boxes: Floats, radius: float) -> Ints:
    """1 (A, N) for points near the centre of a box (N, 4), inside of it, whose level is for its size, else 0; see `point_targets`."""
    points, stride = (squares[:, :2] + squares[:, 2:]) / 2, squares[:, 2] - squares[:, 0]
    low, high = stride * np.float32(FINEST), stride * np.float32(COARSEST)
    low[: last[0]], high[len(high) - last[1] :] = 0, np.inf
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = np.abs(points[:, None] - middle).max(2) < np.float32(radius) * stride[:, None]
    sides = np.concatenate((points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]), 2)
    reach = sides.max(2)
    return np.asarray(near & (sides.min(2) > 0) & (reach > low[:, None]) & (reach < high[:, None]), np.int32)


def _centrality(squares: Floats, boxes: Floats) -> Floats:
    """Centerness of the points of `squares` (A, 4) in their boxes (A, 4)."""
    points = (squares[:, :2] + squares[:, 2:]) / 2
    before, after = points - boxes[:, :2], boxes[:, 2:] - points
    return np.asarray(np.sqrt((np.minimum(before, after) / np.maximum(before, after)).prod(1)), np.float32)
