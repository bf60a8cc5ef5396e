"""Region proposal network: one head over all pyramid levels.

Shape shorthand: B images, A anchors of all levels, K_l anchors kept of level l, P proposals, M padded ground-truth boxes.
Source: Ren et al., NIPS 2015; torchvision `models/detection/rpn.py`, number for number.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

from spnas_core.config import Detector
from spnas_core.models import boxes as box_ops

WEIGHTS = (1.0, 1.0, 1.0, 1.0)
FOREGROUND, BACKGROUND, POSITIVE_SHARE, MIN_SIZE = 0.7, 0.3, 0.5, 1e-3


class RegionProposal(nn.Cell):
    """Scores and boxes of all anchors, the proposals, and the two losses."""

    def __init__(self, settings: Detector, sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        channels, ratios = settings.fpn_channels, settings.anchor_ratios
        init = Normal(0.01)
        self.conv = nn.Conv2d(channels, channels, 3, pad_mode="pad", padding=1, has_bias=True, weight_init=init)
        self.score = nn.Conv2d(channels, len(ratios), 1, has_bias=True, weight_init=init)
        self.delta = nn.Conv2d(channels, 4 * len(ratios), 1, has_bias=True, weight_init=init)
        per_level = box_ops.anchors(sizes, strides, settings.anchor_scale, ratios)
        self.all_anchors = Tensor(np.concatenate(per_level))
        self.counts = tuple(len(a) for a in per_level)
        self.extent = float(max(settings.image_size))
        self.batch = settings.rpn_batch
        self.limits = (settings.proposals_test, settings.proposals_train)
        self.nms = ops.NMSWithMask(settings.rpn_nms)

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Give the scores (B, A_l) and deltas (B, A_l, 4) of every level, in the anchors' order."""
        scores: tuple[Tensor, ...] = ()
        deltas: tuple[Tensor, ...] = ()
        for x in maps:
            batch = x.shape[0]
            hidden = ops.relu(self.conv(x))
            scores = (*scores, self.score(hidden).transpose(0, 2, 3, 1).reshape(batch, -1))
            ratios = self.score.out_channels
            delta = self.delta(hidden).reshape(batch, ratios, 4, x.shape[2], x.shape[3])
            deltas = (*deltas, delta.transpose(0, 3, 4, 1, 2).reshape(batch, -1, 4))
        return scores, deltas

    def propose(self, scores: tuple[Tensor, ...], deltas: tuple[Tensor, ...], image_hw: Tensor) -> tuple[Tensor, Tensor]:
        """Select proposals (B, P, 4) and their validity (B, P): best of each level, NMS within the level, best of all."""
        limit = self.limits[1] if self.training else self.limits[0]
        counts = [min(limit, count) for count in self.counts]
        starts = [sum(self.counts[:level]) for level in range(len(counts))]
        values_of: tuple[Tensor, ...] = ()
        index_of: tuple[Tensor, ...] = ()
        kept: tuple[Tensor, ...] = ()
        for level in range(len(counts)):
            values, order = ops.topk(ops.stop_gradient(scores[level]), counts[level])
            values_of, index_of = (*values_of, values), (*index_of, order + starts[level])
        best, index = ops.concat(values_of, 1), ops.concat(index_of, 1)
        chosen = box_ops.take(ops.stop_gradient(ops.concat(deltas, 1)), index)
        found = box_ops.clip(box_ops.decode(chosen, ops.gather(self.all_anchors, index, 0), WEIGHTS), image_hw)
        apart = box_ops.set_apart(found, ops.zeros_like(best), self.extent)
        for level in range(len(counts)):
            first = sum(counts[:level])
            kept = (*kept, box_ops.keep_after_nms(self.nms, apart[:, first : first + counts[level]]))
        keep = ops.logical_and(ops.concat(kept, 1), box_ops.large(found, MIN_SIZE))
        keys, order = ops.topk(ops.select(keep, ops.sigmoid(best), ops.full_like(best, -1.0)), min(limit, sum(counts)))
        valid = keys >= 0
        return box_ops.take(found, order) * valid.expand_dims(-1).astype(ms.float32), valid

    def losses(
        self, scores: tuple[Tensor, ...], deltas: tuple[Tensor, ...], truth: Tensor, present: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss against truth (B, M, 4), present (B, M); noise (B, A) in (0, 1) draws the anchors."""
        score, delta = ops.concat(scores, 1), ops.concat(deltas, 1)
        anchors = self.all_anchors.expand_dims(0)
        overlap = ops.select(ops.broadcast_to(present.expand_dims(1), (*noise.shape, present.shape[1])), box_ops.iou(anchors, truth), -1.0)
        best = overlap.max(2)
        nearest = overlap.argmax(2)
        top = overlap.max(1, keepdims=True)
        low_quality = ops.logical_and(overlap == top, top >= 0).any(2)
        positive = ops.logical_or(best >= FOREGROUND, low_quality)
        negative = ops.logical_and(best < BACKGROUND, ops.logical_not(positive))
        positive = box_ops.draw(positive, noise, int(self.batch * POSITIVE_SHARE))
        negative = box_ops.draw_rest(negative, noise, positive, self.batch)
        chosen = positive.astype(ms.float32)
        weight = chosen + negative.astype(ms.float32)
        total = ops.maximum(weight.sum(), 1.0)
        cross_entropy = ops.relu(score) - score * chosen + ops.log1p(ops.exp(-ops.abs(score)))
        matched = box_ops.take(truth, nearest)
        target = box_ops.encode(matched, ops.broadcast_to(anchors, matched.shape), WEIGHTS)
        distance = box_ops.smooth_l1(delta - ops.stop_gradient(target)).sum(2)
        return (cross_entropy * weight).sum() / total, (distance * chosen).sum() / total
