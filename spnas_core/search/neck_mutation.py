"""Operators on the cells of a NAS-FPN: one change of one cell, and cells drawn at random; all results are valid.

The space is that of the paper (Ghiasi, Lin and Le, CVPR 2019, section 3.1) as Vertex AI's search spaces have it: some intermediate cells of
levels 4 to 7, then one output for each level in any order; each cell has two different inputs from all before it, and a sum or attention.
There a controller learnt by reinforcement draws the cells; here they are drawn evenly, or evolve.
"""

from collections.abc import Sequence

import numpy as np

from spnas_core.necks.nas_fpn import INPUTS, LEVELS, Cell, NasFpn, cells_text

INNER_LEVELS = LEVELS[1:]  # of intermediate cells


def change_cell(cells: Sequence[Cell], rng: np.random.Generator) -> tuple[Cell, ...]:
    """Change one cell, all equally likely: one of its inputs, its level, or its operation.

    The level of an output changes by exchange with another output, so that each level keeps one.
    """
    found, place, first_output = list(cells), int(rng.integers(len(cells))), len(cells) - INPUTS
    cell, kind = found[place], int(rng.integers(3))
    if kind == 0:
        nodes = [node for node in range(INPUTS + place) if node not in (cell.first, cell.second)]
        kept = (cell.first, cell.second)[int(rng.integers(2))]
        first, second = sorted((kept, nodes[int(rng.integers(len(nodes)))]))
        found[place] = cell._replace(first=first, second=second)
    elif kind == 1 and place >= first_output:
        others = [other for other in range(first_output, len(cells)) if other != place]
        other = others[int(rng.integers(len(others)))]
        found[place], found[other] = cell._replace(level=found[other].level), found[other]._replace(level=cell.level)
    elif kind == 1:
        choices = [level for level in INNER_LEVELS if level != cell.level]
        found[place] = cell._replace(level=choices[int(rng.integers(len(choices)))])
    else:
        found[place] = cell._replace(attention=not cell.attention)
    return tuple(found)


def draw_cells(count: int, rng: np.random.Generator) -> tuple[Cell, ...]:
    """Draw `count` cells, the last five the outputs; levels, operations and pairs of inputs are equally likely."""
    inner = [INNER_LEVELS[int(rng.integers(len(INNER_LEVELS)))] for _ in range(count - INPUTS)]
    found = []
    for place, level in enumerate([*inner, *map(int, rng.permutation(LEVELS))]):
        first, second = sorted(map(int, rng.choice(INPUTS + place, 2, replace=False)))
        found.append(Cell(level, bool(rng.integers(2)), first, second))
    return tuple(found)


def change_neck(neck: NasFpn, rng: np.random.Generator, anew: bool = False) -> NasFpn:
    """Pyramid with one cell changed, or, `anew`, with as many cells drawn at random."""
    cells = draw_cells(len(neck.graph), rng) if anew else change_cell(neck.graph, rng)
    return neck.model_copy(update={"cells": cells_text(cells)})


def neck_ends(neck: NasFpn) -> tuple[NasFpn, NasFpn]:
    """Pyramids with the fewest and the most MACs that these operators reach: intermediate cells at the coarsest, at the finest level."""
    cells = neck.graph
    inner, outputs = cells[:-INPUTS], cells[-INPUTS:]
    finest = min([INNER_LEVELS[0], *(cell.level for cell in inner)])
    coarse, fine = (cells_text([*(cell._replace(level=level) for cell in inner), *outputs]) for level in (INNER_LEVELS[-1], finest))
    return neck.model_copy(update={"cells": coarse}), neck.model_copy(update={"cells": fine})
