"""What holds for every neck of cells: widths that change, and checkpoints with another neck."""

from itertools import permutations
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from cell_necks import SMALL, weights_of
from mindspore import Tensor
from test_nas_fcos import ALL

from spnas_core.arch import parse
from spnas_core.models.build import build
from spnas_core.models.step import get_weights, set_weights
from spnas_core.settings.detector import Detector
from spnas_core.weights import adopt, inherit


@pytest.mark.training
@pytest.mark.parametrize("neck", [{"kind": "nas_fpn", "stacks": 2}, {"kind": "nas_fcos", "cells": ALL}])
def test_a_wider_neck_computes_the_same_and_a_narrower_one_loses(neck: dict[str, Any]) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    arch = parse("b_1111-2111-1")
    image = Tensor(np.random.default_rng(0).standard_normal((1, 3, 72, 100)).astype(np.float32))
    necks = {channels: Detector(**SMALL, neck={**neck, "channels": channels}) for channels in (4, 6, 9)}
    nets = {channels: build(arch, detector, 3).set_train(False) for channels, detector in necks.items()}
    weights = get_weights(nets[6])
    for name, array in weights.items():
        if name.endswith((".gamma", ".beta", ".moving_mean", ".factor")):
            array += np.random.default_rng(1).standard_normal(array.shape).astype(np.float32) * 0.1
    set_weights(nets[6], weights)
    for channels in (4, 9):
        found, audit = inherit.inherit(arch, arch, weights, get_weights(nets[channels]), base_width=4)
        set_weights(nets[channels], found)
        assert (audit.new, bool(audit.narrowed)) == ((), channels == 4)
    for wide, own in zip(nets[9].features(image), nets[6].features(image), strict=True):
        np.testing.assert_allclose(wide.asnumpy()[:, :6], own.asnumpy(), atol=1e-4)
        np.testing.assert_allclose(wide.asnumpy()[:, 6:], own.asnumpy()[:, :3], atol=1e-4)


NECKS = ({"kind": "fpn", "channels": 6}, {"kind": "nas_fpn", "channels": 6, "stacks": 1}, {"kind": "nas_fcos", "channels": 6})


@pytest.mark.parametrize(("ours", "theirs"), list(permutations(NECKS, 2)))
def test_a_checkpoint_with_another_neck_gives_all_but_the_neck(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """As torchvision's Faster R-CNN with its pyramid does."""
    fresh, weights = weights_of("b_1111-2111", ours, 0), weights_of("b_1111-2111", theirs, 1)
    found, audit = adopt.adopt(fresh, weights)
    assert set(audit.new) == {name for name in fresh if name.startswith("neck.")}
    assert set(audit.dropped) == {name for name in weights if name.startswith("neck.")}
    np.testing.assert_array_equal(found["rpn.conv.weight"], weights["rpn.conv.weight"])
    _, audit = inherit.inherit(parse("b_1111-2111"), parse("b_1111-2111"), weights, fresh, base_width=4)
    assert set(audit.new) == {name for name in fresh if name.startswith("neck.")}
