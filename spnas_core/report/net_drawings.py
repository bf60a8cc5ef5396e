"""Drawings of nets in the style of `docs/phases.svg`: a bar is a block; its height shows the resolution, its breadth the channels.

Coordinates are px of the drawing. Bars of one kind share one path, so that a page can show hundreds of nets.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spnas_core.arch import Arch, ArchError, blocks, levels
from spnas_core.cost import Size, stage_macs
from spnas_core.weights.lineage import lineage

BREADTH, HEIGHT = 3.6, 46.0  # of a bar of 64 channels, and of one of the first stage
WIDER, FLATTER = 0.4, 0.72  # exponent of the channels; ratio of a stage's height to that of the stage before
BETWEEN = 2.0  # gap between the bars of a stage


class Bar(NamedTuple):
    """Bar of a block: its left side, breadth and height."""

    left: float
    breadth: float
    height: float

    @property
    def right(self) -> float:
        """Right side of the bar."""
        return self.left + self.breadth


@dataclass(frozen=True)
class Drawing:
    """Drawing of a net: one path of filled bars per kind (`stage0`, `stage1`, ..., `new`, `copy`), and the connections as arrows."""

    width: float
    height: float
    bars: dict[str, str]
    links: tuple[str, ...]
    words: str


def descends(parent: Arch, child: Arch) -> bool:
    """Whether a net can inherit the weights of another; a member of a supernet's family may have fewer blocks than the start net."""
    try:
        lineage(parent, child)
    except ArchError:
        return False
    return True


def draw_net(
    arch: Arch, parent: Arch | None = None, scale: float = 1.0, links: bool = True, leaves_out: bool = False, width: float = 1.0
) -> Drawing:
    """Draw a net, with parallel copies below their stages; blocks that `parent` lacks are of the kind `new`.

    Without `links` the copies' connections are left out, and the drawing is narrower. `leaves_out`: see `lineage`; `width`: the net's base
    width as a multiple of the run's.
    """
    line = lineage(parent, arch, leaves_out) if parent else (0,) * len(arch.digits)
    linked = links and any(arch.parallel)
    gap, space = (19.0, 14.0) if linked else (6.0 * scale, 4.0 * scale)
    places = _places(arch, scale, gap, 9.0 if linked else 0.0, width)
    rows = _rows(arch, places, space)
    paths: dict[str, list[str]] = defaultdict(list)
    for block, bar, source in zip(blocks(arch), places, line, strict=True):
        paths["new" if source is None else f"stage{block.stage}"].append(_path(bar, rows[0]))
        paths["copy"] += [_path(bar, centre) for centre in rows[1 : arch.parallel[block.stage] + 1]]
    bottom = max(rows[arch.parallel[b.stage]] + bar.height / 2 for b, bar in zip(blocks(arch), places, strict=True))
    bars = {kind: "".join(parts) for kind, parts in paths.items() if parts}
    return Drawing(places[-1].right + (9.0 if linked else 0.0), bottom, bars, _links(arch, places, rows) if linked else (), str(arch))


def _places(arch: Arch, scale: float, gap: float, left: float, width: float) -> list[Bar]:
    found: list[Bar] = []
    x, stage = left, 0
    for block in blocks(arch):
        x += gap if block.stage != stage else 0.0
        stage = block.stage
        breadth = BREADTH * scale * (width * block.out_channels / 64) ** WIDER
        found.append(Bar(x, breadth, HEIGHT * scale * FLATTER**stage))
        x += breadth + BETWEEN * min(1.0, scale)
    return found


def _rows(arch: Arch, places: Sequence[Bar], space: float) -> list[float]:
    """Vertical centres of the main net's row and of the copies' rows, which are all as high as the tallest copied bar."""
    tall, copied = max(bar.height for bar in places), _copied(arch, places)
    return [tall / 2, *(tall + space + copied / 2 + (copied + space) * k for k in range(max(arch.parallel)))]


def _copied(arch: Arch, places: Sequence[Bar]) -> float:
    return max((bar.height for block, bar in zip(blocks(arch), places, strict=True) if arch.parallel[block.stage]), default=0.0)


def _path(bar: Bar, centre: float) -> str:
    left, top, breadth, height = (f"{px:.1f}".removesuffix(".0") for px in (bar.left, centre - bar.height / 2, bar.breadth, bar.height))
    return f"M{left} {top}h{breadth}v{height}h-{breadth}z"


def _links(arch: Arch, places: Sequence[Bar], rows: Sequence[float]) -> tuple[str, ...]:
    """Draw from each copy to the input of the copy above, from the top one to the main stage, and from copy to copy of the next stage."""
    found, before = [], list[float]()
    between = rows[1] - _copied(arch, places) / 2  # top of the copies' first row
    for stage, copies in enumerate(arch.parallel):
        members = [bar for block, bar in zip(blocks(arch), places, strict=True) if block.stage == stage]
        left, right = members[0].left, members[-1].right
        for k in range(copies):
            low, high = rows[k + 1], rows[k] + (4.0 if k else 0.0)
            turn = between + low - rows[1] - 7.0
            found.append(f"M{right + 1:.1f} {low - 4:.1f}h4V{turn:.1f}H{left - 8:.1f}V{high:.1f}h5")
            if k < len(before):
                found.append(f"M{before[k]:.1f} {low + 4:.1f}H{left - 3:.1f}")
        before = [right + 1] * min(copies, (*arch.parallel, 0)[stage + 1])
    return tuple(found)


class StageRow(NamedTuple):
    """One stage of a net: its blocks as text, output channels, stride in px of the input, parallel copies, share of the stages' MACs."""

    blocks: str
    channels: int
    stride: int
    copies: int
    share: float


def stage_rows(arch: Arch, size: Size, base_width: int) -> tuple[StageRow, ...]:
    """List the stages; the share of MACs counts copies, but neither stem nor connections."""
    macs = [(1 + copies) * one for one, copies in zip(stage_macs(arch, size, base_width), arch.parallel, strict=True)]
    rows = zip(arch.stages, levels(arch, base_width), arch.parallel, macs, strict=True)
    return tuple(StageRow(digits, level.channels, level.stride, copies, one / sum(macs)) for digits, level, copies, one in rows)
