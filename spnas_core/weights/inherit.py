"""Inheritance: transfer of a parent's weights to a child architecture; each tensor is copied, new by design, or an error.

Weights are ``dict[str, ndarray]`` with the names of the built net; blocks are numbered along the flat sequence, so moving a ``-``
renames nothing. A new block of stride 1 is exactly the identity, since gamma and beta of the last norm of its residual branch are
zero (its input comes out of a ReLU), and it can learn at once, since nothing else of it is zero. Where the block type or the channels
of a block change, a layer (a convolution and its norm) of unchanged shape is inherited, and any other layer is new.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from spnas_core import necks
from spnas_core.arch import Arch, Block, blocks
from spnas_core.weights.adopt import (
    Audit,
    audit_of,
    check_fit,
    fits,
    head_source,
    is_cascade,
    is_last_layer,
    is_other_head,
    lacks_level_norm,
)
from spnas_core.weights.channels import fit_widths, target_blocks, width_of
from spnas_core.weights.lineage import lineage
from spnas_core.weights.tensor_names import (
    AFFINE,
    BLOCKS,
    CONNECT,
    COPIES,
    HEAD,
    HEADS,
    NECK,
    SEMANTIC,
    STATISTICS,
    Arrays,
    block_name,
    convolution_of,
    part_of,
)

Shapes = dict[str, tuple[int, int, int, int]]  # of the layers of one block


@dataclass(frozen=True)
class _Plan:
    """Sources of the tensors of a child."""

    parent: Arch
    child: Arch
    width: int = 64
    given: Collection[str] = ()  # names of the parent's tensors
    wanted: Collection[str] = ()  # and of the child's
    replace_head: bool = False
    leaves_out: bool = False

    @cached_property
    def own_copies(self) -> bool:
        """Whether the parent's copies have separate weights."""
        return any(name.startswith(COPIES) for name in self.given)

    @cached_property
    def cascade(self) -> tuple[bool, bool]:
        """Whether parent and child have a cascade of box heads."""
        return is_cascade(self.given), is_cascade(self.wanted)

    @cached_property
    def line(self) -> tuple[int | None, ...]:
        return lineage(self.parent, self.child, self.leaves_out)

    @cached_property
    def ours(self) -> tuple[Shapes, ...]:
        """Layers of the parent's blocks, with the widths of the child's."""
        return tuple(block.layers(self.parent.block_type) for block in self._target)

    @cached_property
    def _target(self) -> tuple[Block, ...]:
        return target_blocks(self.parent, self.child, self.width, self.leaves_out)

    @cached_property
    def theirs(self) -> tuple[Shapes, ...]:
        """Layers of the child's blocks."""
        return tuple(block.layers(self.child.block_type) for block in blocks(self.child, self.width))

    def keeps_layer(self, index: int, layer: str) -> bool:
        """Whether this layer of the child's block continues one of the parent's."""
        source = self.line[index]
        return source is not None and self.ours[source].get(layer) == self.theirs[index].get(layer)

    def keeps_part(self, stage: int, number: int) -> bool:
        """Whether parent and child both have this copy; False for all copies if the serial parts differ, but for their inner widths."""
        if replace(self.parent.serial(), inner=()) != replace(self.child.serial(), inner=()):
            return False
        return number < min(self.parent.parallel[stage], self.child.parallel[stage])

    def main_name(self, name: str) -> str | None:
        """Name of the child's main tensor that initialises the tensor of a new copy; None for any other tensor."""
        if not name.startswith(COPIES):
            return None
        stage, number, position, rest = name.split(".", 5)[2:]
        if self.own_copies and self.keeps_part(int(stage), int(number)):
            return None
        return block_name(sum(map(len, self.child.stages[: int(stage)])) + int(position), rest)

    def source(self, name: str) -> str | None:
        """Name of the parent's tensor for a child's tensor; None if it is new by design."""
        part, parts = part_of(name), name.split(".")
        if part == BLOCKS:
            index = int(parts[2])
            return block_name(self.line[index], ".".join(parts[3:])) if self.keeps_layer(index, convolution_of(parts[3])) else None
        if part == CONNECT:
            return name if self.keeps_part(int(parts[2]), int(parts[3])) else None
        if part == NECK:
            return name if necks.is_continued(name, self.parent, self.child, self.given) else None
        if part in HEADS and not any(one.startswith(part) for one in self.given):
            return None
        if part == HEAD:
            if self.replace_head and is_last_layer(name):
                return None
            return (name if name in self.given else None) if name.startswith(SEMANTIC) else head_source(name, self.cascade[0])
        if lacks_level_norm(name, self.given):
            return None
        return None if part in HEADS and self.replace_head and is_last_layer(name) else name

    def lacks(self, name: str) -> bool:
        """Whether a tensor of the parent belongs to a block of the main stages that the child has no place for."""
        parts = name.split(".")
        return part_of(name) == BLOCKS and len(parts) > 3 and parts[2].isdecimal() and int(parts[2]) not in self.line

    def drops(self, name: str) -> bool:
        """Whether a tensor of the parent is dropped by design."""
        part, parts = part_of(name), name.split(".")
        numbers = [int(one) for one in parts if one.isdecimal()]
        if part == BLOCKS and len(parts) > 3 and numbers and numbers[0] < len(self.ours):
            layer = convolution_of(parts[3])
            return layer in self.ours[numbers[0]] and (self.lacks(name) or not self.keeps_layer(self.line.index(numbers[0]), layer))
        if part in (COPIES, CONNECT) and len(numbers) > 1 and numbers[0] < len(self.parent.stages):
            return numbers[1] < self.parent.parallel[numbers[0]] and not self.keeps_part(numbers[0], numbers[1])
        if part == NECK and necks.is_unused(name, self.wanted):
            return True
        if part == NECK and numbers and numbers[0] < len(self.parent.stages):
            return self.source(name) is None
        if name.startswith(SEMANTIC):
            return name not in self.wanted
        if lacks_level_norm(name, self.wanted):
            return True
        if part in HEADS and not any(one.startswith(part) for one in self.wanted):
            return True
        return part in HEADS and ((self.replace_head and is_last_layer(name)) or is_other_head(name, self.cascade[1]))

    def blank_norms(self) -> tuple[str, ...]:
        """Name prefixes of the last norms of residual branches with a new last layer, in blocks without projection."""
        last = 2 if self.child.block_type.expansion == 1 else 3
        new = [i for i, layers in enumerate(self.theirs) if "shortcut" not in layers and not self.keeps_layer(i, f"conv{last}")]
        return tuple(block_name(index, f"bn{last}.") for index in new)

    def changes(self, block: Block) -> bool:
        """Whether this block of the child is new, or has another stride or other layers than in the parent."""
        index = self.line[block.index]
        return index is None or blocks(self.parent)[index].stride != block.stride or self.ours[index] != self.theirs[block.index]


def inherit(
    parent: Arch, child: Arch, weights: Arrays, fresh: Arrays, *, base_width: int = 64, replace_head: bool = False, leaves_out: bool = False
) -> tuple[Arrays, Audit]:
    """Weights of `child`: from `parent` where its blocks and parts continue, else from `fresh`, the newly initialised child.

    New by design: inserted blocks (identity at stride 1), projections of blocks that now need one, layers whose shape changes with block
    type or channels, heads that the parent has not, the neck's tensors of new stages, changed widths or levels that it did not merge,
    norms that a one-stage head has for new levels, connections (gamma and beta zero: the net starts as its serial part), and copies that
    the parent lacks (they start as the main stage).
    Dropped by design: the tensors of these kinds that only the parent has. `replace_head`: the heads' last layers are new, for other
    classes; see also `adopt.head_source`. The parent's tensors are widened or narrowed before (`channels.fit_widths`), to the base
    width of `fresh` (`base_width` where that has no stem). Blocks that the child has no room for are dropped, and with `leaves_out`
    others where that keeps more (see `lineage`). Any other difference in name, shape or dtype is a UserError with a +/- list.
    """
    base_width = width_of(fresh, base_width)
    weights, resized, narrowed = fit_widths(parent, child, weights, fresh, base_width, leaves_out)
    plan = _Plan(parent, child, base_width, weights, fresh, replace_head, leaves_out)
    mains = {name: main for name in fresh if (main := plan.main_name(name)) is not None}
    sources = {name: plan.source(name) for name in fresh.keys() - mains.keys()}
    matched = {name: source for name, source in sources.items() if source is not None and fits(fresh, name, weights, source)}
    misses = {name: fresh[name] for name, source in sources.items() if source is not None and name not in matched}
    unused = weights.keys() - set(matched.values())
    check_fit(f"cannot inherit {child} from {parent}", misses, {name: weights[name] for name in unused if not plan.drops(name)})

    blank = (*plan.blank_norms(), CONNECT)
    zero = {name for name in sources.keys() - matched.keys() if name.startswith(blank) and name.endswith(AFFINE)}
    result = {name: weights[matched[name]].copy() if name in matched else fresh[name].copy() for name in sources}
    result |= {name: np.zeros_like(fresh[name]) for name in zero}
    result |= {name: result[main].copy() for name, main in mains.items()}
    copied = matched.keys() | {name for name, main in mains.items() if main in matched}
    zero |= {name for name, main in mains.items() if main in zero}
    audit = audit_of(fresh, weights, copied, unused, zero)
    changed = {name for name, source in matched.items() if source in resized}
    taken_out = sum(weights[name].size for name in unused if plan.lacks(name) and not name.endswith(STATISTICS))
    return {name: result[name] for name in fresh}, audit.after_resizing(changed, narrowed, taken_out)


def trainable_when_frozen(parent: Arch, child: Arch, names: Iterable[str], base_width: int = 64, leaves_out: bool = False) -> set[str]:
    """Subset of `names` that is trained when inherited blocks are frozen: changed blocks (new, other stride, other layers), neck, heads.

    The stem, all unchanged blocks and the copies that the parent has too are frozen.
    """
    plan = _Plan(parent, child, base_width, leaves_out=leaves_out)
    changed = (block_name(block.index) for block in blocks(child) if plan.changes(block))
    trained = (CONNECT, NECK, *HEADS, *changed)

    def new_copy(name: str) -> bool:
        return name.startswith(COPIES) and not plan.keeps_part(*map(int, name.removeprefix(COPIES).split(".")[:2]))

    return {name for name in names if name.startswith(trained) or new_copy(name)}
