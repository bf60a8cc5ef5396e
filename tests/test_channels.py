"""Widths of inherited weights: wider nets compute the same, narrower ones keep what matters, and nothing is lost without a word."""

from dataclasses import replace
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor
from test_arch import archs

from spnas_core.arch import Arch, blocks, parse
from spnas_core.models.build import build
from spnas_core.models.step import set_weights
from spnas_core.search.mutation import expand, remove_block
from spnas_core.settings.detector import Detector
from spnas_core.weights.channels import fit_widths
from spnas_core.weights.inherit import inherit
from spnas_core.weights.lineage import lineage
from spnas_core.weights.net_shapes import net_shapes

TINY: dict[str, Any] = {
    "image_size": (64, 64), "base_width": 8, "fpn_channels": 8, "head_channels": 16, "anchor_scale": 4, "rpn_batch": 16,
    "proposals_train": 20, "proposals_test": 10, "roi_batch": 8, "max_boxes": 8, "detections": 10, "score_threshold": 0.0,
}  # fmt: skip


def made(arch: Arch, detector: Detector, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a net drawn by chance: positive gammas and variances, as after a training."""
    rng, found = np.random.default_rng(seed), {}
    for name, shape in net_shapes(arch, detector, 3).items():
        values = rng.normal(0, 1, shape) / max(1.0, np.prod(shape[1:])) ** 0.5
        if name.endswith((".gamma", ".moving_variance")):
            values = rng.uniform(0.5, 1.5, shape)
        found[name] = values.astype(np.float32)
    return found


def detected(arch: Arch, detector: Detector, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Maps of the pyramid and detections of two images."""
    net = build(arch, detector, 3)
    set_weights(net, weights)
    net.set_train(False)
    height, width = detector.image_size
    images = Tensor(np.random.default_rng(5).normal(size=(2, 3, height, width)).astype(np.float32))
    maps = net.features(images)
    boxes, scores, _ = net(images, Tensor(np.full((2, 2), height, np.float32)))
    return [one.asnumpy() for one in (*maps, boxes, scores)]


@pytest.mark.training
@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("b_11-21-21-21_0-0-0-0", {}),
        ("b_11-21-21-21_1-0-2-0", {"stem": "3x3"}),
        ("b_11-21-21-21_1-0-2-0", {"share_weights": False}),
        ("r_11-21-21-21_0-1-0-0", {"cascade": True}),
        ("x(4x16d)_11-21-21-21_0-0-1-0", {"share_weights": False, "stem": "3x3"}),
        ("b_11-21-21-21_0-0-0-0_8-4-6-8", {}),
    ],
)
def test_a_wider_net_computes_the_same(text: str, more: dict[str, Any]) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    detector = Detector(**{**TINY, **more})
    arch = parse(text)
    before = detected(arch, detector, weights := made(arch, detector))
    inner = tuple(min(16, one * 2) for one in (arch.inner or (8, 8, 8, 8)))
    for width, child, neck in ((20, arch, 8), (8, replace(arch, inner=inner), 12)):
        wider = detector.model_copy(update={"base_width": width, "fpn_channels": neck})
        found, audit = inherit(arch, child, weights, made(child, wider, 1))
        assert audit.new == audit.dropped == ()
        assert audit.resized
        assert not audit.narrowed
        assert {name: array.shape for name, array in found.items()} == net_shapes(child, wider, 3)
        for ours, theirs in zip(detected(child, wider, found), before, strict=True):
            first = ours[:, : theirs.shape[1]]  # of a wider pyramid
            np.testing.assert_allclose(first, theirs, atol=(1e-4 if theirs.ndim == 4 else 1e-3) * theirs.std(), rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    archs(max_blocks=10, widths=True, doubles=3),
    st.sampled_from([4, 8, 12, 16]),
    st.sampled_from([8, 16]),
    st.integers(1, 16),
)
def test_any_width_fits_any_other(arch: Arch, width: int, channels: int, eighths: int) -> None:
    before = Detector(**{**TINY, "base_width": 16, "fpn_channels": 12})
    after = before.model_copy(update={"base_width": width, "fpn_channels": channels})
    if arch.block_type.text == "x(32x4d)" and width < 16:
        return  # it has no channel for each group
    child = replace(arch, inner=(eighths,) * len(arch.stages))
    weights = made(arch, before)
    found, audit = inherit(arch, child, weights, made(child, after, 1))
    assert {name: array.shape for name, array in found.items()} == net_shapes(child, after, 3)
    assert audit.new == audit.dropped == ()
    lost = sum(max(0, weights[name].size - found[name].size) for name in found if not name.endswith((".moving_mean", ".moving_variance")))
    assert (sum(audit.narrowed.values()) > 0) >= (lost > 0)
    assert audit.dropped_params == sum(audit.narrowed.values())


def test_a_narrower_net_keeps_the_channels_that_matter() -> None:
    arch, detector = parse("b_11-21-21-21"), Detector(**TINY)
    weights = made(arch, detector)
    name = "backbone.blocks.4.bn1.gamma"  # the inside of the fifth block, 32 channels
    weights[name][:] = 1e-3
    weights[name][3::2] = 1.0
    child = replace(arch, inner=(8, 8, 4, 8))
    found, changed, lost = fit_widths(arch, child, weights, made(child, detector, 1), 8)
    kept = np.flatnonzero(
        (found["backbone.blocks.4.conv1.weight"][:, None] == weights["backbone.blocks.4.conv1.weight"]).all((2, 3, 4)).any(0)
    )
    assert set(kept) <= set(range(len(weights[name])))
    assert set(range(3, len(weights[name]), 2)) <= set(kept)
    assert set(lost) == {"inner width"}
    assert {one.split(".")[2] for one in changed} == {"4", "5"}
    parts = [block for block in blocks(arch, 8) if block.stage == 2]
    assert lost["inner width"] == sum(b.inner_channels // 2 * (9 * (b.in_channels + b.out_channels) + 2) for b in parts)


def test_copies_of_a_channel_have_unequal_shares() -> None:
    """Else their gradients were equal for ever."""
    arch, detector = parse("b_11-21-21-21"), Detector(**TINY)
    child = replace(arch, inner=(8, 8, 16, 8))
    found, _, _ = fit_widths(arch, child, made(arch, detector), made(child, detector, 1), 8)
    readers = found["backbone.blocks.4.conv2.weight"]
    half = readers.shape[1] // 2
    np.testing.assert_allclose(readers[:, half:], readers[:, :half] * 1.5, rtol=1e-5)


@given(archs(max_blocks=14, parallel=False), st.integers(0, 1000))
def test_a_net_with_fewer_blocks_has_an_ancestor_for_each(arch: Arch, seed: int) -> None:
    rng, child = np.random.default_rng(seed), arch
    for _ in range(3):
        places = [
            (n, k) for n, stage in enumerate(child.stages) for k, digit in enumerate(stage) if digit == "1" and len(stage) > 1 and (n or k)
        ]
        if places:
            n, k = places[int(rng.integers(len(places)))]
            child = replace(child, stages=(*child.stages[:n], child.stages[n][:k] + child.stages[n][k + 1 :], *child.stages[n + 1 :]))
    line = lineage(arch, child)
    assert None not in line
    assert list(line) == sorted(set(line))
    ours, theirs = blocks(arch), blocks(child)
    assert all(ours[source].out_channels == block.out_channels for source, block in zip(line, theirs, strict=True) if source is not None)


@given(archs(max_blocks=14, parallel=False), st.integers(0, 1000))
def test_a_block_lost_at_one_place_and_a_new_one_at_another_leave_the_others_as_they_are(arch: Arch, seed: int) -> None:
    """Without `leaves_out` all blocks between would take the place of their neighbours, over a `2` with other channels."""
    rng = np.random.default_rng(seed)
    child = expand(remove_block(arch, rng), rng)
    line = lineage(arch, child, leaves_out=True)
    ours, theirs = blocks(arch), blocks(child)
    pairs = [(ours[source], block) for source, block in zip(line, theirs, strict=True) if source is not None]
    assert [a.index for a, _ in pairs] == sorted({a.index for a, _ in pairs})
    assert len(pairs) >= len(ours) - 1
    assert all((a.in_channels, a.out_channels) == (b.in_channels, b.out_channels) for a, b in pairs)


def test_a_lost_block_and_a_new_one_in_another_stage() -> None:
    parent, child = parse("r_111-2111-211111-211"), parse("r_11-2111-211111-2111")
    assert lineage(parent, child) == tuple(range(16))  # by number: three blocks come to double, and three cease to
    assert lineage(parent, child, leaves_out=True) == (0, 1, *range(3, 16), None)
    parent, child, detector = parse("b_111-2111-211"), parse("b_11-2111-2111"), Detector(**TINY)
    weights = made(parent, detector)
    found, audit = inherit(parent, child, weights, made(child, detector, 1), leaves_out=True)
    assert {name.split(".")[2] for name in audit.dropped} == {"2"}
    assert {name.split(".")[2] for name in audit.new} == {"9"}
    assert np.array_equal(found["backbone.blocks.8.conv2.weight"], weights["backbone.blocks.9.conv2.weight"])


def test_blocks_that_come_into_one_stage_keep_the_same_channels_of_a_narrower_stream() -> None:
    """The `-` moves, so that a stretch of the stream that a projection parted becomes one: its channels were chosen as one."""
    parent, child, detector = parse("b_1111-1111"), parse("b_111111-11"), Detector(**TINY)
    narrow = detector.model_copy(update={"base_width": 5})
    weights = made(parent, detector)
    for name, array in weights.items():
        if name.endswith("bn2.gamma"):  # what the two stages would choose apart
            array[:] = np.arange(1, 9) if int(name.split(".")[2]) < 4 else np.arange(8, 0, -1)
    weights["backbone.blocks.4.shortcut.bn.gamma"][:] = np.arange(8, 0, -1)
    marks = {f"backbone.blocks.{n}.bn2.beta" for n in range(8)} | {"backbone.stem.bn.beta"}
    weights |= {name: np.arange(8, dtype=np.float32) for name in marks}
    found, _ = inherit(parent, child, weights, made(child, narrow, 1))
    assert len({tuple(found[name]) for name in marks}) == 1
    assert len(set(found["backbone.stem.bn.beta"])) == 5


def test_of_equal_blocks_the_last_goes() -> None:
    assert lineage(parse("b_1111-21-21-21"), parse("b_111-21-21-21")) == (0, 1, 2, 4, 5, 6, 7, 8, 9)
    assert lineage(parse("b_111-2111-21-21"), parse("b_111-211-21-21")) == (0, 1, 2, 3, 4, 5, 7, 8, 9, 10)


@pytest.mark.parametrize(
    ("child", "line"),
    [
        ("b_1-21-121-121", (0, 2, 3, None, 4, 5, None, 6, 7)),  # one taken out, two put in
        ("b_111-2-21-21", (0, 1, None, 2, 4, 5, 6, 7)),
        ("b_11-21-21-21", tuple(range(8))),
    ],
)
def test_of_blocks_taken_out_and_put_in_all_others_keep_their_channels(child: str, line: tuple[int | None, ...]) -> None:
    parent = parse("b_11-21-21-21")
    assert lineage(parent, parse(child), leaves_out=True) == line
    ours, theirs = blocks(parent), blocks(parse(child))
    assert all(ours[source].out_channels == block.out_channels for source, block in zip(line, theirs, strict=True) if source is not None)


def test_the_audit_counts_what_blocks_taken_out_held() -> None:
    detector, parent, child = Detector(**TINY), parse("b_11-21-21-21"), parse("b_1-21-121-121")
    weights, fresh = made(parent, detector), made(child, detector, 1)
    found, audit = inherit(parent, child, weights, fresh, leaves_out=True)
    lost = 2 * (8 * 8 * 9 + 2 * 8)  # the second block: two convolutions of 8 channels, and their norms
    assert audit.narrowed == {"blocks": lost}
    assert audit.dropped_params == lost
    assert {name.split(".")[2] for name in audit.new} == {"3", "6"}
    np.testing.assert_array_equal(found["backbone.blocks.1.conv1.weight"], weights["backbone.blocks.2.conv1.weight"])
