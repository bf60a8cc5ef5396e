"""Training targets of the anchors, in numpy: they depend on ground truth and noise alone, so they are ready before a step needs them.

Shape shorthand: A anchors of all levels, N ground-truth boxes of an image, S sampled anchors, B images, M padded ground-truth boxes.
Sources: Ren et al., NIPS 2015; torchvision `models/detection/rpn.py` (`assign_targets_to_anchors`), number for number.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spnas_core.data.images import Floats, Ints

FOREGROUND, BACKGROUND, POSITIVE_SHARE = 0.7, 0.3, 0.5  # least IoU of a positive, IoU that a negative is below, most positives of a sample
_LEAST_SIDE = np.float32(1e-6)  # px


class AnchorSample(NamedTuple):
    """Anchors that enter the losses of a step."""

    number: Ints  # (B, S), of the anchor; 0 for padding
    positive: Floats  # (B, S), 1 or 0
    weight: Floats  # (B, S), 1, or 0 for padding
    target: Floats  # (B, S, 4), deltas to the box of a positive, else 0


def sample_batch(anchors: Floats, truth: Floats, labels: Ints, noise: Floats, count: int) -> AnchorSample:
    """Sample `count` (or all) anchors (A, 4) of each image; truth (B, M, 4), labels (B, M), 0 = padding; noise (B, A) in (0, 1)."""
    images, size = len(labels), min(count, len(anchors))
    sample = AnchorSample(
        np.zeros((images, size), np.int32),
        np.zeros((images, size), np.float32),
        np.zeros((images, size), np.float32),
        np.zeros((images, size, 4), np.float32),
    )
    for row in range(images):
        boxes = truth[row, labels[row] > 0]
        positive, negative, nearest = match_anchors(anchors, boxes, FOREGROUND, BACKGROUND)
        first = draw_anchors(positive, noise[row], int(count * POSITIVE_SHARE))
        rest = draw_anchors(negative, noise[row], count - len(first))
        chosen, drawn = len(first), len(first) + len(rest)
        sample.number[row, :drawn] = np.concatenate((first, rest))
        sample.positive[row, :chosen] = 1
        sample.weight[row, :drawn] = 1
        if chosen:
            sample.target[row, :chosen] = anchor_deltas(boxes[nearest[first]], anchors[first])
    return sample


def match_anchors(
    anchors: Floats, boxes: Floats, foreground: float, background: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], Ints]:
    """Whether each anchor (A, 4) is positive, whether it is negative, and the box (N, 4) that it overlaps most: all (A,).

    Positive are those with the IoU `foreground`, and for each box those that overlap it most; negative are others below `background`.
    """
    best, nearest = np.zeros(len(anchors), np.float32), np.zeros(len(anchors), np.int32)
    positive = np.zeros(len(anchors), np.bool_)
    low, high = anchors[:, :2], anchors[:, 2:]
    area = (high - low).prod(1)
    for number, box in enumerate(boxes):
        sides = np.minimum(high, box[2:])
        sides -= np.maximum(low, box[:2])
        np.maximum(sides, 0, out=sides)
        inter = sides[:, 0] * sides[:, 1]
        overlap = inter / (area + (box[2:] - box[:2]).prod() - inter + np.float32(1e-12))
        better = overlap > best
        nearest[better] = number
        best[better] = overlap[better]
        positive |= overlap == overlap.max()
    positive |= best >= foreground
    return positive, (best < background) & ~positive, nearest


def draw_anchors(candidates: npt.NDArray[np.bool_], noise: Floats, limit: int) -> npt.NDArray[np.int64]:
    """Numbers of at most `limit` of the candidates (A,), those with the largest noise (A,), in ascending order."""
    found = np.flatnonzero(candidates)
    if len(found) > limit:
        found = np.sort(found[np.argpartition(noise[found], len(found) - limit)[len(found) - limit :]])
    return found


def anchor_deltas(boxes: Floats, references: Floats) -> Floats:
    """Deltas (N, 4) that turn `references` into `boxes`, both (N, 4); sides below 1e-6 px count as that."""
    side, reference = (np.maximum(one[:, 2:] - one[:, :2], _LEAST_SIDE) for one in (boxes, references))
    half = np.float32(0.5)
    shift = (boxes[:, :2] + side * half - references[:, :2] - reference * half) / reference
    return np.concatenate((shift, np.log(side / reference)), 1)
