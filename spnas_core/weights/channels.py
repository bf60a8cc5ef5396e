"""Widths of inherited weights: a parent's tensors widened or narrowed to the channels of a child, before anything else is inherited.

Every axis of every tensor belongs to a group of channels that have to change together (`channel_groups.py`). A wider group gets copies of
its channels, and what reads them divides its weights among the copies, so that the net computes the same (Net2Wider: Chen, Goodfellow and
Shlens, ICLR 2016, section 2.3); the shares are unequal, so that copies come to learn different things. A narrower group loses its least
important channels: importance is the norm of what writes a channel (of its gammas, where a norm follows) times that of what reads it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spnas_core.arch import Arch, Block, blocks
from spnas_core.data.images import Doubles, Floats
from spnas_core.necks.cells import PYRAMID
from spnas_core.necks.fpn import LAYER
from spnas_core.necks.nas_fcos import ADAPT
from spnas_core.necks.nas_fpn import LATERAL
from spnas_core.weights.channel_groups import MERGED, PROPOSAL, STEM_MIDDLE, Axes, Group, layer_axes, stream_groups
from spnas_core.weights.lineage import lineage
from spnas_core.weights.tensor_names import FCOS, RETINANET, STATISTICS, STEM, Arrays

Indices = npt.NDArray[np.int64]
_SHARES = (2.0, 3.0)  # of the copies of a channel, in turn


class GroupMap(NamedTuple):
    """New channels of a group as indices of old ones, and the share of each in what reads it; `local`: inside one convolution group."""

    source: Indices
    share: Floats
    local: Indices
    local_share: Floats


def target_blocks(parent: Arch, child: Arch, width: int, leaves_out: bool = False) -> tuple[Block, ...]:
    """Blocks of a parent as the child needs them: at its base `width`, inside with the eighths of the child's blocks that continue them.

    So where a `2` has moved, a block keeps what its own channels say, and its layers differ from the child's.
    """
    line, theirs, own = lineage(parent, child, leaves_out), blocks(child, width), blocks(parent, width)
    if parent.block_type != child.block_type:  # the layers differ anyway
        return own
    kind, stages = child.block_type, {source: block.stage for source, block in zip(line, theirs, strict=True) if source is not None}
    return tuple(
        replace(block, inner_channels=kind.inner(block.out_channels // kind.expansion, child.eighths(stages[block.index])))
        if block.index in stages
        else block
        for block in own
    )


def fit_widths(
    parent: Arch, child: Arch, weights: Arrays, fresh: Arrays, width: int, leaves_out: bool = False
) -> tuple[Arrays, frozenset[str], dict[str, int]]:
    """Weights of a parent with the widths of a child of base `width`, whose new weights are `fresh`.

    Also returns the names of the tensors that changed, and how many parameters narrowing lost, by what was narrowed. `leaves_out`: see
    `lineage`.
    """
    before = width_of(weights, width)
    own, scaled, target = blocks(parent, before), blocks(parent, width), target_blocks(parent, child, width, leaves_out)
    streams = stream_groups(parent)
    table = layer_axes(parent, own, streams, weights)
    outer: dict[Group, tuple[int, int]] = {STEM_MIDDLE: (before // 2, width // 2), 0: (before, width)}
    outer |= {streams[block.index + 1]: (block.out_channels, scaled[block.index].out_channels) for block in own}
    parts = range(1 if parent.block_type.expansion == 1 else 2)
    inside = {(block.index, part): (block, scaled[block.index], target[block.index]) for block in own for part in parts}
    outer |= {group: (a.inner_channels, b.inner_channels) for group, (a, b, _) in inside.items()}
    pyramid = [_pyramid_channels(one) for one in (weights, fresh)]
    inside_towers = {axes.outputs for name, axes in table.items() if name.startswith((RETINANET, FCOS))} - {None}
    steps: dict[str, dict[Group, tuple[int, int]]] = {
        "base width": outer,
        "inner width": {group: (b.inner_channels, c.inner_channels) for group, (_, b, c) in inside.items()},
        "pyramid": dict.fromkeys((MERGED, PYRAMID, PROPOSAL, *inside_towers), (pyramid[0], pyramid[1])) if all(pyramid) else {},
    }
    found, changed, lost = weights, set[str](), dict[str, int]()
    for kind, sizes in steps.items():
        after = _resized(found, table, {group: pair for group, pair in sizes.items() if pair[0] != pair[1]}, parent.block_type.groups)
        if smaller := sum(max(0, found[name].size - array.size) for name, array in after.items() if not name.endswith(STATISTICS)):
            lost[kind] = smaller
        changed |= after.keys()
        found = {**found, **after}
    return found, frozenset(changed), lost


def width_of(weights: Arrays, default: int) -> int:
    """Channels after the stem of a net with these weights; `default` where they have no stem."""
    names = (f"{STEM}conv.weight", f"{STEM}conv2.weight")
    return next((int(weights[name].shape[0]) for name in names if name in weights), default)


def _pyramid_channels(weights: Arrays) -> int:
    """Channels of the maps of a net with these weights; 0 where it has no pyramid."""
    return next((len(array) for name, array in weights.items() if name.startswith((LAYER, LATERAL, ADAPT))), 0)


def _resized(weights: Arrays, table: Mapping[str, Axes], sizes: Mapping[Group, tuple[int, int]], groups: int) -> Arrays:
    """Tensors that change where channel groups have other sizes, (old, new); `groups` of the convolutions inside of blocks."""
    maps = {group: _map(group, pair, weights, table, groups if isinstance(group, tuple) else 1) for group, pair in sizes.items()}
    found: Arrays = {}
    for name, array in weights.items():
        axes = table.get(name.rsplit(".", 1)[0])
        if axes is None:
            continue
        after = array
        if (written := maps.get(axes.outputs)) is not None and len(after) == sizes[axes.outputs][0]:
            after = after[written.source]
        if after.ndim > 1 and (read := maps.get(axes.inputs)) is not None:
            expected = sizes[axes.inputs][0]
            grouped = len(read.local) != len(read.source) and after.shape[1] * groups == expected
            if not grouped and after.shape[1] != expected * axes.cells:
                continue  # no tensor of such a net: the check of names and shapes tells
            source, share = (read.local, read.local_share) if grouped else (read.source, read.share)
            cells = after.reshape(after.shape[0], -1, axes.cells, *after.shape[2:])
            taken = cells[:, source] * share.reshape(1, -1, 1, *(1,) * (after.ndim - 2))
            after = taken.reshape(after.shape[0], -1, *after.shape[2:])
        if after is not array:
            found[name] = np.ascontiguousarray(after, dtype=array.dtype)
    return found


def _map(group: Group, pair: tuple[int, int], weights: Arrays, table: Mapping[str, Axes], groups: int) -> GroupMap:
    """Choose the channels of a group: all, and some of them again, or the most important ones; the same in each convolution group."""
    old, new = (size // groups for size in pair)
    if new > old:
        local = np.concatenate([np.arange(old), np.arange(new - old) % old])
    else:
        importance = _importance(group, pair[0], weights, table).reshape(groups, old).sum(0)
        local = np.sort(np.argsort(-importance, kind="stable")[:new])
    parts = np.array([_SHARES[np.count_nonzero(local[:n] == one) % 2] for n, one in enumerate(local)])
    share = (parts / np.bincount(local, parts, old)[local]).astype(np.float32)
    source = (local + old * np.arange(groups)[:, None]).ravel()
    return GroupMap(source, np.tile(share, groups), local, share)


def _importance(group: Group, size: int, weights: Arrays, table: Mapping[str, Axes]) -> Doubles:
    """Give the importance of each of the `size` channels of a group: norm of what writes it times norm of what reads it."""
    writes, reads = np.zeros(size), np.zeros(size)
    for name, array in weights.items():
        layer, word = name.rsplit(".", 1)
        axes = table.get(layer)
        if axes is None:
            continue
        written = axes.outputs == group and len(array) == size and (word == "gamma" or (word == "weight" and not axes.normed))
        read = axes.inputs == group and word == "weight" and array.ndim > 1 and size % (array.shape[1] // axes.cells or 1) == 0
        squares = array.astype(np.float64) ** 2 if written or read else array
        if written:
            writes += squares.reshape(size, -1).sum(1)
        if read:
            per_input = squares.reshape(len(array), -1, axes.cells, int(np.prod(array.shape[2:]))).sum((0, 2, 3))
            reads += np.tile(per_input, size // len(per_input))
    found: Doubles = np.sqrt(writes * reads)
    return found
