"""Weights of a member cut out of those of a supernet, and put back into them: a tensor of the member is a part of one of the supernet.

The supernet's names: `backbone.slots.3.conv1.weight` and so on for a slot's weights, `backbone.slots.3.places.1.bn1.moving_mean` for the
statistics at one of its places; all others are those of a detector, of which the neck's inner convolutions read more channels.
"""

import re
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from spnas_core.arch import Arch, blocks, levels
from spnas_core.necks.fpn import INNER
from spnas_core.necks.nas_fcos import ADAPT
from spnas_core.necks.nas_fpn import LATERAL
from spnas_core.search.family import Family
from spnas_core.search.paths import kept_channels
from spnas_core.weights.tensor_names import AFFINE, BACKBONE, STATISTICS, Arrays, block_name

SLOTS = f"{BACKBONE}slots."
_INNER_WEIGHT = re.compile(rf"(?:{re.escape(INNER)}(\d+)|(?:{re.escape(LATERAL)}|{re.escape(ADAPT)})(\d+)\.conv)\.weight")
_Part = tuple[str, tuple[slice | npt.NDArray[np.int64], ...]]  # a tensor of the supernet, and an index of it by `numpy.ix_` or slices


def _layer_parts(family: Family, arch: Arch, width: int) -> dict[str, _Part]:
    """Parts that the tensors of a member's blocks are, by name."""
    found: dict[str, _Part] = {}
    kind, path = family.start.block_type, family.path(arch)
    for block, place in zip(blocks(arch, width), path, strict=True):
        number = [other for other in family.places if other.slot == place.slot].index(place)
        slot, at = f"{SLOTS}{place.slot}.", f"{SLOTS}{place.slot}.places.{number}."
        kept = kept_channels(family, family.slots[place.slot].run, arch.eighths(place.stage), width)
        each = kept[: len(kept) // kind.groups]  # inner channels of one group
        names = list(block.layers(kind))
        last = "conv2" if kind.expansion == 1 else "conv3"
        for layer in names:
            outputs = np.arange(block.out_channels) if layer in (last, "shortcut") else kept
            inputs = np.arange(block.in_channels) if layer in ("conv1", "shortcut") else kept if layer == last else each
            conv, norm = ("shortcut.conv", "shortcut.bn") if layer == "shortcut" else (layer, layer.replace("conv", "bn"))
            found[block_name(block.index, f"{conv}.weight")] = (f"{slot}{conv}.weight", np.ix_(outputs, inputs))
            for part in AFFINE:
                found[block_name(block.index, norm + part)] = (f"{slot}{norm}{part}", (outputs,))
            for part in STATISTICS:
                found[block_name(block.index, norm + part)] = (f"{at}{norm}{part}", (outputs,))
    return found


def path_parts(names: Collection[str], family: Family, arch: Arch, width: int) -> dict[str, _Part]:
    """Part of a supernet, which has tensors of these names, that each tensor of a member is."""
    found = _layer_parts(family, arch, width)
    channels = [level.channels for level in levels(arch, width)]
    for name in names:
        if not name.startswith(SLOTS):
            match = _INNER_WEIGHT.fullmatch(name)
            found[name] = (name, (slice(None), slice(channels[int(match[1] or match[2])])) if match else ())
    return found


def path_weights(arrays: Arrays, family: Family, arch: Arch, width: int) -> Arrays:
    """Weights of a member, by the names and with the shapes of its own net, from those of the supernet; `width`: base width."""
    return {name: arrays[source][index].copy() for name, (source, index) in path_parts(arrays, family, arch, width).items()}


def put_path(arrays: Arrays, family: Family, arch: Arch, width: int, weights: Arrays) -> Arrays:
    """Weights of a supernet with those of a member in their places; the rest stays as in `arrays`."""
    found = {name: array.copy() for name, array in arrays.items()}
    for name, (source, index) in path_parts(arrays, family, arch, width).items():
        found[source][index] = weights[name]
    return found


def start_supernet(fresh: Arrays, family: Family, width: int, weights: Arrays) -> Arrays:
    """Weights that a supernet starts from: those of the start net in its path, the rest as in `fresh`, newly initialised.

    Slots that the start net lacks are the identity wherever they stand with stride 1, as `inherit.inherit` makes new blocks; statistics are
    those of no data (mean 0, variance 1).
    """
    found = put_path(fresh, family, family.start, width, weights)
    new = set(range(len(family.slots))) - {place.slot for place in family.path(family.start)}
    last = "bn2" if family.start.block_type.expansion == 1 else "bn3"
    zero = {f"{SLOTS}{slot}.{last}{part}" for slot in new for part in AFFINE}
    return reset_statistics({name: np.zeros_like(array) if name in zero else array for name, array in found.items()})


def reset_statistics(arrays: Arrays) -> Arrays:
    """Give all norms the statistics of no data: mean 0, variance 1."""
    mean, variance = STATISTICS
    fills = {mean: 0.0, variance: 1.0}
    ends = {name: fill for name in arrays for part, fill in fills.items() if name.endswith(part)}
    return {name: np.full_like(array, ends[name]) if name in ends else array for name, array in arrays.items()}
