"""Necks of cells (`necks/nas_fpn.py`, `necks/nas_fcos.py`) for a person: a drawing, and what a child's differs in from its parent's.

In a drawing, of one stack of a NAS-FPN, a row is a level, the coarsest on top; the inputs stand on the left, and each cell in a column of
its own: a square is a sum, a disc attention or a concatenation. Coordinates are px of the drawing.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

from spnas_core.necks import CellNeck
from spnas_core.necks.cells import LEVELS
from spnas_core.necks.nas_fcos import FINEST, OPERATIONS, STAGE_INPUTS, Branch, NasFcos, fusion_levels
from spnas_core.necks.nas_fpn import INPUTS, NasFpn, merges
from spnas_core.report.net_drawings import Drawing

SIDE, COLUMN, ROW, MARGIN = 10.0, 30.0, 17.0, 3.0  # of a node; from node to node


class _Node(NamedTuple):
    """Input or cell of a neck: its level, the nodes that it reads, none of an input, and whether it is a disc."""

    level: int
    reads: tuple[int, ...] = ()
    disc: bool = False


def _nodes(neck: CellNeck) -> tuple[list[_Node], int]:
    """Nodes of a neck, and how many of them are inputs."""
    if isinstance(neck, NasFpn):
        inner = [_Node(one.level, (one.fine, one.coarse, *one.joined), one.attention) for one in merges(neck.graph)]
        return [*map(_Node, LEVELS), *inner], INPUTS
    cells, node_levels = neck.graph, fusion_levels(neck.graph)
    pairs = zip(node_levels[STAGE_INPUTS:], cells, strict=True)
    inner = [_Node(level, (cell.first.node, cell.second.node), cell.concatenates) for level, cell in pairs]
    return [*map(_Node, node_levels[:STAGE_INPUTS]), *inner], STAGE_INPUTS


def draw_pyramid(neck: CellNeck, parent: CellNeck | None = None) -> Drawing:
    """Draw one stack; cells that `parent`, a neck of the same kind, has not at their place are of the kind `new`."""
    nodes, inputs = _nodes(neck)
    cells, given = neck.graph, dict(enumerate(parent.graph)) if parent else None
    finest, coarsest = (pick(node.level for node in nodes[:inputs]) for pick in (min, max))
    centres = [
        (MARGIN + SIDE / 2 + COLUMN * max(0, number - inputs + 1), MARGIN + SIDE / 2 + ROW * (coarsest - node.level))
        for number, node in enumerate(nodes)
    ]
    paths, links = defaultdict[str, list[str]](list), list[str]()
    for number, (node, (x, y)) in enumerate(zip(nodes, centres, strict=True)):
        place = number - inputs
        new = place >= 0 and given is not None and given.get(place) != cells[place]
        paths["new" if new else f"stage{node.level - finest}"].append(_disc(x, y) if node.disc else _square(x, y))
        for read in node.reads:
            left, top = centres[read]
            links.append(f"M{left + SIDE / 2:.0f} {top:.0f}L{x - SIDE / 2 - 1:.0f} {y:.0f}")
    width = centres[-1][0] + SIDE / 2 + MARGIN
    height = 2 * MARGIN + SIDE + ROW * (coarsest - finest)
    words = f"{neck.stacks} times {neck.cells}" if isinstance(neck, NasFpn) else neck.cells
    return Drawing(width, height, {kind: "".join(parts) for kind, parts in paths.items()}, tuple(links), words)


def _square(x: float, y: float) -> str:
    return f"M{x - SIDE / 2:.0f} {y - SIDE / 2:.0f}h{SIDE:.0f}v{SIDE:.0f}h-{SIDE:.0f}z"


def _disc(x: float, y: float) -> str:
    radius = SIDE / 2
    return f"M{x - radius:.0f} {y:.0f}a{radius:.0f} {radius:.0f} 0 1 0 {SIDE:.0f} 0a{radius:.0f} {radius:.0f} 0 1 0 -{SIDE:.0f} 0z"


def node_name(node: int) -> str:
    """Name of an input or a cell of a NAS-FPN: P3 to P7, then cell 1 and on."""
    return f"P{LEVELS[node]}" if node < INPUTS else f"cell {node - INPUTS + 1}"


def branch_words(branch: Branch) -> str:
    """Input of a cell of a NAS-FCOS: C2 to C5 or a cell, and the operation on it, if there is one."""
    name = f"C{FINEST + branch.node}" if branch.node < STAGE_INPUTS else f"cell {branch.node - STAGE_INPUTS + 1}"
    if not (kernel := OPERATIONS[branch.operation]):
        return name
    dilation = f" of dilation {kernel.dilation}" if kernel.dilation > 1 else ""
    return f"{name} by separable {kernel.kernel}x{kernel.kernel}{dilation}"


def cell_edits(parent: CellNeck, child: CellNeck) -> list[str]:
    """Say cell by cell what a child's neck differs in from its parent's, which is of the same kind; of another kind, nothing."""
    if isinstance(parent, NasFpn) and isinstance(child, NasFpn):
        edits = _merge_edits(parent, child)
    elif isinstance(parent, NasFcos) and isinstance(child, NasFcos):
        edits = _fusion_edits(parent, child)
    else:
        return []
    found = [f"cell {number}: {', '.join(words)}" for number, words in enumerate(edits, start=1) if words]
    if len(parent.graph) != len(child.graph):
        found.append(f"{len(child.graph)} cells instead of {len(parent.graph)}")
    return found


def _merge_edits(parent: NasFpn, child: NasFpn) -> list[list[str]]:
    found = []
    for before, after in zip(parent.graph, child.graph, strict=False):
        words = [f"level {before.level} to {after.level}"] if before.level != after.level else []
        if before.attention != after.attention:
            words.append("attention for a sum" if after.attention else "a sum for attention")
        ours, theirs = ({cell.first, cell.second} for cell in (before, after))
        if ours != theirs:
            new, old = (" and ".join(map(node_name, sorted(nodes))) for nodes in (theirs - ours, ours - theirs))
            words.append(f"reads {new} instead of {old}")
        found.append(words)
    return found


def _fusion_edits(parent: NasFcos, child: NasFcos) -> list[list[str]]:
    found = []
    for before, after in zip(parent.graph, child.graph, strict=False):
        words = []
        if before.concatenates != after.concatenates:
            words.append("a concatenation for a sum" if after.concatenates else "a sum for a concatenation")
        ours, theirs = (Counter((cell.first, cell.second)) for cell in (before, after))
        if ours != theirs:
            new, old = (" and ".join(map(branch_words, sorted(more.elements()))) for more in (theirs - ours, ours - theirs))
            words.append(f"reads {new} instead of {old}")
        found.append(words)
    return found
