"""Channels that change together: the group of every axis of every layer of a net.

A group is a stretch of the residual stream of equal channels (the number of the block before which it begins), the inside of a block (the
block's number and the part), or one of the names here.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from spnas_core.arch import Arch, Block, blocks
from spnas_core.cost import POOLED
from spnas_core.necks import neck_layers
from spnas_core.necks.cells import PYRAMID
from spnas_core.necks.fpn import EXTRA, INNER, LAYER
from spnas_core.weights.tensor_names import (
    CASCADE,
    HEAD,
    RPN,
    SEMANTIC,
    STEM,
    TOWERS,
    Arrays,
    block_name,
    connection_name,
    copied_block_name,
    one_stage_head,
)

Group = Hashable
STEM_MIDDLE, MERGED, PROPOSAL = "stem", "merged", "proposal"  # groups outside of the blocks, besides that of the pyramid


class Axes(NamedTuple):
    """Groups of the outputs and the inputs of a layer, None where these are no channels of a group; cells per input channel.

    `normed`: a norm follows, whose gammas tell what the layer writes.
    """

    outputs: Group | None
    inputs: Group | None = None
    cells: int = 1
    normed: bool = True


def stream_groups(arch: Arch) -> list[int]:
    """List the groups of the residual stream before each block, and after the last: other channels begin a new one.

    A projection to equal channels begins none, since the block may have no projection in the child, where a `-` has moved.
    """
    found = [0]
    for block in blocks(arch):
        found.append(block.index + 1 if block.in_channels != block.out_channels else found[-1])
    return found


def layer_axes(arch: Arch, own: Sequence[Block], streams: Sequence[int], weights: Arrays) -> dict[str, Axes]:
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
