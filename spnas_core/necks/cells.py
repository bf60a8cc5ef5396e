"""What necks of cells share: their text, the outputs P3 to P7, their norms, and which tensors of a cell a child continues."""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from spnas_core.arch import Arch, levels
from spnas_core.cost import Size, half
from spnas_core.necks.fpn import Output

LEVELS = (3, 4, 5, 6, 7)  # of the outputs: level n has stride 2^n
POOLED_LEVELS = 3  # of the outputs, from the finest: regions are pooled from these
EPSILON = 1e-5  # of the norms, which are always trained
NORM = ("gamma", "beta", "moving_mean", "moving_variance")
PYRAMID = "pyramid"  # what a layer reads that reads all channels of a map of the neck
CellTensor = re.Pattern[str]  # of the names of a neck's tensors; group 1 is what all tensors of a cell begin with, `stage` a stage read


class WordedCell(Protocol):
    """A cell that has a text of its own."""

    @property
    def text(self) -> str:
        """Short text, without ``-`` and ``.``."""


def cells_text(cells: Iterable[WordedCell]) -> str:
    """Text of cells, the canonical one where it is that of cells as they are read."""
    return "-".join(cell.text for cell in cells)


def level_size(level: int, size: Size) -> Size:
    """Size of a map of this level, in cells, for a network input of `size` px."""
    for _ in range(level):
        size = half(size)
    return size


def level_outputs(size: Size) -> tuple[Output, ...]:
    """Give the outputs P3 to P7 for a network input of `size` px; P6 and P7 have anchors, but no regions are pooled from them."""
    return tuple(
        Output(level_size(level, size), 1 << level, 1 << level, extra=number >= POOLED_LEVELS) for number, level in enumerate(LEVELS)
    )


def norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of the norm `name`."""
    return {f"{name}.{part}": (channels,) for part in NORM}


def continues_cell(tensors: CellTensor, name: str, parent: Arch, child: Arch, given: Collection[str]) -> bool:
    """Whether the tensor `name` of a child's neck starts from that of its parent, which has tensors of the names `given`.

    New are changed cells and inputs that the parent has not, with all of their tensors, and those of a stage whose channels differ.
    """
    if not (match := tensors.fullmatch(name)):
        return True
    if match["stage"]:
        stage, (ours, theirs) = int(match["stage"]), (levels(parent), levels(child))
        if stage >= len(ours) or ours[stage] != theirs[stage]:
            return False
    return any(one.startswith(match[1]) for one in given)


def lacks_cell(tensors: CellTensor, name: str, wanted: Collection[str]) -> bool:
    """Whether `name` is of a cell or an input that a net with tensors of the names `wanted` has not.

    Of the inputs that read a stage these are the ones that no cell takes, below the last stage, which always is read.
    """
    match = tensors.fullmatch(name)
    if not match or any(one.startswith(match[1]) for one in wanted):
        return False
    last = max((int(one["stage"]) for one in map(tensors.fullmatch, wanted) if one and one["stage"]), default=0)
    return not match["stage"] or int(match["stage"]) < last


def cell_layers(tensors: CellTensor, names: Iterable[str]) -> Iterator[tuple[str, int | str | None]]:
    """Layers among the tensors `names`, without the last word, and what each reads: a stage, or `PYRAMID`; None: each channel itself."""
    for name in names:
        layer, _, word = name.rpartition(".")
        if word in ("weight", "gamma", "factor") and (match := tensors.fullmatch(name)):
            own = word != "weight" or layer.endswith(".depth")
            yield layer, None if own else int(match["stage"]) if match["stage"] else PYRAMID
