"""NAS-FPN: merging cells over the levels P3 to P7, stacked several times; the cells are a search space of their own.

Built is the version of mmdetection (`mmdet/models/necks/nas_fpn.py` 3.3, with the cells of mmcv's `ops/merge_cells.py`), whose attention is
fine + sigmoid(mean over space of fine) * coarse; in TensorFlow's (`official/vision/modeling/decoders/nasfpn.py`) the input of the higher
level gives the gate, by its maximum. A cell brings its two inputs to its level (max-pool down, nearest neighbour up) and merges them;
ReLU, 3x3 convolution and norm follow. The inputs P3 to P7 are a 1x1 convolution and norm of the stages with strides 8 and more; those
that the backbone has no stage for are a 1x1 convolution, norm and max-pool of the level before. Not as there: a convolution has no bias,
which its norm would take away, and odd sizes are halved upwards, where mmdetection wants multiples of 128 px.
Source: Ghiasi, Lin and Le, CVPR 2019, arXiv 1904.07392, section 3.1 and figure 6; the found cells as in both programs.
"""

import re
from collections.abc import Hashable, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, PositiveInt

from spnas_core.arch import Arch, ArchError, levels
from spnas_core.cost import Cost, Size, conv_cost
from spnas_core.errors import UserError
from spnas_core.necks.cells import LEVELS, cells_text, level_outputs, level_size, norm_shapes
from spnas_core.necks.fpn import Output
from spnas_core.settings.base import Settings

INPUTS = len(LEVELS)  # P3 to P7, as the outputs
FOUND_CELLS = "4a1_3-4s1_5-3s0_6-4s6_7-5a7_8-7a6_9-6a9_10"  # the pyramid of 7 cells of the paper
LATERAL, EXTRA, CELLS = "neck.lateral.", "neck.extra.", "neck.stacks."  # and the number of the stage, of the input, of the stack
_CELL = re.compile(r"(\d+)([as])(\d+)_(\d+)")
_TEXT = re.compile(r"nasfpn([1-9]\d*)x([1-9]\d*)(?:\(([^()+]*)\))?")
CELL_TENSOR = re.compile(
    r"(neck\.(?:lateral\.(?P<stage>\d+)|extra\.[0-4]|stacks\.\d+\.\d+\.\d+[as]\d+_\d+)\.)(?:conv\.weight|bn\.(?:gamma|beta|moving_mean|moving_variance))"
)


class Cell(NamedTuple):
    """Merging cell: the level of its output, whether it merges by attention (else by sum), and its two inputs, the smaller number first.

    Inputs are numbered: 0 to 4 are P3 to P7, 5 and on the cells before it.
    """

    level: int
    attention: bool
    first: int
    second: int

    @property
    def text(self) -> str:
        """Short text, such as ``4a1_3``: level 4, attention, of P4 and P6; ``s`` is a sum."""
        return f"{self.level}{'a' if self.attention else 's'}{self.first}_{self.second}"


def parse_cells(text: str) -> tuple[Cell, ...]:
    """Read cells such as ``4a1_3-4s1_5-...``; the last five are the outputs, one for each level. UserError says what is wrong and where."""
    tokens, found = text.split("-"), list[Cell]()
    for number, token in enumerate(tokens, start=1):
        where = f"cells {text!r}: cell {number}, {token!r}"
        if not (match := _CELL.fullmatch(token)):
            raise UserError(f"{where}: expected a level, s (sum) or a (attention), and two inputs, such as 4a1_3")
        level, first, second = int(match[1]), *sorted((int(match[3]), int(match[4])))
        last = INPUTS + number - 2
        if level not in LEVELS:
            raise UserError(f"{where}: expected a level from {LEVELS[0]} to {LEVELS[-1]}, got {level}")
        if first == second or second > last:
            raise UserError(f"{where}: expected two different inputs from 0 to {last} (P3 to P7, then the cells before it)")
        found.append(Cell(level, match[2] == "a", first, second))
    outputs = [cell.level for cell in found[-INPUTS:]]
    if sorted(outputs) != list(LEVELS):
        raise UserError(f"cells {text!r}: expected the last {INPUTS} to be the outputs, one of each level 3 to 7, got levels {outputs}")
    return tuple(found)


def _canonical(text: str) -> str:
    return cells_text(parse_cells(text))


CellsText = Annotated[
    str, AfterValidator(_canonical), Field(json_schema_extra={"pattern": r"^[0-9]+[as][0-9]+_[0-9]+(-[0-9]+[as][0-9]+_[0-9]+)*$"})
]


class Merge(NamedTuple):
    """What one cell does: its level, its inputs, the finer one first, and the nodes of its level that are added to their merger."""

    level: int
    attention: bool
    fine: int
    coarse: int
    joined: tuple[int, ...]


def merges(cells: Sequence[Cell]) -> tuple[Merge, ...]:
    """List what the cells do, in order. To an output are added the nodes of its level that no cell so far has taken, itself included."""
    node_levels, taken, found = [*LEVELS, *(cell.level for cell in cells)], set[int](), list[Merge]()
    for number, cell in enumerate(cells):
        taken |= {cell.first, cell.second}
        fine, coarse = sorted((cell.first, cell.second), key=lambda node: (node_levels[node], node))
        unused = [node for node in range(INPUTS + number) if node_levels[node] == cell.level and node not in taken]
        joined = tuple(unused) if number >= len(cells) - INPUTS else ()
        taken |= set(joined)
        found.append(Merge(cell.level, cell.attention, fine, coarse, joined))
    return tuple(found)


def output_nodes(cells: Sequence[Cell]) -> tuple[int, ...]:
    """Numbers of the nodes that are the outputs P3 to P7."""
    by_level = {cell.level: node for node, cell in enumerate(cells[-INPUTS:], start=len(cells))}
    return tuple(by_level[level] for level in LEVELS)


class NasFpn(Settings):
    """Pyramid of merging cells (NAS-FPN), over strides 8 to 128."""

    title: ClassVar[str] = "NAS-FPN"
    coarsest: ClassVar[int] = 128  # stride of the coarsest map with a norm
    kind: Literal["nas_fpn"] = Field("nas_fpn", description="names this neck")
    channels: PositiveInt = Field(256, description="channels of every map")
    stacks: PositiveInt = Field(7, description="times that the cells follow each other, each time with weights of their own")
    cells: CellsText = Field(
        FOUND_CELLS,
        description="merging cells: level, s (sum) or a (attention), two inputs (0 to 4: P3 to P7; 5 and on: the cells before it); the "
        "last five are the outputs",
    )

    @property
    def text(self) -> str:
        """Canonical short text; ``parse_neck(neck.text) == neck``."""
        return f"nasfpn{self.channels}x{self.stacks}" + ("" if self.cells == FOUND_CELLS else f"({self.cells})")

    @classmethod
    def parse(cls, text: str) -> "NasFpn | None":
        """Read the text of such a pyramid; None where it is none, UserError where its cells are wrong."""
        if not (match := _TEXT.fullmatch(text)):
            return None
        return cls(channels=int(match[1]), stacks=int(match[2]), cells=FOUND_CELLS if match[3] is None else _canonical(match[3]))

    @property
    def graph(self) -> tuple[Cell, ...]:
        """The cells of one stack."""
        return parse_cells(self.cells)

    def laterals(self, arch: Arch) -> range:
        """Stages of the backbone that it reads, from 0; ArchError where these are none, or where a stage is coarser than P7."""
        if not 2 <= len(arch.stages) <= INPUTS + 1:
            expected = f"expected 2 to {INPUTS + 1} stages under a NAS-FPN, whose levels have strides 8 to 128"
            raise ArchError(f"architecture {str(arch)!r}: {expected}, got {len(arch.stages)}")
        return range(1, len(arch.stages))

    def identity(self, arch: Arch) -> Hashable:
        """Value that pyramids share if and only if they are written alike."""
        return self.channels, self.stacks, self.cells

    def outputs(self, arch: Arch, size: Size) -> tuple[Output, ...]:
        """Give the outputs P3 to P7 for a network input of `size` px."""
        self.laterals(arch)
        return level_outputs(size)

    def cost(self, arch: Arch, size: Size, base_width: int) -> Cost:
        """Cost on a backbone for a network input of `size` px; each convolution has a norm."""
        total, stages = Cost(), self.laterals(arch)
        for stage in stages:
            level = LEVELS[stage - 1]
            total += conv_cost(levels(arch, base_width)[stage].channels, self.channels, 1, level_size(level, size))
        for level in LEVELS[len(stages) :]:
            total += conv_cost(self.channels, self.channels, 1, level_size(level - 1, size))
        for cell in self.graph:
            once = conv_cost(self.channels, self.channels, 3, level_size(cell.level, size))
            total += Cost(self.stacks * once.params, self.stacks * once.macs)
        return total

    def shapes(self, arch: Arch, base_width: int) -> dict[str, tuple[int, ...]]:
        """Shape of each of its tensors on a backbone, by name."""
        found, stages, square = dict[str, tuple[int, ...]](), self.laterals(arch), (self.channels, self.channels)
        names = {f"{LATERAL}{stage}": (self.channels, levels(arch, base_width)[stage].channels, 1, 1) for stage in stages}
        names |= {f"{EXTRA}{number}": (*square, 1, 1) for number in range(len(stages), INPUTS)}
        names |= {cell_name(stack, number, cell): (*square, 3, 3) for stack in range(self.stacks) for number, cell in enumerate(self.graph)}
        for name, shape in names.items():
            found |= {f"{name}.conv.weight": shape, **norm_shapes(f"{name}.bn", shape[0])}
        return found


def cell_name(stack: int, number: int, cell: Cell) -> str:
    """Name of the tensors of a cell, without the part; its text is in it, so names tell which cells two pyramids share."""
    return f"{CELLS}{stack}.{number}.{cell.text}"
