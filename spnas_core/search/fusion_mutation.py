"""Operators on the cells of a NAS-FCOS: one change of one cell, and cells drawn at random; what is no neck is drawn again.

The space is that of the paper (Wang et al., CVPR 2020, section 3) without the deformable convolution: two inputs from all nodes before the
cell, which may be the same, an operation for each, and a sum or a concatenation. There a controller learnt by reinforcement draws the
cells, and what it draws without three outputs is thrown away; here they are drawn evenly, or evolve.
"""

from collections.abc import Sequence

import numpy as np

from spnas_core.necks.nas_fcos import OPERATIONS, STAGE_INPUTS, Branch, Fusion, fuse, fusions_mistake

_LETTERS = tuple(OPERATIONS)


def change_fusion(cells: Sequence[Fusion], rng: np.random.Generator) -> tuple[Fusion, ...]:
    """Change one cell, all equally likely: the node or the operation of one of its inputs, or how it merges them."""
    while True:
        place, kind, side = int(rng.integers(len(cells))), int(rng.integers(3)), int(rng.integers(2))
        cell = cells[place]
        changed, kept = (cell.first, cell.second)[side], (cell.second, cell.first)[side]
        if kind == 0:
            nodes = [node for node in range(STAGE_INPUTS + place) if node != changed.node]
            changed = changed._replace(node=nodes[int(rng.integers(len(nodes)))])
        elif kind == 1:
            others = [letter for letter in _LETTERS if letter != changed.operation]
            changed = changed._replace(operation=others[int(rng.integers(len(others)))])
        found = (*cells[:place], fuse(cell.concatenates != (kind == 2), changed, kept), *cells[place + 1 :])
        if not fusions_mistake(found):
            return found


def draw_fusions(count: int, rng: np.random.Generator) -> tuple[Fusion, ...]:
    """Draw `count` cells; nodes, operations and both ways to merge are equally likely."""

    def branch(place: int) -> Branch:
        return Branch(int(rng.integers(STAGE_INPUTS + place)), _LETTERS[int(rng.integers(len(_LETTERS)))])

    while True:
        found = tuple(fuse(bool(rng.integers(2)), branch(place), branch(place)) for place in range(count))
        if not fusions_mistake(found):
            return found


def fusion_extremes(count: int) -> list[tuple[Fusion, ...]]:
    """Cells among which are those with the fewest and the most MACs, `count` of them.

    Fewest: C5 alone is read, and skipped. Most: 5x5 on C2, but for one input at each of some stages, whose 1x1 convolutions may cost more.
    """
    coarsest = STAGE_INPUTS - 1
    skips = [Branch(coarsest, "k")] * (2 * count)
    wide = [[Branch(node, "w") for node in (coarsest, *more)] for more in ((), (1,), (2,), (1, 2))]
    found = [skips, *([*some, *[Branch(0, "w")] * (2 * count - len(some))] for some in wide)]
    return [tuple(fuse(n > 0, *pair) for pair in zip(one[::2], one[1::2], strict=True)) for n, one in enumerate(found)]
