"""Widths of inherited weights: a parent's tensors widened or narrowed to the channels of a child, before anything else is inherited.

Every axis of every tensor belongs to a group of channels that have to change together: a stretch of the residual stream of equal
channels, the inside of a block, the pyramid. A wider group gets copies of its channels, and what reads them divides its weights among
the copies, so that the net computes the same (Net2Wider: Chen, Goodfellow and Shlens, ICLR 2016, section 2.3); the shares are unequal, so
that copies come to learn different things. A narrower group loses its least important channels: importance is the norm of what writes a
channel (of its gammas, where a norm follows) times that of what reads it.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spnas_core.arch import Arch, Block, blocks
from spnas_core.cost import POOLED
from spnas_core.data.images import Doubles, Floats
from spnas_core.necks import neck_layers
from spnas_core.necks.cells import PYRAMID
from spnas_core.necks.fpn import EXTRA, INNER, LAYER
from spnas_core.necks.nas_fcos import ADAPT
from spnas_core.necks.nas_fpn import LATERAL
from spnas_core.weights.lineage import lineage
from spnas_core.weights.tensor_names import (
    CASCADE,
    FCOS,
    HEAD,
    RETINANET,
    RPN,
    SEMANTIC,
    STATISTICS,
    STEM,
    TOWERS,
    Arrays,
    block_name,
    connection_name,
    copied_block_name,
    one_stage_head,
)

Group = Hashable
Indices = npt.NDArray[np.int64]
STEM_MIDDLE, MERGED, PROPOSAL = "stem", "merged", "proposal"  # groups outside of the blocks, besides that of the pyramid
_SHARES = (2.0, 3.0)  # of the copies of a channel, in turn


class Axes(NamedTuple):
    """Groups of the outputs and the inputs of a layer, None where these are no channels of a group; cells per input channel.

    `normed`: a norm follows, whose gammas tell what the layer writes.
    """

    outputs: Group | None
    inputs: Group | None = None
    cells: int = 1
    normed: bool = True


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
    streams = _streams(parent)
    table = _table(parent, own, streams, weights)
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


def _streams(arch: Arch) -> list[int]:
    """List the groups of the residual stream before each block, and after the last: other channels begin a new one.

    A projection to equal channels begins none, since the block may have no projection in the child, where a `-` has moved.
    """
    found = [0]
    for block in blocks(arch):
        found.append(block.index + 1 if block.in_channels != block.out_channels else found[-1])
    return found


def _table(arch: Arch, own: Sequence[Block], streams: Sequence[int], weights: Arrays) -> dict[str, Axes]:
    """Axes of all layers of a net by the name of the layer, without the last word of its tensors' names."""
    found = {f"{STEM}conv": Axes(0), f"{STEM}conv1": Axes(STEM_MIDDLE), f"{STEM}conv2": Axes(0, STEM_MIDDLE)}
    members = [[block for block in own if block.stage == stage] for stage in range(len(arch.stages))]
    places = [(block, block_name(block.index)) for block in own]
    for stage, copies in enumerate(arch.parallel):
        places += [(block, copied_block_name(stage, copy, n)) for copy in range(copies) for n, block in enumerate(members[stage])]
        ends = Axes(streams[members[stage][0].index], streams[members[stage][-1].index + 1])
        found |= {f"{connection_name(stage, copy)}conv": ends for copy in range(copies)}
    for block, path in places:
        before, after = streams[block.index], streams[block.index + 1]
        chain: list[Group] = [before, *((block.index, part) for part in range(1 if arch.block_type.expansion == 1 else 2)), after]
        found |= {f"{path}conv{n}": Axes(chain[n], chain[n - 1]) for n in range(1, len(chain))}
        found[f"{path}shortcut.conv"] = Axes(after, before)
    found |= {name.replace("conv", "bn"): Axes(axes.outputs) for name, axes in found.items()}
    for layer, read in neck_layers(weights):
        if not isinstance(read, int):
            found[layer] = Axes(PYRAMID, read, normed=f"{layer}.bias" not in weights)
        elif read < len(members):
            found[layer] = Axes(PYRAMID, streams[members[read][-1].index + 1])
    for level, last in enumerate(members):
        found[f"{INNER}{level}"] = Axes(MERGED, streams[last[-1].index + 1], normed=False)
        found[f"{LAYER}{level}"] = Axes(PYRAMID, MERGED, normed=False)
    found |= {f"{RPN}conv": Axes(PROPOSAL, PYRAMID, normed=False), f"{RPN}score": Axes(None, PROPOSAL), f"{RPN}delta": Axes(None, PROPOSAL)}
    heads = {name.rsplit(".", 1)[0] for name in weights if name.startswith((HEAD, CASCADE))}
    found |= {name: Axes(None, PYRAMID) for name in heads if name.startswith(SEMANTIC) and name.endswith(".0.conv")}
    found |= {name: Axes(None, PYRAMID, cells=POOLED * POOLED) for name in heads if name.endswith(".fc1")}
    return found | _extra_levels(weights, streams[-1]) | _one_stage(weights)


def _extra_levels(weights: Arrays, last: int) -> dict[str, Axes]:
    """Axes of the convolutions of extra levels; the first reads the last stage (group `last`) where its inputs are not the pyramid's."""
    found = {f"{EXTRA}{number}": Axes(PYRAMID, PYRAMID, normed=False) for number in range(2)}
    first = weights.get(f"{EXTRA}0.weight")
    if first is not None and first.shape[0] != first.shape[1]:
        found[f"{EXTRA}0"] = Axes(PYRAMID, last, normed=False)
    return found


def _one_stage(weights: Arrays) -> dict[str, Axes]:
    """Axes of the layers of a one-stage head."""
    if not (head := one_stage_head(weights)):
        return {}
    found: dict[str, Axes] = {}
    ends = {}
    for tower in TOWERS:
        inputs = PYRAMID
        for number in range(sum(name.startswith(f"{head}{tower}") and name.endswith(".conv.weight") for name in weights)):
            layer, group = f"{head}{tower}{number}.", f"{tower}{number}"
            norms = {name.removesuffix(".gamma") for name in weights if name.startswith(f"{layer}norm") and name.endswith(".gamma")}
            found |= {f"{layer}conv": Axes(group, inputs, normed=bool(norms)), **dict.fromkeys(norms, Axes(group))}
            inputs = group
        ends[tower] = inputs
    last = {"score": TOWERS[0], "delta": TOWERS[1], "distance": TOWERS[1], "centrality": TOWERS[1]}
    return found | {f"{head}{layer}": Axes(None, ends[tower]) for layer, tower in last.items()}


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
