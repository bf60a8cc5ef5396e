"""Inheritance: the weights of a parent, moved to a child architecture; every tensor is copied, new by design, or an error.

Weights are ``dict[str, ndarray]`` with the names of the built net; blocks are numbered along the flat sequence, so moving a ``-``
renames nothing. A new block of stride 1 is exactly the identity, since gamma and beta of the last norm of its residual branch are
zero (its input comes out of a ReLU), and it can learn at once, since nothing else of it is zero.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spnas_core.arch import Arch, blocks, levels
from spnas_core.lineage import lineage
from spnas_core.transfer import Audit, Weights, audit_of, check_fit, fits


@dataclass(frozen=True)
class _Plan:
    """Where the tensors of a child come from."""

    parent: Arch
    child: Arch
    own_copies: bool = False  # whether the parent's copies have weights of their own
    replace_head: bool = False

    @cached_property
    def line(self) -> tuple[int | None, ...]:
        return lineage(self.parent, self.child)

    def keeps_part(self, stage: int, number: int) -> bool:
        """Whether parent and child both have this copy; none is kept where the serial parts differ."""
        if self.parent.serial() != self.child.serial():
            return False
        return number < min(self.parent.parallel[stage], self.child.parallel[stage])

    def main_name(self, name: str) -> str | None:
        """Name of the child's main tensor from which the tensor of a new copy starts; None for any other tensor."""
        if not name.startswith("backbone.copies."):
            return None
        stage, number, position, rest = name.split(".", 5)[2:]
        if self.own_copies and self.keeps_part(int(stage), int(number)):
            return None
        return f"backbone.blocks.{sum(map(len, self.child.stages[: int(stage)])) + int(position)}.{rest}"

    def source(self, name: str) -> str | None:
        """Name of the parent's tensor; None where the child's is new by design."""
        parts = name.split(".")
        match parts[:2]:
            case ["backbone", "blocks"]:
                index = self.line[int(parts[2])]
                if index is None or (parts[3] == "shortcut" and not blocks(self.parent)[index].projection):
                    return None
                return ".".join(["backbone", "blocks", str(index), *parts[3:]])
            case ["backbone", "connect"]:
                return name if self.keeps_part(int(parts[2]), int(parts[3])) else None
            case ["neck", kind]:
                ours, theirs, stage = levels(self.parent), levels(self.child), int(parts[2])
                if stage >= len(ours) or (kind == "inner" and parts[3] == "weight" and ours[stage] != theirs[stage]):
                    return None
            case ["head", "score" | "delta"] if self.replace_head:
                return None
        return name

    def drops(self, name: str) -> bool:
        """Whether this is a tensor of the parent for which the child has no use, by design."""
        parts = name.split(".")
        numbers = [int(part) for part in parts if part.isdecimal()]
        match parts[:2]:
            case ["backbone", "blocks"] if parts[3:4] == ["shortcut"] and numbers and numbers[0] in self.line:
                ours, theirs = blocks(self.parent)[numbers[0]], blocks(self.child)[self.line.index(numbers[0])]
                return ours.projection and not theirs.projection
            case ["backbone", "copies" | "connect"] if len(numbers) > 1 and numbers[0] < len(self.parent.stages):
                return numbers[1] < self.parent.parallel[numbers[0]] and not self.keeps_part(numbers[0], numbers[1])
            case ["neck", "inner"] if numbers and numbers[0] < len(self.parent.stages):
                return self.source(name) is None
            case ["head", "score" | "delta"]:
                return self.replace_head
        return False

    def blank_norms(self) -> tuple[str, ...]:
        """Beginnings of the names of the last norms of new blocks without projection."""
        last = "bn2" if self.child.block_type.expansion == 1 else "bn3"
        new = [block.index for block in blocks(self.child) if self.line[block.index] is None and not block.projection]
        return tuple(f"backbone.blocks.{index}.{last}." for index in new)


def inherit(parent: Arch, child: Arch, weights: Weights, fresh: Weights, *, replace_head: bool = False) -> tuple[Weights, Audit]:
    """Weights of `child`: those of `parent` where its blocks and parts continue, else those of `fresh`, the newly initialised child.

    New by design: inserted blocks (identity at stride 1), projections of blocks that now need one, the neck's tensors of new stages
    or changed widths, connections (gamma and beta zero: the net starts as its serial part), and copies that the parent lacks (they
    start as the main stage). Dropped by design: what only the parent needs of these. `replace_head`: the box head's last layers are
    new, for other classes. Anything else that differs in name, shape or dtype is a UserError with a +/- list.
    """
    plan = _Plan(parent, child, any(name.startswith("backbone.copies.") for name in weights), replace_head)
    mains = {name: main for name in fresh if (main := plan.main_name(name)) is not None}
    sources = {name: plan.source(name) for name in fresh.keys() - mains.keys()}
    matched = {name: source for name, source in sources.items() if source is not None and fits(fresh, name, weights, source)}
    misses = {name: fresh[name] for name, source in sources.items() if source is not None and name not in matched}
    unused = weights.keys() - set(matched.values())
    check_fit(f"cannot inherit {child} from {parent}", misses, {name: weights[name] for name in unused if not plan.drops(name)})

    blank = (*plan.blank_norms(), "backbone.connect.")
    zero = {name for name in sources.keys() - matched.keys() if name.startswith(blank) and name.endswith((".gamma", ".beta"))}
    result = {name: weights[matched[name]].copy() if name in matched else fresh[name].copy() for name in sources}
    result |= {name: np.zeros_like(fresh[name]) for name in zero}
    result |= {name: result[main].copy() for name, main in mains.items()}
    copied = matched.keys() | {name for name, main in mains.items() if main in matched}
    zero |= {name for name, main in mains.items() if main in zero}
    return {name: result[name] for name in fresh}, audit_of(fresh, weights, copied, unused, zero)


def trainable_when_frozen(parent: Arch, child: Arch, names: Iterable[str]) -> set[str]:
    """Those of `names` that are trained when inherited blocks are not: new and moved (other stride) blocks, parts beside them, heads.

    The stem and all blocks that continue unchanged are frozen, and so are copies which the parent has too.
    """
    plan = _Plan(parent, child)
    ours = blocks(parent)
    moved = [block.index for block in blocks(child) if (index := plan.line[block.index]) is None or ours[index].stride != block.stride]
    trained = ("backbone.connect.", "neck.", "rpn.", "head.", *(f"backbone.blocks.{index}." for index in moved))

    def new_copy(name: str) -> bool:
        parts = name.split(".")
        return parts[:2] == ["backbone", "copies"] and not plan.keeps_part(int(parts[2]), int(parts[3]))

    return {name for name in names if name.startswith(trained) or new_copy(name)}
