"""Pooling of regions against a slow RoIAlign in numpy, and its gradient."""

import math

import mindspore as ms
import numpy as np
import numpy.typing as npt
import pytest
from mindspore import Tensor, nn

from spnas_core.models import pooling

pytestmark = pytest.mark.training
Floats = npt.NDArray[np.float32]
STRIDES, SIZES, CANONICAL = (4, 8, 16), ((25, 19), (13, 10), (7, 5)), 56.0
SIDES = tuple(CANONICAL * 4 / 7 * 2.0**level for level in (-2, -1, 0))


class Pool(nn.Cell):
    """Pooled features of regions, and the gradient of their product with `dout` for every map."""

    def __init__(self) -> None:
        super().__init__()
        self.pooling = pooling.RegionPooling(SIZES, STRIDES, SIDES)
        self.gradient = ms.grad(self.pool, (1, 2, 3))

    def features(self, regions: Tensor, *maps: Tensor) -> Tensor:
        extra = maps[-1][:, :, ::2, ::2]  # the pyramid's pooled level, from which no region is pooled
        return self.pooling((*maps, extra), regions)

    def pool(self, regions: Tensor, first: Tensor, second: Tensor, third: Tensor, dout: Tensor) -> Tensor:
        return (self.features(regions, first, second, third) * dout).sum()

    def construct(self, regions: Tensor, first: Tensor, second: Tensor, third: Tensor, dout: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.features(regions, first, second, third), self.gradient(regions, first, second, third, dout)


def bilinear(image: Floats, y: float, x: float) -> Floats:
    """Value (C,) of a map (C, H, W) at a point, as torchvision's kernel has it."""
    _, height, width = image.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(len(image), np.float32)
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = math.floor(y), math.floor(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = image[:, y0, x0] * (1 - x + x0) + image[:, y0, x1] * (x - x0)
    low = image[:, y1, x0] * (1 - x + x0) + image[:, y1, x1] * (x - x0)
    return np.asarray(top * (1 - y + y0) + low * (y - y0), np.float32)


def slow_pool(maps: list[Floats], regions: Floats) -> Floats:
    """RoIAlign (B, R, C, 7, 7), 2 x 2 points per bin, each region on its level."""
    batch, count = regions.shape[:2]
    found = np.zeros((batch, count, maps[0].shape[1], 7, 7), np.float32)
    for b in range(batch):
        for r, (x1, y1, x2, y2) in enumerate(regions[b].astype(float)):
            size = max(math.sqrt((x2 - x1) * (y2 - y1)), 1e-6)
            level = min(max(math.floor(4 + math.log2(size / CANONICAL) + 1e-6), 2), 4) - 2
            stride = STRIDES[level]
            high, wide = max((y2 - y1) / stride, 1) / 7, max((x2 - x1) / stride, 1) / 7
            for i in range(7):
                for j in range(7):
                    points = [(y1 / stride + (i + v) * high, x1 / stride + (j + u) * wide) for v in (0.25, 0.75) for u in (0.25, 0.75)]
                    found[b, r, :, i, j] = np.mean([bilinear(maps[level][b], y, x) for y, x in points], axis=0)
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("part_bytes", [1 << 30, 100_000])
def test_pooling_and_its_gradient(monkeypatch: pytest.MonkeyPatch, part_bytes: int, training: bool) -> None:
    monkeypatch.setattr(pooling, "PART_BYTES" if training else "CACHE_BYTES", part_bytes)
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(0)
    maps, other = ([rng.standard_normal((2, 3, *size)).astype(np.float32) for size in SIZES] for _ in range(2))
    centre, side = rng.random((2, 20, 2)) * [76, 100], np.exp(rng.normal(3.2, 0.9, (2, 20, 2)))
    regions = np.clip(np.concatenate((centre - side / 2, centre + side / 2), -1), 0, [76, 100, 76, 100]).astype(np.float32)
    regions[0, :4] = [[0, 0, 76, 100], [30, 30, 30, 30], [75.9, 99.9, 76, 100], [0, 50, 76, 52]]
    dout = rng.standard_normal((40, 3 * 49)).astype(np.float32)
    assert (part_bytes > 100_000) == (pooling.part_size(40, 3, training) == 40)

    pooled, gradients = Pool().set_train(training)(*map(Tensor, (regions, *maps, dout)))
    expected = slow_pool(maps, regions)
    levels = {int(level) for level in np.floor(np.log2(np.maximum(np.sqrt(side.prod(-1)), 1e-6) / CANONICAL)).clip(-2, 0).ravel()}
    assert levels == {-2, -1, 0}
    np.testing.assert_allclose(pooled.asnumpy().reshape(expected.shape), expected, atol=2e-5)
    # pooling is linear, so its gradient is the transposed map: <pool(x), d> == <x, gradient(d)> for any x
    left = float((slow_pool(other, regions).reshape(40, -1) * dout).sum())
    right = sum(float((x * gradient.asnumpy()).sum()) for x, gradient in zip(other, gradients, strict=True))
    assert left == pytest.approx(right, rel=1e-3)
