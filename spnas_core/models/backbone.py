"""Serial/parallel residual backbone of any number of stages.

Shape shorthand: B images, C channels, H and W rows and columns at the stride of a stage.
Sources: SP-NAS, CVPR 2020, section 3 and the authors' release (parallel structure); torchvision `models/resnet.py` (blocks).
"""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeNormal, initializer

from spnas_core import arch as architecture
from spnas_core.arch import Arch


class Norm(nn.Cell):
    """Batch norm (B, C, H, W): trained, or frozen; keeps the four tensors under MindSpore's names."""

    def __init__(self, channels: int, epsilon: float, frozen: bool, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = Parameter(ops.full((channels,), gamma, dtype=ms.float32), name="gamma", requires_grad=not frozen)
        self.beta = Parameter(ops.zeros((channels,), ms.float32), name="beta", requires_grad=not frozen)
        self.moving_mean = Parameter(ops.zeros((channels,), ms.float32), name="moving_mean", requires_grad=False)
        self.moving_variance = Parameter(ops.ones((channels,), ms.float32), name="moving_variance", requires_grad=False)
        self.frozen = frozen
        self.epsilon = epsilon
        self.batch_norm = ops.BatchNorm(is_training=True, epsilon=epsilon, momentum=0.1)

    def scale(self) -> Tensor:
        """Return the factor (C,) of the frozen norm."""
        return self.gamma * ops.rsqrt(self.moving_variance + self.epsilon)

    def construct(self, x: Tensor) -> Tensor:
        """Normalise with the statistics of the batch, and move the running ones a tenth towards them."""
        return self.batch_norm(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]


class Conv(nn.Cell):
    """Convolution without bias, padded by `(kernel - 1) / 2` (or `kernel // 2`) on every side."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        shape = (outputs, inputs // groups, kernel, kernel)
        self.weight = Parameter(initializer(HeNormal(mode="fan_out", nonlinearity="relu"), shape, ms.float32), name="weight")
        self.conv = ops.Conv2D(outputs, kernel, pad_mode="pad", pad=kernel // 2, stride=stride, group=groups)

    def construct(self, x: Tensor, scale: Tensor) -> Tensor:
        """Convolve x (B, C, H, W) with the weights times `scale` (C',)."""
        return self.conv(x, self.weight * scale.reshape(-1, 1, 1, 1))

    def plain(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, H, W)."""
        return self.conv(x, self.weight)


class ConvNorm(nn.Cell):
    """Run a convolution and its norm; where the norm is constant, it is folded into the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.bias_add = ops.BiasAdd()

    def apply_norm(self, conv: Conv, norm: Norm, x: Tensor) -> Tensor:
        """Return norm(conv(x))."""
        if self.training and not norm.frozen:
            return norm(conv.plain(x))
        scale = norm.scale()
        return self.bias_add(conv(x, scale), norm.beta - norm.moving_mean * scale)


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
            self.conv1, self.bn1 = Conv(inputs, out, 3, block.stride), Norm(out, epsilon, frozen)
            self.conv2, self.bn2 = Conv(out, out, 3), Norm(out, epsilon, frozen)
        else:
            self.conv1, self.bn1 = Conv(inputs, inner, 1), Norm(inner, epsilon, frozen)
            self.conv2, self.bn2 = Conv(inner, inner, 3, block.stride, kind.groups), Norm(inner, epsilon, frozen)
            self.conv3, self.bn3 = Conv(inner, out, 1), Norm(out, epsilon, frozen)
        self.projection = block.projection
        if block.projection:
            self.shortcut = Shortcut(inputs, out, block.stride, epsilon, frozen)

    def construct(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/stride, W/stride)."""
        y = ops.relu(self.apply_norm(self.conv1, self.bn1, x))
        y = self.apply_norm(self.conv2, self.bn2, y)
        if not self.basic:
            y = self.apply_norm(self.conv3, self.bn3, ops.relu(y))
        if self.projection:
            x = self.shortcut(x)
        return ops.relu(x + y)


class Stem(ConvNorm):
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
            return self.pool(pad_one(ops.relu(self.apply_norm(self.conv, self.bn, x))))
        return ops.relu(self.apply_norm(self.conv2, self.bn2, ops.relu(self.apply_norm(self.conv1, self.bn1, x))))


def pad_one(x: Tensor) -> Tensor:
    """Add the border of zeros that a 3x3 stride-2 window reads of (B, C, H, W): above and left, and below and right of an odd side."""
    for axis in (2, 3):
        border = ops.zeros_like(x[:, :, :1] if axis == 2 else x[:, :, :, :1])
        x = ops.concat((border, x, border) if x.shape[axis] % 2 else (border, x), axis)
    return x


def upsample(x: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour doubling of (B, C, h, w), cut to (B, C, height, width)."""
    b, c, h, w = x.shape
    if (h, w) == (height, width):
        return x
    x = ops.broadcast_to(x.reshape(b, c, h, 1, w, 1), (b, c, h, 2, w, 2)).reshape(b, c, 2 * h, 2 * w)
    if (2 * h, 2 * w) == (height, width):
        return x
    return x[:, :, :height, :width]


class Backbone(nn.Cell):
    """Serial stages with parallel copies beside them; gives one tensor (B, C_l, H_l, W_l) per stage, as `arch.levels` says.

    Copy k of stage l takes copy k of stage l-1 (or the last there is, or the stage's own input); copies chain from the last to the first
    and into the main stage through 1x1 connections, upsampled to the stage's input.
    """

    def __init__(self, arch: Arch, width: int, stem: str, epsilon: float, frozen: bool, share_weights: bool) -> None:
        super().__init__()
        plan = architecture.blocks(arch, width)
        self.stem = Stem(width, stem, epsilon, frozen)
        self.blocks = nn.CellList([ResidualBlock(block, arch.block_type, epsilon, frozen) for block in plan])
        stages = [[block for block in plan if block.stage == stage] for stage in range(len(arch.stages))]
        self.ranges = tuple((members[0].index, members[-1].index + 1) for members in stages)
        self.parallel = arch.parallel
        self.share_weights = share_weights
        if any(arch.parallel):
            pairs = list(zip(stages, arch.parallel, strict=True))
            self.connect = nn.CellList(
                [
                    nn.CellList(
                        [
                            Shortcut(members[-1].out_channels, members[0].in_channels, 1, epsilon, frozen, gamma=0.0)
                            for _ in range(min(copies, 1) if share_weights else copies)
                        ]
                    )
                    for members, copies in pairs
                ]
            )
            if not share_weights:
                self.copies = nn.CellList(
                    [
                        nn.CellList(
                            [
                                nn.CellList([ResidualBlock(block, arch.block_type, epsilon, frozen) for block in members])
                                for _ in range(copies)
                            ]
                        )
                        for members, copies in pairs
                    ]
                )

    def stage(self, level: int, x: Tensor) -> Tensor:
        """Run the main blocks of one stage."""
        first, last = self.ranges[level]
        for index in range(first, last):
            x = self.blocks[index](x)
        return x

    def copy(self, level: int, number: int, x: Tensor) -> Tensor:
        """Run copy `number` of one stage."""
        if self.share_weights:
            return self.stage(level, x)
        for block in self.copies[level][number]:
            x = block(x)
        return x

    def construct(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, 3, H, W) to the stages' outputs."""
        x = self.stem(image)
        outputs, previous = (), ()
        for level in range(len(self.ranges)):
            height, width = x.shape[2:]
            following = self.parallel[level + 1] if level + 1 < len(self.parallel) else 0
            kept, carry = (), None
            for number in range(self.parallel[level] - 1, -1, -1):
                z = previous[min(number, len(previous) - 1)] if previous else x
                z = self.copy(level, number, z if carry is None else z + carry)
                if number < following:
                    kept = (z, *kept)
                carry = upsample(self.connect[level][0 if self.share_weights else number](z), height, width)
            x = self.stage(level, x if carry is None else x + carry)
            previous = kept
            outputs = (*outputs, x)
        return outputs
