"""NAS-FCOS's neck: two-input cells over the stages C2 to C5; the cells are a search space of their own.

An input goes through an operation of its own, then bilinearly to the size of the larger one of the two, and both are merged: by a sum with
a learnt factor of each channel, or by a concatenation, norm, ReLU and 1x1 convolution in groups of two channels. The last three cells that
no other reads become P5, P4 and P3, in this order; earlier ones are added to each of these; P6 and P7 are convolutions of stride 2 of P5.
Operations: separable 3x3, separable 3x3 of dilation 3, separable 5x5 of dilation 6 (depthwise, 1x1, norm, ReLU), skip.

Not as there:
- No deformable 3x3 convolution. MindSpore 2.8.0 has it on all devices by its records (`ops.deformable_conv2d`), but ONNX has it from opset
  19 on, where exports are of opset 17, and Ascend's ATC has it not at all. In the found cells a separable 3x3 stands in its place.
- A group of the 1x1 convolution has a channel of each input. In the authors' program it has two neighbours of the concatenation, which are
  of one input, so that no channel of the result reads both. Here a neck of other channels inherits exactly, too.
- Any number of stages: inputs that the backbone has no stage for are maxima of 2x2 of the input before, and stages beyond the fourth are
  added to C5. Some cell reads C5, so that no stage is without use; 1x1 convolutions exist for the stages that cells read alone.
- Only the neck is searched; the head's search is left out.
Sources: Wang et al., CVPR 2020, arXiv 1906.04423, section 3; https://github.com/Lausannen/NAS-FCOS `maskrcnn_benchmark/nas/modeling`.
"""

import re
from collections.abc import Hashable, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, PositiveInt

from spnas_core.arch import Arch, levels
from spnas_core.cost import Cost, Size, conv_cost
from spnas_core.errors import UserError
from spnas_core.necks.cells import LEVELS, NORM, cells_text, level_outputs, level_size, norm_shapes
from spnas_core.necks.fpn import Output
from spnas_core.settings.base import Settings

STAGE_INPUTS = 4  # C2 to C5
FINEST = 2  # level of the first of them
ENDS = 3  # P5, P4, P3
SEPARABLE_CELLS = "c3s_3s-c3s_3s-c3k_4s-c1s_3k-c3s_5s-c4s_7s-c2s_7s"  # the cells of the paper, separable for deformable 3x3 convolutions
ADAPT, FUSIONS, ABOVE = "neck.adapt.", "neck.fusions.", "neck.above."  # and the number of the stage, of the cell, of P6 and P7
_FUSION = re.compile(r"([pc])(\d+)([sdwk])_(\d+)([sdwk])")
_TEXT = re.compile(r"nasfcos([1-9]\d*)(?:\(([^()+]*)\))?")
FUSION_TENSOR = re.compile(
    r"(neck\.(?:adapt\.(?P<stage>\d+)|above\.[01]|fusions\.\d+\.[pc]\d+[sdwk]_\d+[sdwk])\.)"
    rf"(?:(?:first|second)\.)?(?:weight|bias|factor|(?:depth|conv)\.weight|(?:bn|norm)\.(?:{'|'.join(NORM)}))"
)


class Separable(NamedTuple):
    """Separable convolution: side and dilation of its depthwise kernel."""

    kernel: int
    dilation: int


OPERATIONS = {"s": Separable(3, 1), "d": Separable(3, 3), "w": Separable(5, 6), "k": None}  # by their letters; None: skip


class Branch(NamedTuple):
    """Input of a cell: the number of the node that it reads (0 to 3: C2 to C5; 4 and on: the cells), and the letter of its operation."""

    node: int
    operation: str

    @property
    def text(self) -> str:
        """Short text, such as ``3s``."""
        return f"{self.node}{self.operation}"


class Fusion(NamedTuple):
    """Two-input cell: whether it concatenates (else it sums), and its inputs in their order (`fuse`)."""

    concatenates: bool
    first: Branch
    second: Branch

    @property
    def text(self) -> str:
        """Short text, such as ``c3k_4s``: concatenation of C5 as it is and of the first cell after a separable 3x3; ``p`` is a sum."""
        return f"{'c' if self.concatenates else 'p'}{self.first.text}_{self.second.text}"


def fuse(concatenates: bool, one: Branch, other: Branch) -> Fusion:
    """Cell of two inputs, in either order."""
    return Fusion(concatenates, *sorted((one, other)))


def parse_fusions(text: str) -> tuple[Fusion, ...]:
    """Read cells such as ``c3s_3s-p1d_4k-...``; UserError says what is wrong and where."""
    found = list[Fusion]()
    for number, token in enumerate(text.split("-"), start=1):
        where = f"cells {text!r}: cell {number}, {token!r}"
        if not (match := _FUSION.fullmatch(token)):
            expected = "expected p (sum) or c (concatenation), and two inputs, each a number and an operation, s, d, w or k, such as c3k_4s"
            raise UserError(f"{where}: {expected}")
        cell = fuse(match[1] == "c", Branch(int(match[2]), match[3]), Branch(int(match[4]), match[5]))
        last = STAGE_INPUTS + number - 2
        if cell.second.node > last:
            raise UserError(f"{where}: expected inputs from 0 to {last} (C2 to C5, then the cells before it), got {cell.second.node}")
        found.append(cell)
    if mistake := fusions_mistake(found):
        raise UserError(f"cells {text!r}: {mistake}")
    return tuple(found)


def fusions_mistake(cells: Sequence[Fusion]) -> str:
    """Say why cells make no neck, each of which is valid; empty where they make one."""
    if (count := len(_loose(cells))) < ENDS:
        return f"expected at least {ENDS} cells that no other reads, which become P5, P4 and P3, got {count}"
    if not any(cell.first.node == STAGE_INPUTS - 1 or cell.second.node == STAGE_INPUTS - 1 for cell in cells):
        return f"expected a cell that reads {STAGE_INPUTS - 1} (C5), so that all of the backbone has a use, got none"
    return ""


def _loose(cells: Sequence[Fusion]) -> list[int]:
    """Nodes of the cells that no other reads, in their order."""
    read = {branch.node for cell in cells for branch in (cell.first, cell.second)}
    return [node for node in range(STAGE_INPUTS, STAGE_INPUTS + len(cells)) if node not in read]


def fusion_ends(cells: Sequence[Fusion]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Nodes that become P3, P4 and P5, and nodes that are added to each of these."""
    loose = _loose(cells)
    return tuple(loose[: -ENDS - 1 : -1]), tuple(loose[:-ENDS])


def fusion_levels(cells: Sequence[Fusion]) -> tuple[int, ...]:
    """Level of every node: of C2 to C5, then of the cells, each that of its finer input."""
    found = [*range(FINEST, FINEST + STAGE_INPUTS)]
    for cell in cells:
        found.append(min(found[cell.first.node], found[cell.second.node]))
    return tuple(found)


def branch_names(number: int, cell: Fusion) -> tuple[tuple[Branch, str], ...]:
    """List the inputs of a cell, and the names of their tensors without the part; by the text in them names tell what two necks share."""
    name = f"{FUSIONS}{number}.{cell.text}"
    return (cell.first, f"{name}.first."), (cell.second, f"{name}.second.")


def _canonical(text: str) -> str:
    return cells_text(parse_fusions(text))


FusionsText = Annotated[
    str,
    AfterValidator(_canonical),
    Field(json_schema_extra={"pattern": r"^[pc][0-9]+[sdwk]_[0-9]+[sdwk](-[pc][0-9]+[sdwk]_[0-9]+[sdwk])*$"}),
]


class NasFcos(Settings):
    """Neck of two-input cells (NAS-FCOS), over strides 8 to 128."""

    title: ClassVar[str] = "NAS-FCOS"
    coarsest: ClassVar[int] = 32  # stride of the coarsest map with a norm
    kind: Literal["nas_fcos"] = Field("nas_fcos", description="names this neck")
    channels: PositiveInt = Field(256, description="channels of every map")
    cells: FusionsText = Field(
        SEPARABLE_CELLS,
        description="cells: p (sum) or c (concatenation), and two inputs, each a number (0 to 3: C2 to C5; 4 and on: the cells before it) "
        "and its operation: s, d, w (separable 3x3, 3x3 of dilation 3, 5x5 of dilation 6) or k (skip); the last three that no other "
        "reads become P5, P4 and P3",
    )

    @property
    def text(self) -> str:
        """Canonical short text; ``parse_neck(neck.text) == neck``."""
        return f"nasfcos{self.channels}" + ("" if self.cells == SEPARABLE_CELLS else f"({self.cells})")

    @classmethod
    def parse(cls, text: str) -> "NasFcos | None":
        """Read the text of such a neck; None where it is none, UserError where its cells are wrong."""
        if not (match := _TEXT.fullmatch(text)):
            return None
        return cls(channels=int(match[1]), cells=SEPARABLE_CELLS if match[2] is None else _canonical(match[2]))

    @property
    def graph(self) -> tuple[Fusion, ...]:
        """The cells."""
        return parse_fusions(self.cells)

    def adapts(self, arch: Arch) -> tuple[int, ...]:
        """Stages that it reads: those that cells take, or the last for inputs without a stage; with C5 all stages after it."""
        last = len(arch.stages) - 1
        taken = {min(branch.node, last) for cell in self.graph for branch in (cell.first, cell.second) if branch.node < STAGE_INPUTS}
        return tuple(sorted(taken | set(range(STAGE_INPUTS, last + 1))))

    def identity(self, arch: Arch) -> Hashable:
        """Value that necks share if and only if they are written alike."""
        return self.kind, self.channels, self.cells

    def outputs(self, arch: Arch, size: Size) -> tuple[Output, ...]:
        """Give the outputs P3 to P7 for a network input of `size` px."""
        return level_outputs(size)

    def cost(self, arch: Arch, size: Size, base_width: int) -> Cost:
        """Cost on a backbone for a network input of `size` px; factors and norms of cells count as parameters alone."""
        total, channels, stages, node_levels = Cost(), self.channels, levels(arch, base_width), fusion_levels(self.graph)
        for stage in self.adapts(arch):
            total += conv_cost(stages[stage].channels, channels, 1, level_size(FINEST + stage, size))
        for cell in self.graph:
            for branch in (cell.first, cell.second):
                total += Cost(channels * (3 if cell.concatenates else 1))
                if kernel := OPERATIONS[branch.operation]:
                    out, weights = level_size(node_levels[branch.node], size), channels * kernel.kernel**2
                    total += Cost(weights, weights * out[0] * out[1]) + conv_cost(channels, channels, 1, out)
        for level in LEVELS[ENDS:]:
            total += conv_cost(channels, channels, 3, level_size(level, size), norm=False)
        return total

    def shapes(self, arch: Arch, base_width: int) -> dict[str, tuple[int, ...]]:
        """Shape of each of its tensors on a backbone, by name."""
        found, channels, stages = dict[str, tuple[int, ...]](), self.channels, levels(arch, base_width)
        for stage in self.adapts(arch):
            found[f"{ADAPT}{stage}.conv.weight"] = (channels, stages[stage].channels, 1, 1)
            found |= norm_shapes(f"{ADAPT}{stage}.bn", channels)
        for number, cell in enumerate(self.graph):
            for branch, name in branch_names(number, cell):
                if kernel := OPERATIONS[branch.operation]:
                    found[f"{name}depth.weight"] = (channels, 1, kernel.kernel, kernel.kernel)
                    found |= {f"{name}conv.weight": (channels, channels, 1, 1), **norm_shapes(f"{name}bn", channels)}
                found |= {f"{name}factor": (channels,), **(norm_shapes(f"{name}norm", channels) if cell.concatenates else {})}
        for number in range(len(LEVELS) - ENDS):
            found |= {f"{ABOVE}{number}.weight": (channels, channels, 3, 3), f"{ABOVE}{number}.bias": (channels,)}
        return found
