"""Operators on the cells of a neck: one change of one cell, and cells drawn at random; all results are valid.

The space of a NAS-FPN is that of the paper (Ghiasi, Lin and Le, CVPR 2019, section 3.1) as Vertex AI's search spaces have it: some
intermediate cells of levels 4 to 7, then one output for each level in any order; each cell has two different inputs from all before it, and
a sum or attention. There a controller learnt by reinforcement draws the cells; here they are drawn evenly, or evolve. The space of a
NAS-FCOS is in `fusion_mutation.py`.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from spnas_core.necks import CellNeck
from spnas_core.necks.cells import LEVELS, WordedCell, cells_text
from spnas_core.necks.nas_fcos import NasFcos
from spnas_core.necks.nas_fpn import INPUTS, Cell, NasFpn
from spnas_core.search.fusion_mutation import change_fusion, draw_fusions, fusion_extremes

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


def change_neck(neck: CellNeck, rng: np.random.Generator, anew: bool = False) -> CellNeck:
    """Neck with one cell changed, or, `anew`, with as many cells drawn at random."""
    if isinstance(neck, NasFpn):
        return _with(neck, draw_cells(len(neck.graph), rng) if anew else change_cell(neck.graph, rng))
    return _with(neck, draw_fusions(len(neck.graph), rng) if anew else change_fusion(neck.graph, rng))


def neck_ends(neck: CellNeck) -> tuple[CellNeck, ...]:
    """Necks among which are those with the fewest and the most MACs that these operators reach.

    Of a NAS-FPN: with the intermediate cells at the coarsest, at the finest level.
    """
    if isinstance(neck, NasFcos):
        return tuple(_with(neck, cells) for cells in fusion_extremes(len(neck.graph)))
    cells = neck.graph
    inner, outputs = cells[:-INPUTS], cells[-INPUTS:]
    finest = min([INNER_LEVELS[0], *(cell.level for cell in inner)])
    return tuple(_with(neck, [*(cell._replace(level=level) for cell in inner), *outputs]) for level in (INNER_LEVELS[-1], finest))


def _with(neck: CellNeck, cells: Iterable[WordedCell]) -> CellNeck:
    return neck.model_copy(update={"cells": cells_text(cells)})
