"""Losses of pixels' classes: cross entropy, and a loss of overlap. Pixels of the class 255 in the masks count in none.

Shape shorthand: B images, K classes, H and W rows and columns, N = H * W pixels.
Sources: Berman et al., The Lovasz-Softmax loss, CVPR 2018, and its release (per image, classes that the image has); Milletari et al.,
V-Net, 3DV 2016 (dice).
"""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from spnas_core.data.masks.decoding import IGNORED
from spnas_core.models import primitives as p
from spnas_core.models.ranks import RankSum, rank

SMOOTH = 1.0  # added to both sides of the dice fraction, as in mmsegmentation


class CrossEntropy(nn.Cell):
    """Mean cross entropy of the counted pixels of the whole batch, each with the weight of its class; a rank gives its share of it."""

    def __init__(self, weights: Sequence[float], classes: int) -> None:
        super().__init__()
        self.weights = Tensor(tuple(weights) or (1.0,) * classes, ms.float32)
        self.over_ranks = RankSum()

    def construct(self, logs: Tensor, masks: Tensor) -> Tensor:
        """Loss () of log probabilities (B, K, H, W) and masks (B, H, W)."""
        counted = masks != IGNORED
        classes = p.select(counted, masks, p.zeros_like(masks))
        weights = p.gather(self.weights, classes, 0) * p.cast(counted, ms.float32)
        found = p.reshape(p.gather_elements(logs, 1, p.expand_dims(classes, 1)), classes.shape)
        return -p.total(found * weights) / p.maximum(self.over_ranks(p.total(weights)), 1e-6)


class Dice(nn.Cell):
    """One minus the mean dice coefficient of all classes, over the pixels of the whole batch; each rank gives an equal part of it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.one_hot = ops.OneHot(1)
        self.one, self.zero = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)
        self.classes = classes
        self.ranks = rank().of
        self.all_reduce = ops.AllReduce() if self.ranks > 1 else None

    def construct(self, logs: Tensor, masks: Tensor) -> Tensor:
        """Loss () of log probabilities (B, K, H, W) and masks (B, H, W)."""
        is_counted = masks != IGNORED
        counted = p.expand_dims(p.cast(is_counted, ms.float32), 1)
        truth = self.one_hot(p.select(is_counted, masks, p.zeros_like(masks)), self.classes, self.one, self.zero) * counted
        shares = p.exp(logs) * counted
        both = p.total(shares * truth, (0, 2, 3))
        sizes = p.total(shares + truth, (0, 2, 3))
        if self.all_reduce is not None:  # its gradient is the sum over the ranks
            both, sizes = self.all_reduce(both), self.all_reduce(sizes)
        dice = (2.0 * both + SMOOTH) / (sizes + SMOOTH)
        return (1.0 - p.total(dice) / self.classes) / self.ranks


class Lovasz(nn.Cell):
    """Lovasz-Softmax, per image: the mean over the images of the whole batch; each rank gives its share."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.one_hot = ops.OneHot(1)
        self.one, self.zero = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)
        self.classes = classes
        self.ranks = rank().of
        self.sum_up = ops.CumSum()

    def construct(self, logs: Tensor, masks: Tensor) -> Tensor:
        """Loss () of log probabilities (B, K, H, W) and masks (B, H, W)."""
        batch, classes, height, width = logs.shape
        pixels = height * width
        is_counted = masks != IGNORED
        counted = p.reshape(p.cast(is_counted, ms.float32), (batch, 1, pixels))
        truth = self.one_hot(p.select(is_counted, masks, p.zeros_like(masks)), self.classes, self.one, self.zero)
        truth = p.reshape(truth, (batch, classes, pixels)) * counted
        errors = ops.Abs()(truth - p.exp(p.reshape(logs, (batch, classes, pixels)))) * counted  # those of ignored pixels come last
        errors, order = p.topk(errors, pixels)
        truth = p.gather_elements(truth, 2, order)
        sizes = p.expand_dims(p.total(truth, 2), 2)
        others = p.gather_elements(ops.BroadcastTo((batch, classes, pixels))(counted), 2, order) - truth
        left, union = sizes - self.sum_up(truth, 2), sizes + self.sum_up(others, 2)
        jaccard = 1.0 - left / p.maximum(union, 1.0)
        before = ops.Concat(2)((p.zeros_like(sizes), p.slice_strided(jaccard, (0, 0, 0), (batch, classes, pixels - 1), (1, 1, 1))))
        there = p.cast(p.reshape(sizes, (batch, classes)) > 0, ms.float32)
        losses = p.total(errors * ops.stop_gradient(jaccard - before), 2) * there
        per_image = p.total(losses, 1) / p.maximum(p.total(there, 1), 1.0)
        return p.total(per_image) / float(batch * self.ranks)
