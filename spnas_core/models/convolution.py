"""3x3 convolution of stride 1 with a faster gradient of its input."""

from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer
from mindspore.ops.operations._grad_ops import Conv2DBackpropFilter

from spnas_core.models import primitives as p

CELLS_PER_CHANNEL = 4  # least H * W of an output, per channel, at which a convolution beats the operator for the gradient


class Convolve3x3(nn.Cell):
    """Convolve (B, C, H, W), padded by one, with weights (C', C, 3, 3).

    On the CPU the operator for the gradient of the input (`Conv2DBackpropInput`) takes about twice as long as a convolution, which does the
    same at stride 1: the gradient of the output, convolved with the weights turned by 180 degrees and their channels exchanged.
    Turning the weights costs too, so on small maps with many channels the operator stays.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shape = (outputs, inputs)
        self.forward = ops.Conv2D(outputs, 3, pad_mode="pad", pad=1)
        self.backward = ops.Conv2D(inputs, 3, pad_mode="pad", pad=1)
        self.reverse = ops.ReverseV2([2])
        self.by_input = ops.operations.Conv2DBackpropInput(outputs, (3, 3), "pad", (1, 1, 1, 1))
        self.by_weight = Conv2DBackpropFilter(outputs, (3, 3), "pad", (1, 1, 1, 1), (1, 1, 1, 1))

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        return self.forward(x, weight)

    def bprop(self, x: Tensor, weight: Tensor, out: Any, dout: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and of the weights."""
        outputs, inputs = self.shape
        by_weight = self.by_weight(dout, x, weight.shape)
        if dout.shape[2] * dout.shape[3] < CELLS_PER_CHANNEL * outputs:
            return self.by_input(dout, weight, x.shape), by_weight
        turned = p.transpose(self.reverse(p.reshape(weight, (outputs, inputs, 9))), (1, 0, 2))
        return self.backward(dout, p.reshape(turned, (inputs, outputs, 3, 3))), by_weight


class BiasedConv3x3(nn.Conv2d):
    """`nn.Conv2d` with bias, a 3x3 kernel and stride 1, by `Convolve3x3`."""

    def __init__(self, inputs: int, outputs: int, weight_init: Any, bias_init: Any = None) -> None:
        super().__init__(inputs, outputs, 3, pad_mode="pad", padding=1, has_bias=True, weight_init=weight_init, bias_init=bias_init)
        self.convolve = Convolve3x3(inputs, outputs)

    def construct(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W); weights in the precision of x, since a gradient of one's own is not cast back to theirs."""
        return self.bias_add(self.convolve(x, p.cast(self.weight, x.dtype)), self.bias)


class PlainConv3x3(nn.Cell):
    """3x3 convolution of stride 1 without bias, by `Convolve3x3`."""

    def __init__(self, inputs: int, outputs: int, weight_init: Any = "xavier_uniform") -> None:
        super().__init__()
        self.weight = Parameter(initializer(weight_init, (outputs, inputs, 3, 3), ms.float32), name="weight")
        self.convolve = Convolve3x3(inputs, outputs)

    def construct(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W); see `BiasedConv3x3` for the cast."""
        return self.convolve(x, p.cast(self.weight, x.dtype))
