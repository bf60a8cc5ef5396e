"""Region proposal network: one head over all pyramid levels.

Shape shorthand: B images, A anchors of all levels, K_l anchors kept of level l, P proposals, M padded ground-truth boxes.
Source: Ren et al., NIPS 2015; torchvision `models/detection/rpn.py`, number for number.
"""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

from spnas_core.data.images import Floats, Ints
from spnas_core.models import boxes as box_ops
from spnas_core.models import primitives as p
from spnas_core.models.anchor_targets import AnchorSample, sample_batch
from spnas_core.models.anchors import Grid, place_anchors
from spnas_core.models.convolution import BiasedConv3x3
from spnas_core.models.ranks import RankSum
from spnas_core.models.suppression import suppression
from spnas_core.settings.detector import Detector, two_stage

RPN_CODER = (1.0, 1.0, 1.0, 1.0)
MIN_SIZE = 1e-3  # px


class RegionProposal(nn.Cell):
    """Scores and boxes of all anchors, the proposals, and the two losses."""

    def __init__(self, settings: Detector, grid: Grid) -> None:
        super().__init__()
        channels, ratios = settings.neck.channels, two_stage(settings).anchor_ratios
        init = Normal(0.01)
        self.conv = BiasedConv3x3(channels, channels, init)
        self.score = nn.Conv2d(channels, len(ratios), 1, has_bias=True, weight_init=init)
        self.delta = nn.Conv2d(channels, 4 * len(ratios), 1, has_bias=True, weight_init=init)
        per_level = place_anchors(grid, ratios)
        self.counts = tuple(len(a) for a in per_level)
        self.places = np.concatenate(per_level)
        self.batch = two_stage(settings).rpn_batch
        self.propose = Proposals(settings, Tensor(self.places), self.counts)
        self.over_ranks = RankSum()
        self.ratios = len(ratios)
        self.predict = ops.Conv2D(5 * len(ratios), 1)
        self.bias_add = ops.BiasAdd()

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Give the scores (B, A) and deltas (B, A, 4) of all levels, in the anchors' order.

        `score` and `delta` are one convolution, so that a level has one kernel for both.
        """
        batch, last = maps[0].shape[0], 5 * self.ratios
        weight = ops.Concat(0)((self.score.weight, self.delta.weight))
        levels: tuple[Tensor, ...] = ()
        for x in maps:
            levels = (*levels, p.reshape(self.predict(p.relu(self.conv(x)), weight), (batch, last, -1)))
        joint = self.bias_add(ops.Concat(2)(levels), ops.Concat(0)((self.score.bias, self.delta.bias)))
        joint = p.transpose(joint, (0, 2, 1))
        cells = joint.shape[1]
        scores = p.slice_strided(joint, (0, 0, 0), (batch, cells, self.ratios), (1, 1, 1))
        deltas = p.slice_strided(joint, (0, 0, self.ratios), (batch, cells, last), (1, 1, 1))
        return p.reshape(scores, (batch, -1)), p.reshape(deltas, (batch, -1, 4))

    def losses(
        self, scores: Tensor, deltas: Tensor, index: Tensor, positive: Tensor, weight: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss of scores (B, A) and deltas (B, A, 4) at the anchors of an `AnchorSample`.

        On several ranks each gives its share of the losses of the whole batch.
        """
        score, delta = p.gather_elements(scores, 1, index), box_ops.take(deltas, index)
        cross_entropy = p.binary_cross_entropy(score, positive, weight, p.ones_like(score))
        distance = p.total(p.smooth_l1(delta, target), 2)
        total = p.maximum(self.over_ranks(p.total(weight)), 1.0)
        return p.total(cross_entropy) / total, p.total(distance * positive) / total

    def sample(self, truth: Floats, labels: Ints, noise: Floats) -> AnchorSample:
        """Anchors for `losses`, drawn by noise (B, A) in (0, 1) for truth (B, M, 4) with labels (B, M), 0 = padding."""
        return sample_batch(self.places, truth, labels, noise, self.batch)


class Proposals(nn.Cell):
    """Best of each level, NMS within the level, best of all."""

    def __init__(self, settings: Detector, anchors: Tensor, counts: tuple[int, ...]) -> None:
        super().__init__()
        self.anchors = anchors
        self.counts = counts
        self.starts = tuple(sum(counts[:level]) for level in range(len(counts)))
        head = two_stage(settings)
        self.limits = (head.proposals_test, head.proposals_train)
        self.taken = tuple(tuple(min(limit, count) for count in counts) for limit in self.limits)  # of each level
        self.selected = tuple(min(limit, sum(taken)) for limit, taken in zip(self.limits, self.taken, strict=True))
        self.extent = float(max(settings.image_size))
        self.nms = suppression(head.rpn_nms)

    def construct(self, scores: Tensor, deltas: Tensor, image_hw: Tensor) -> tuple[Tensor, Tensor]:
        """Select proposals (B, P, 4) and their validity (B, P) from the scores (B, A) and deltas (B, A, 4)."""
        taken, selected = (self.taken[1], self.selected[1]) if self.training else (self.taken[0], self.selected[0])
        batch = scores.shape[0]
        values_of: tuple[Tensor, ...] = ()
        index_of: tuple[Tensor, ...] = ()
        kept: tuple[Tensor, ...] = ()
        for level in range(len(self.counts)):
            start, count = self.starts[level], self.counts[level]
            values, order = p.topk(p.slice_strided(scores, (0, start), (batch, start + count), (1, 1)), taken[level])
            values_of, index_of = (*values_of, values), (*index_of, order + start)
        best, index = ops.Concat(1)(values_of), ops.Concat(1)(index_of)
        found = box_ops.decode(box_ops.take(deltas, index), p.gather(self.anchors, index, 0), RPN_CODER)
        found = box_ops.clip(found, image_hw)
        apart, first = box_ops.set_apart(found, p.zeros_like(best), self.extent), 0
        for values in values_of:
            last = first + values.shape[1]
            kept = (*kept, self.nms(p.slice_strided(apart, (0, first, 0), (values.shape[0], last, 4), (1, 1, 1))))
            first = last
        keep = p.cast(p.both(ops.Concat(1)(kept), box_ops.large(found, MIN_SIZE)), ms.float32)
        keys, order = p.topk(p.sigmoid(best) * keep + (keep - 1.0), selected)  # -1 for removed boxes
        valid = keys >= 0
        return box_ops.take(found, order) * p.expand_dims(p.cast(valid, ms.float32), -1), valid

    def bprop(self, scores: Tensor, deltas: Tensor, image_hw: Tensor, out: Any, dout: Any) -> Any:
        """Count the outputs as constants."""
        return p.constant(scores, deltas, image_hw)
