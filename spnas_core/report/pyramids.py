"""Pyramids of merging cells (`necks/nas_fpn.py`) for a person: a drawing of one stack, and what a child's differs in from its parent's.

In a drawing a row is a level, P7 on top; the inputs stand on the left, and each cell in a column of its own: a square is a sum, a disc
attention. Coordinates are px of the drawing.
"""

from collections import defaultdict

from spnas_core.necks.nas_fpn import INPUTS, LEVELS, NasFpn, merges
from spnas_core.report.net_drawings import Drawing

SIDE, COLUMN, ROW, MARGIN = 10.0, 30.0, 17.0, 3.0  # of a node; from node to node


def draw_pyramid(neck: NasFpn, parent: NasFpn | None = None) -> Drawing:
    """Draw one stack; cells that `parent` has not at their place are of the kind `new`."""
    cells, given = neck.graph, dict(enumerate(parent.graph)) if parent else None
    node_levels = [*LEVELS, *(cell.level for cell in cells)]
    centres = [
        (MARGIN + SIDE / 2 + COLUMN * max(0, node - INPUTS + 1), MARGIN + SIDE / 2 + ROW * (LEVELS[-1] - level))
        for node, level in enumerate(node_levels)
    ]
    paths, links = defaultdict[str, list[str]](list), list[str]()
    for node, (level, (x, y)) in enumerate(zip(node_levels, centres, strict=True)):
        cell = cells[node - INPUTS] if node >= INPUTS else None
        new = cell is not None and given is not None and given.get(node - INPUTS) != cell
        shape = _disc(x, y) if cell and cell.attention else _square(x, y)
        paths["new" if new else f"stage{level - LEVELS[0]}"].append(shape)
    for place, merge in enumerate(merges(cells)):
        x, y = centres[INPUTS + place]
        for node in (merge.fine, merge.coarse, *merge.joined):
            left, top = centres[node]
            links.append(f"M{left + SIDE / 2:.0f} {top:.0f}L{x - SIDE / 2 - 1:.0f} {y:.0f}")
    width = centres[-1][0] + SIDE / 2 + MARGIN
    height = 2 * MARGIN + SIDE + ROW * (INPUTS - 1)
    return Drawing(
        width, height, {kind: "".join(parts) for kind, parts in paths.items()}, tuple(links), f"{neck.stacks} times {neck.cells}"
    )


def _square(x: float, y: float) -> str:
    return f"M{x - SIDE / 2:.0f} {y - SIDE / 2:.0f}h{SIDE:.0f}v{SIDE:.0f}h-{SIDE:.0f}z"


def _disc(x: float, y: float) -> str:
    radius = SIDE / 2
    return f"M{x - radius:.0f} {y:.0f}a{radius:.0f} {radius:.0f} 0 1 0 {SIDE:.0f} 0a{radius:.0f} {radius:.0f} 0 1 0 -{SIDE:.0f} 0z"


def node_name(node: int) -> str:
    """Name of an input or a cell: P3 to P7, then cell 1 and on."""
    return f"P{LEVELS[node]}" if node < INPUTS else f"cell {node - INPUTS + 1}"


def cell_edits(parent: NasFpn, child: NasFpn) -> list[str]:
    """Say cell by cell what a child's pyramid differs in."""
    found = []
    for number, (before, after) in enumerate(zip(parent.graph, child.graph, strict=False), start=1):
        words = [f"level {before.level} to {after.level}"] if before.level != after.level else []
        if before.attention != after.attention:
            words.append("attention for a sum" if after.attention else "a sum for attention")
        ours, theirs = ({cell.first, cell.second} for cell in (before, after))
        if ours != theirs:
            new, old = (" and ".join(map(node_name, sorted(nodes))) for nodes in (theirs - ours, ours - theirs))
            words.append(f"reads {new} instead of {old}")
        found += [f"cell {number}: {', '.join(words)}"] if words else []
    if len(parent.graph) != len(child.graph):
        found.append(f"{len(child.graph)} cells instead of {len(parent.graph)}")
    return found
