"""The convolution with a gradient of its own, in float16 inside of a net in float32."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from spnas_core.models.convolution import BiasedConv3x3


class Total(nn.Cell):
    """Sum of what a cell gives, in float32, times a factor."""

    def __init__(self, cell: nn.Cell, factor: Tensor) -> None:
        super().__init__()
        self.cell, self.factor = cell, factor

    def construct(self, x: Tensor) -> Tensor:
        return (self.cell(x).astype(ms.float32) * self.factor).sum()


@pytest.mark.parametrize("side", [3, 8])
def test_weights_learn_in_float32_from_a_convolution_in_float16(side: int) -> None:
    """On both of its ways; gradients are float32, and those of the same convolution in float32 up to rounding."""
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(0)
    x, weight, factor = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 4, side, side), (6, 4, 3, 3), (2, 6, side, side)))
    found = []
    for half in (False, True):
        cell = BiasedConv3x3(4, 6, Tensor(weight))
        if half:
            cell.to_float(ms.float16)
        total = Total(cell, Tensor(factor))
        found.append([*ms.value_and_grad(total, None, total.trainable_params())(Tensor(x))[1]])
    assert len(found[0]) == 2  # weights and bias
    for single, rounded in zip(*found, strict=True):
        assert single.dtype == rounded.dtype == ms.float32
        single, rounded = single.asnumpy(), rounded.asnumpy()
        assert np.linalg.norm(single - rounded) < 0.002 * np.linalg.norm(single)
        assert (single != rounded).any()
