"""Architectures as immutable values with one text form, ``TYPE_SERIAL_PARALLEL[_INNER]``.

``r_111-2111-211111-211_0-0-0-0`` is ResNet-50. One character of SERIAL is one residual block; ``-`` ends a stage, and the first
block of every stage but the first has stride 2; ``1`` keeps the channels, ``2`` doubles them at this block. PARALLEL is the
number of extra sub-networks beside each stage. Resolution changes only at ``-``, width only at ``2``.

INNER is ours: the width inside the blocks of each stage, in eighths of what the block type says, such as ``8-8-6-4``; without it, all
are whole. The blocks' outputs keep their channels.

Source: SP-NAS, CVPR 2020, section 3.1, and the text form of the authors' release.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

from spnas_core.errors import UserError

MIN_BLOCKS, MAX_BLOCKS, MAX_STAGES = 8, 60, 7  # the authors' space
FEWEST_BLOCKS = 4  # of any net here: ResNet-10's
WHOLE, MOST_EIGHTHS = 8, 16  # inner width of a stage as the block type has it, and the largest
_TYPE = re.compile(r"b|r|x\(([1-9][0-9]*)x([1-9][0-9]*)d\)")


class ArchError(UserError):
    """A text that names no architecture, or one outside the space."""


@dataclass(frozen=True)
class BlockType:
    """A residual block: ``b`` BasicBlock, ``r`` Bottleneck or ``x(GxWd)`` ResNeXt (Bottleneck of G groups, base width W)."""

    text: str

    @cached_property
    def expansion(self) -> int:
        """Output channels per plane."""
        return 1 if self.text == "b" else 4

    @cached_property
    def groups(self) -> int:
        """Groups of the 3x3 convolution."""
        match = _TYPE.fullmatch(self.text)
        return int(match[1]) if match and match[1] else 1

    def inner(self, planes: int, eighths: int = WHOLE) -> int:
        """Channels of the 3x3 convolution of a block of `planes`, with so many eighths of its width; of each group at least one."""
        match = _TYPE.fullmatch(self.text)
        base_width = int(match[2]) if match and match[2] else 64
        whole = planes * base_width // 64
        return max(min(whole, 1), whole * eighths // WHOLE) * self.groups


@dataclass(frozen=True)
class Block:
    """One residual block with its resolved channels; `index` counts along the flat sequence, over all stages."""

    index: int
    stage: int
    in_channels: int
    inner_channels: int
    out_channels: int
    stride: int

    @property
    def projection(self) -> bool:
        """Whether the shortcut is a 1x1 convolution with norm."""
        return self.stride != 1 or self.in_channels != self.out_channels

    def layers(self, kind: BlockType) -> dict[str, tuple[int, int, int, int]]:
        """Weights' shapes of the convolutions by name, outputs first: of the residual branch in order, and of the projection."""
        inputs, inner, outputs = self.in_channels, self.inner_channels, self.out_channels
        if kind.expansion == 1:
            found = {"conv1": (inner, inputs, 3, 3), "conv2": (outputs, inner, 3, 3)}
        else:
            middle = (inner, inner // kind.groups, 3, 3)
            found = {"conv1": (inner, inputs, 1, 1), "conv2": middle, "conv3": (outputs, inner, 1, 1)}
        return found | ({"shortcut": (outputs, inputs, 1, 1)} if self.projection else {})


@dataclass(frozen=True)
class Level:
    """What one stage gives to the neck: channels, and stride in px of the network input."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Arch:
    """A backbone: block type, one string of digits per stage, and the number of parallel copies of each stage.

    `inner`: the width inside the blocks of each stage, in eighths; empty where all are whole.
    """

    block_type: BlockType
    stages: tuple[str, ...]
    parallel: tuple[int, ...]
    inner: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Have one form for each net: no list of widths where all are whole, and one per stage elsewhere."""
        if self.inner:
            wide = (*self.inner, *(WHOLE,) * len(self.stages))[: len(self.stages)]
            object.__setattr__(self, "inner", () if set(wide) == {WHOLE} else wide)

    def __str__(self) -> str:
        """Canonical text; ``parse(str(a)) == a``."""
        return "_".join((self.block_type.text, self.serial_text, *("-".join(map(str, n)) for n in (self.parallel, self.inner) if n)))

    @property
    def serial_text(self) -> str:
        """The SERIAL part of the text."""
        return "-".join(self.stages)

    @property
    def digits(self) -> str:
        """All blocks, one character each, without the stage ends."""
        return "".join(self.stages)

    def serial(self) -> "Arch":
        """Return the same net without its parallel part."""
        return replace(self, parallel=(0,) * len(self.stages))

    def with_parallel(self, parallel: tuple[int, ...]) -> "Arch":
        """Return the same serial net with `parallel` copies per stage."""
        return parse(str(replace(self, parallel=parallel)))

    def eighths(self, stage: int) -> int:
        """Inner width of the blocks of a stage, in eighths."""
        return self.inner[stage] if self.inner else WHOLE


@lru_cache(maxsize=1 << 14)  # a replay asks several times for each trial
def parse(text: str) -> Arch:
    """Read ``TYPE_SERIAL[_PARALLEL[_INNER]]`` or the short form ``SERIAL`` (type ``r``); ArchError says what is wrong and where."""
    parts = text.split("_")
    if len(parts) == 1:
        parts = ["r", *parts]
    if len(parts) > 4:
        raise ArchError(f"architecture {text!r}: expected TYPE_SERIAL_PARALLEL_INNER at most, got {len(parts)} parts")
    kind, serial = parts[0], parts[1]
    if not _TYPE.fullmatch(kind):
        raise ArchError(f"architecture {text!r}: expected block type b, r or x(32x4d), got {kind!r}")
    stages = tuple(serial.split("-"))
    for position, stage in enumerate(stages, start=1):
        if not stage:
            raise ArchError(f"architecture {text!r}: stage {position} is empty, expected at least one block")
        if wrong := set(stage) - {"1", "2"}:
            raise ArchError(f"architecture {text!r}: expected the digits 1 and 2, got {min(wrong)!r} in stage {position}")
    copies = parts[2].split("-") if len(parts) > 2 else ["0"] * len(stages)
    if len(copies) != len(stages) or not all(re.fullmatch(r"0|[1-9][0-9]?", c) for c in copies):
        raise ArchError(f"architecture {text!r}: expected {len(stages)} numbers of copies, got {parts[2]!r}")
    widths = parts[3].split("-") if len(parts) == 4 else [str(WHOLE)] * len(stages)
    if len(widths) != len(stages) or not all(re.fullmatch(r"[1-9]|1[0-6]", width) for width in widths):
        raise ArchError(
            f"architecture {text!r}: expected {len(stages)} inner widths, each of 1 to {MOST_EIGHTHS} eighths, got {parts[3]!r}"
        )
    return Arch(BlockType(kind), stages, tuple(map(int, copies)), tuple(map(int, widths)))


def parse_type(text: str) -> BlockType:
    """Read a block type; ArchError where it is none."""
    if not _TYPE.fullmatch(text):
        raise ArchError(f"block type: expected b, r or x(32x4d), got {text!r}")
    return BlockType(text)


def check_space(arch: Arch, min_blocks: int = MIN_BLOCKS, max_blocks: int = MAX_BLOCKS, max_stages: int = MAX_STAGES) -> Arch:
    """Return `arch` if it lies in the space, else raise ArchError."""
    blocks, stages = len(arch.digits), len(arch.stages)
    if not min_blocks <= blocks <= max_blocks:
        raise ArchError(f"architecture {str(arch)!r}: expected {min_blocks} to {max_blocks} blocks, got {blocks}")
    if stages > max_stages:
        raise ArchError(f"architecture {str(arch)!r}: expected at most {max_stages} stages, got {stages}")
    return arch


@lru_cache(maxsize=1 << 14)  # of a search's candidates, asked for again by every replay
def blocks(arch: Arch, base_width: int = 64) -> tuple[Block, ...]:
    """List the residual blocks of the serial part, in order; the stem gives `base_width` channels at stride 4."""
    found: list[Block] = []
    channels, planes = base_width, base_width
    for stage, digits in enumerate(arch.stages):
        for position, digit in enumerate(digits):
            planes *= int(digit)
            out = planes * arch.block_type.expansion
            inner = arch.block_type.inner(planes, arch.eighths(stage))
            if not inner:
                raise ArchError(f"architecture {str(arch)!r}: expected at least 1 channel per group, got 0 at base width {base_width}")
            found.append(Block(len(found), stage, channels, inner, out, 2 if stage and not position else 1))
            channels = out
    return tuple(found)


def levels(arch: Arch, base_width: int = 64) -> tuple[Level, ...]:
    """Channels and stride of every stage's output; the neck, anchors, RoI pooling and cost all read this."""
    last = {block.stage: block.out_channels for block in blocks(arch, base_width)}
    return tuple(Level(channels, 4 << stage) for stage, channels in sorted(last.items()))


class CopyRun(NamedTuple):
    """One run of copy `number` of a stage: it takes what copy `source` of the stage before left, or the stage's own input where that is -1.

    `stays`: copies of the next stage take its output.
    """

    number: int
    source: int
    stays: bool


def copy_runs(arch: Arch) -> tuple[tuple[CopyRun, ...], ...]:
    """For every stage, the runs of its copies in order: from the last to the first, each carried into the next, and that into the stage.

    Copy k takes the output of copy k of the stage before, or of the last that stayed there.
    """
    found = []
    for copies, before, after in zip(arch.parallel, (0, *arch.parallel), (*arch.parallel[1:], 0), strict=False):
        stayed = min(before, copies)
        found.append(tuple(CopyRun(number, min(number, stayed - 1), number < after) for number in reversed(range(copies))))
    return tuple(found)
