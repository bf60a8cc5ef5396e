"""One compiled SGD step of any net that has `losses`, and the weights of a net as arrays."""

from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
from mindspore import Tensor, nn, ops

from spnas_core.models import primitives as p
from spnas_core.models.ranks import rank

ZEROS = "zeros."  # begin of the names of tensors that stay 0: no weights

_scaled = ops.MultitypeFuncGraph("scaled")
_updated = ops.MultitypeFuncGraph("updated")


@_scaled.register("Tensor", "Tensor")  # type: ignore[untyped-decorator]
def _scale(factor: Tensor, gradient: Tensor) -> Tensor:
    return gradient * factor


@_updated.register("Tensor", "Tensor", "Function", "Tensor", "Tensor", "Tensor", "Tensor")  # type: ignore[untyped-decorator]
def _update(lr: Tensor, momentum: Tensor, update: Any, weight: Tensor, gradient: Tensor, velocity: Tensor, zeros: Tensor) -> Tensor:
    return update(weight, gradient, lr, velocity, momentum, zeros)


class TrainStep(nn.Cell):
    """Forward, backward and SGD with momentum in one graph; the learning rate is an input, so the schedule stays a function of the step.

    `net.losses(*batch)` gives a vector whose sum is minimised; `decay` is the weight decay of each trained parameter, in order.
    `ops.SGD` takes decay, momentum and update in one operator; its input `stat`, 0 for a weight that has a momentum, stays 0 here.
    Only parameters with `requires_grad` are trained. `loss_scale` keeps the gradients of a net in float16 from vanishing on their way.

    On several ranks losses and gradients are summed over them: a net gives each its share of the losses of the whole batch, so the step is
    that of one process with the whole batch, and all have the same weights after it.
    """

    def __init__(self, net: nn.Cell, momentum: float, decay: tuple[float, ...], clip_norm: float | None, loss_scale: float = 1.0) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.weights = ms.ParameterTuple(net.trainable_params())
        self.velocity = self.weights.clone(prefix="velocity", init="zeros")
        shapes = dict.fromkeys(weight.shape for weight in self.weights)
        self.zeros = ms.ParameterTuple(
            ms.Parameter(ops.zeros(shape, ms.float32), name=f"{ZEROS}{number}", requires_grad=False) for number, shape in enumerate(shapes)
        )
        by_shape = dict(zip(shapes, self.zeros, strict=True))
        self.zeros_of = tuple(by_shape[weight.shape] for weight in self.weights)
        self.momentum = Tensor(momentum, ms.float32)
        self.updates = tuple(ops.SGD(weight_decay=float(one)) for one in decay)
        self.clip_norm = clip_norm
        self.loss_scale = loss_scale
        self.unscale = Tensor(1.0 / loss_scale, ms.float32)
        self.half_square = ops.L2Loss()
        self.ranks = rank().of
        if self.ranks > 1:
            self.all_reduce = ops.AllReduce()
            self.reduce_gradients = nn.DistributedGradReducer(list(self.weights), mean=False, degree=self.ranks)
        self.gradient = ms.value_and_grad(self.total, None, self.weights, has_aux=True)

    def total(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses times the scale, and the losses."""
        losses = self.net.losses(*batch)
        return losses.sum() * self.loss_scale, losses

    def construct(self, lr: Tensor, *batch: Tensor) -> Tensor:
        """Take one step at learning rate `lr` (scalar); returns the losses before it."""
        (_, losses), gradients = self.gradient(*batch)
        if self.ranks > 1:
            losses = self.all_reduce(losses)
            gradients = self.reduce_gradients(gradients)
        if self.loss_scale != 1.0:
            gradients = p.each(ops.partial(_scaled, self.unscale), gradients)
        if self.clip_norm is not None:
            half_square = ops.addn(p.each(self.half_square, gradients))
            factor = p.minimum(self.clip_norm / (p.sqrt(2 * half_square) + 1e-6), 1.0)
            gradients = p.each(ops.partial(_scaled, factor), gradients)
        update = ops.partial(_updated, lr, self.momentum)
        return ops.depend(losses, p.each(update, self.updates, self.weights, gradients, self.velocity, self.zeros_of))


def get_weights(net: nn.Cell) -> dict[str, npt.NDArray[np.float32]]:
    """All parameters of a net, by name, statistics of norms included."""
    return {parameter.name: parameter.asnumpy().copy() for parameter in _parameters(net)}


def set_weights(net: nn.Cell, weights: dict[str, npt.NDArray[np.float32]]) -> None:
    """Put arrays into the parameters of a net; names and shapes must be those of the net (KeyError, ValueError)."""
    for parameter in _parameters(net):
        value = weights[parameter.name]
        if value.shape != parameter.shape:
            raise ValueError(f"{parameter.name}: expected shape {parameter.shape}, got {value.shape}")
        parameter.set_data(Tensor(value))


def _parameters(net: nn.Cell) -> list[ms.Parameter]:
    return [parameter for parameter in net.get_parameters() if not parameter.name.startswith(ZEROS)]
