"""Region proposal network: one head over all pyramid levels.

Shape shorthand: B images, A anchors of all levels, K_l anchors kept of level l, P proposals, M padded ground-truth boxes.
Source: Ren et al., NIPS 2015; torchvision `models/detection/rpn.py`, number for number.
"""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

from spnas_core.models import boxes as box_ops
from spnas_core.models import primitives as p
from spnas_core.models.anchors import Grid, place_anchors
from spnas_core.models.ranks import RankSum
from spnas_core.settings.detector import Detector

RPN_CODER = (1.0, 1.0, 1.0, 1.0)
FOREGROUND, BACKGROUND, POSITIVE_SHARE, MIN_SIZE = 0.7, 0.3, 0.5, 1e-3


class RegionProposal(nn.Cell):
    """Scores and boxes of all anchors, the proposals, and the two losses."""

    def __init__(self, settings: Detector, grid: Grid) -> None:
        super().__init__()
        channels, ratios = settings.neck.channels, settings.head.anchor_ratios
        init = Normal(0.01)
        self.conv = nn.Conv2d(channels, channels, 3, pad_mode="pad", padding=1, has_bias=True, weight_init=init)
        self.score = nn.Conv2d(channels, len(ratios), 1, has_bias=True, weight_init=init)
        self.delta = nn.Conv2d(channels, 4 * len(ratios), 1, has_bias=True, weight_init=init)
        per_level = place_anchors(grid, ratios)
        self.counts = tuple(len(a) for a in per_level)
        anchors = Tensor(np.concatenate(per_level))
        self.propose = Proposals(settings, anchors, self.counts)
        self.targets = AnchorTargets(settings, anchors)
        self.over_ranks = RankSum()

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Give the scores (B, A_l) and deltas (B, A_l, 4) of every level, in the anchors' order."""
        scores: tuple[Tensor, ...] = ()
        deltas: tuple[Tensor, ...] = ()
        for x in maps:
            batch = x.shape[0]
            hidden = p.relu(self.conv(x))
            scores = (*scores, p.reshape(p.transpose(self.score(hidden), (0, 2, 3, 1)), (batch, -1)))
            deltas = (*deltas, p.reshape(p.transpose(self.delta(hidden), (0, 2, 3, 1)), (batch, -1, 4)))
        return scores, deltas

    def losses(
        self, scores: tuple[Tensor, ...], deltas: tuple[Tensor, ...], truth: Tensor, present: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss against truth (B, M, 4), present (B, M); noise (B, A) in (0, 1) draws the anchors.

        On several ranks each gives its share of the losses of the whole batch.
        """
        score, delta = ops.Concat(1)(scores), ops.Concat(1)(deltas)
        chosen, weight, target = self.targets(truth, present, noise)
        cross_entropy = p.binary_cross_entropy(score, chosen, weight, p.ones_like(score))
        distance = p.total(p.smooth_l1(delta, target), 2)
        total = p.maximum(self.over_ranks(p.total(weight)), 1.0)
        return p.total(cross_entropy) / total, p.total(distance * chosen) / total


class Proposals(nn.Cell):
    """Best of each level, NMS within the level, best of all."""

    def __init__(self, settings: Detector, anchors: Tensor, counts: tuple[int, ...]) -> None:
        super().__init__()
        self.anchors = anchors
        self.counts = counts
        self.starts = tuple(sum(counts[:level]) for level in range(len(counts)))
        self.limits = (settings.head.proposals_test, settings.head.proposals_train)
        self.extent = float(max(settings.image_size))
        self.nms = ops.NMSWithMask(settings.head.rpn_nms)

    def construct(self, scores: tuple[Tensor, ...], deltas: tuple[Tensor, ...], image_hw: Tensor) -> tuple[Tensor, Tensor]:
        """Select proposals (B, P, 4) and their validity (B, P) from the scores and deltas of every level."""
        limit = self.limits[1] if self.training else self.limits[0]
        values_of: tuple[Tensor, ...] = ()
        index_of: tuple[Tensor, ...] = ()
        kept: tuple[Tensor, ...] = ()
        for level in range(len(self.counts)):
            values, order = p.topk(scores[level], min(limit, self.counts[level]))
            values_of, index_of = (*values_of, values), (*index_of, order + self.starts[level])
        best, index = ops.Concat(1)(values_of), ops.Concat(1)(index_of)
        found = box_ops.decode(box_ops.take(ops.Concat(1)(deltas), index), p.gather(self.anchors, index, 0), RPN_CODER)
        found = box_ops.clip(found, image_hw)
        apart, first = box_ops.set_apart(found, p.zeros_like(best), self.extent), 0
        for values in values_of:
            last = first + values.shape[1]
            kept = (*kept, box_ops.keep_after_nms(self.nms, p.slice_strided(apart, (0, first, 0), (values.shape[0], last, 4), (1, 1, 1))))
            first = last
        keep = p.cast(p.both(ops.Concat(1)(kept), box_ops.large(found, MIN_SIZE)), ms.float32)
        keys, order = p.topk(p.sigmoid(best) * keep + (keep - 1.0), min(limit, best.shape[1]))  # -1 for removed boxes
        valid = keys >= 0
        return box_ops.take(found, order) * p.expand_dims(p.cast(valid, ms.float32), -1), valid

    def bprop(self, scores: Any, deltas: Any, image_hw: Tensor, out: Any, dout: Any) -> Any:
        """Count the outputs as constants."""
        return p.constant(scores, deltas, image_hw)


class AnchorTargets(nn.Cell):
    """Training targets of the anchors: which of them enter the losses, and their boxes."""

    def __init__(self, settings: Detector, anchors: Tensor) -> None:
        super().__init__()
        self.anchors = anchors
        self.batch = settings.head.rpn_batch
        self.largest = ops.ArgMaxWithValue(2)
        self.best_anchor = ops.ReduceMax(keep_dims=True)
        self.any = ops.ReduceAny()

    def construct(self, truth: Tensor, present: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Choose the positive anchors (B, A), weigh those that count (B, A), both 0 or 1, and encode their boxes (B, A, 4)."""
        anchors = p.expand_dims(self.anchors, 0)
        there = p.expand_dims(p.cast(present, ms.float32), 1)
        overlap = box_ops.iou(anchors, truth) * there + (there - 1.0)  # -1 for padding
        nearest, best = self.largest(overlap)
        top = self.best_anchor(overlap, 1)
        low_quality = self.any(p.both(overlap == top, top >= 0), 2)
        positive = p.either(best >= FOREGROUND, low_quality)
        negative = p.both(best < BACKGROUND, p.negate(positive))
        positive = box_ops.draw(positive, noise, int(self.batch * POSITIVE_SHARE))
        negative = box_ops.draw_rest(negative, noise, positive, self.batch)
        chosen = p.cast(positive, ms.float32)
        matched = box_ops.take(truth, nearest)
        target = box_ops.encode(matched, ops.BroadcastTo(matched.shape)(anchors), RPN_CODER)
        return chosen, chosen + p.cast(negative, ms.float32), target

    def bprop(self, truth: Tensor, present: Tensor, noise: Tensor, out: Any, dout: Any) -> Any:
        """Count the outputs as constants."""
        return p.constant(truth, present, noise)
