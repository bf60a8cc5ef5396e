"""Residual blocks and stems, with norms that are trained or frozen.

Shape shorthand: B images, C channels, H and W rows and columns. Source: torchvision `models/resnet.py`.
"""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeNormal, initializer

from spnas_core import arch as architecture
from spnas_core.models import primitives as p
from spnas_core.models.ranks import rank

MOMENTUM = 0.1  # of the running statistics
LEAST_EPSILON = 1e-12  # that MindSpore's norm accepts; torchvision's released COCO detectors have 0


class Norm(nn.Cell):
    """Batch norm (B, C, H, W): trained, or frozen; keeps the four tensors under MindSpore's names.

    On several ranks it is trained on the statistics of all of their images.
    """

    def __init__(self, channels: int, epsilon: float, frozen: bool, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = Parameter(ops.full((channels,), gamma, dtype=ms.float32), name="gamma", requires_grad=not frozen)
        self.beta = Parameter(ops.zeros((channels,), ms.float32), name="beta", requires_grad=not frozen)
        self.moving_mean = Parameter(ops.zeros((channels,), ms.float32), name="moving_mean", requires_grad=False)
        self.moving_variance = Parameter(ops.ones((channels,), ms.float32), name="moving_variance", requires_grad=False)
        self.frozen = frozen
        self.epsilon = epsilon
        self.batch_norm = ops.BatchNorm(is_training=True, epsilon=epsilon, momentum=MOMENTUM)
        self.constant_norm = ops.BatchNorm(is_training=False, epsilon=max(epsilon, LEAST_EPSILON))
        self.ranks = rank().of
        if self.ranks > 1:
            self.all_reduce = ops.AllReduce()

    def scale(self) -> Tensor:
        """Return the factor (C,) of the frozen norm."""
        return self.gamma * p.rsqrt(self.moving_variance + self.epsilon)

    def construct(self, x: Tensor) -> Tensor:
        """Normalise by the statistics of the batch, and move the running ones a tenth towards them; in inference by the running ones."""
        if self.training and self.ranks > 1:
            return self.over_ranks(x)
        if self.training:
            return self.batch_norm(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]
        return self.constant_norm(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]

    def over_ranks(self, x: Tensor) -> Tensor:
        """Normalise and move as `batch_norm` does, by the statistics of the images of all ranks; gradients reach all of them too."""
        wide = p.cast(x, ms.float32)
        count = self.ranks * x.size / x.shape[1]
        mean = self.all_reduce(p.total(wide, (0, 2, 3))) / count
        centred = wide - p.reshape(mean, (1, -1, 1, 1))
        variance = self.all_reduce(p.total(centred * centred, (0, 2, 3))) / count
        scale = self.gamma * p.rsqrt(variance + self.epsilon)
        y = centred * p.reshape(scale, (1, -1, 1, 1)) + p.reshape(self.beta, (1, -1, 1, 1))
        moved = ops.assign(self.moving_mean, self.moving_mean * (1 - MOMENTUM) + ops.stop_gradient(mean) * MOMENTUM)
        unbiased = ops.stop_gradient(variance) * (count / (count - 1))
        moved = (moved, ops.assign(self.moving_variance, self.moving_variance * (1 - MOMENTUM) + unbiased * MOMENTUM))
        return p.cast(ops.depend(y, moved), x.dtype)


class Conv(nn.Cell):
    """Convolution without bias, padded by `dilation * (kernel - 1) / 2` (or `kernel // 2`) on every side."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> None:
        super().__init__()
        shape = (outputs, inputs // groups, kernel, kernel)
        self.weight = Parameter(initializer(HeNormal(mode="fan_out", nonlinearity="relu"), shape, ms.float32), name="weight")
        pad = dilation * (kernel // 2)
        self.conv = ops.Conv2D(outputs, kernel, pad_mode="pad", pad=pad, stride=stride, dilation=dilation, group=groups)

    def construct(self, x: Tensor, scale: Tensor) -> Tensor:
        """Convolve x (B, C, H, W) with the weights times `scale` (C',)."""
        return self.conv(x, self.weight * p.reshape(scale, (-1, 1, 1, 1)))

    def plain(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, H, W)."""
        return self.conv(x, self.weight)


class ConvNorm(nn.Cell):
    """Convolution and its norm; in training a frozen norm is folded into the weights, which is faster than its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.bias_add = ops.BiasAdd()

    def apply_norm(self, conv: Conv, norm: Norm, x: Tensor) -> Tensor:
        """Return norm(conv(x))."""
        if self.training and norm.frozen:
            scale = norm.scale()
            return self.bias_add(conv(x, scale), norm.beta - norm.moving_mean * scale)
        return norm(conv.plain(x))


class Shortcut(ConvNorm):
    """1x1 projection with norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, epsilon: float, frozen: bool, gamma: float = 1.0) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, 1, stride)
        self.bn = Norm(outputs, epsilon, frozen, gamma)

    def construct(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/stride, W/stride)."""
        return self.apply_norm(self.conv, self.bn, x)


class ResidualBlock(ConvNorm):
    """One block: BasicBlock (two 3x3) or Bottleneck / ResNeXt (1x1, 3x3 in groups, 1x1); ReLU after the sum."""

    def __init__(self, block: architecture.Block, kind: architecture.BlockType, epsilon: float, frozen: bool) -> None:
        super().__init__()
        inputs, inner, out = block.in_channels, block.inner_channels, block.out_channels
        self.basic = kind.text == "b"
        if self.basic:
            self.conv1, self.bn1 = Conv(inputs, inner, 3, block.stride), Norm(inner, epsilon, frozen)
            self.conv2, self.bn2 = Conv(inner, out, 3), Norm(out, epsilon, frozen)
        else:
            self.conv1, self.bn1 = Conv(inputs, inner, 1), Norm(inner, epsilon, frozen)
            self.conv2, self.bn2 = Conv(inner, inner, 3, block.stride, kind.groups), Norm(inner, epsilon, frozen)
            self.conv3, self.bn3 = Conv(inner, out, 1), Norm(out, epsilon, frozen)
        self.projection = block.projection
        if block.projection:
            self.shortcut = Shortcut(inputs, out, block.stride, epsilon, frozen)

    def construct(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/stride, W/stride)."""
        y = p.relu(self.apply_norm(self.conv1, self.bn1, x))
        y = self.apply_norm(self.conv2, self.bn2, y)
        if not self.basic:
            y = self.apply_norm(self.conv3, self.bn3, p.relu(y))
        if self.projection:
            x = self.shortcut(x)
        return p.relu(x + y)


class StemCell(ConvNorm):
    """Image (B, 3, H, W) to (B, width, H/4, W/4): 7x7 stride 2 and max-pool, or two 3x3 stride 2 (after a reignition)."""

    def __init__(self, width: int, kind: str, epsilon: float, frozen: bool) -> None:
        super().__init__()
        self.large = kind == "7x7"
        if self.large:
            self.conv, self.bn = Conv(3, width, 7, 2), Norm(width, epsilon, frozen)
        else:
            self.conv1, self.bn1 = Conv(3, width // 2, 3, 2), Norm(width // 2, epsilon, frozen)
            self.conv2, self.bn2 = Conv(width // 2, width, 3, 2), Norm(width, epsilon, frozen)
        self.pool = nn.MaxPool2d(3, 2, pad_mode="valid")

    def construct(self, x: Tensor) -> Tensor:
        """Run the stem; the pool pads with zeros, which after a ReLU equals padding with -inf."""
        if self.large:
            return self.pool(pad_one(p.relu(self.apply_norm(self.conv, self.bn, x))))
        return p.relu(self.apply_norm(self.conv2, self.bn2, p.relu(self.apply_norm(self.conv1, self.bn1, x))))


def pad_one(x: Tensor) -> Tensor:
    """Add the border of zeros that a 3x3 stride-2 window reads of (B, C, H, W): above and left, and below and right of an odd side."""
    batch, channels, height, width = x.shape
    row, column = ops.zeros((batch, channels, 1, width), x.dtype), ops.zeros((batch, channels, height + 1 + height % 2, 1), x.dtype)
    x = ops.Concat(2)((row, x, row) if height % 2 else (row, x))
    return ops.Concat(3)((column, x, column) if width % 2 else (column, x))
