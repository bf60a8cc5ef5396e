"""The feature pyramid: a 1x1 convolution (inner) per merged level, a 3x3 one (layer) per output, and extra outputs above these.

Which merged level an output reads is a setting, as in the ParallelFPN of the public SP-NAS programs. So are the stage that the pyramid
begins with, and what the extra outputs are: one pooled, or two of convolutions of stride 2 (extra), P6 and P7 of a net of four stages.
Sources: Lin et al., CVPR 2017; torchvision `ops/feature_pyramid_network.py` with `LastLevelMaxPool` or `LastLevelP6P7`; Huawei Vega
`ParallelFPN`.
"""

import re
from collections.abc import Collection, Hashable
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt

from spnas_core.arch import Arch, ArchError, levels
from spnas_core.cost import Cost, Size, conv_cost, half, stage_sizes
from spnas_core.settings.base import Settings, Taps

INNER, LAYER = "neck.inner.", "neck.layer."  # tensors of these names, and the number of their level
EXTRA = "neck.extra."  # and those of the extra outputs by convolutions, numbered from 0
PYRAMID_TENSOR = re.compile(r"neck\.(inner|layer|extra)\.(\d+)\.(weight|bias)")
_TEXT = re.compile(r"fpn([1-9]\d*)(?:\(((?:\d+(?:-\d+)*)?)\))?(?:@([1-9]\d*))?(?:-(none|p5|c5))?")
_CONVOLVED = 2  # extra outputs by convolutions


class Output(NamedTuple):
    """One map that the heads read: its size (H, W) in cells, and its stride, px of the network input.

    `scale`, px: the stride by which the objects that it is for are sized. `extra`: it has anchors, but no region is pooled from it.
    """

    size: Size
    stride: int
    scale: int
    extra: bool = False


class Fpn(Settings):
    """Feature pyramid network."""

    later: ClassVar[frozenset[str]] = frozenset({"first_level", "extra_levels"})
    kind: Literal["fpn"] = Field("fpn", description="names this neck")
    channels: PositiveInt = Field(256, description="channels of every output")
    taps: Taps | None = Field(
        None, description="merged level that each output of the pyramid reads, [1, 1, 2, 3] for example; null: its own, [0, 1, 2, 3]"
    )
    first_level: NonNegativeInt = Field(
        0, description="stage that the pyramid begins with: 0, of stride 4, or 1, of stride 8, as one-stage heads have it by default"
    )
    extra_levels: Literal["none", "pool", "p5", "c5"] = Field(
        "pool",
        description="outputs above those of the stages: none, every second cell of the last, or two of 3x3 convolutions of stride 2 on the "
        "last output (p5) or on the last stage (c5); one-stage heads have p5 by default",
    )

    @property
    def text(self) -> str:
        """Canonical short text; ``parse_neck(neck.text) == neck``."""
        taps = "" if self.taps is None else f"({'-'.join(map(str, self.taps))})"
        first = f"@{self.first_level}" if self.first_level else ""
        return f"fpn{self.channels}{taps}{first}" + ("" if self.extra_levels == "pool" else f"-{self.extra_levels}")

    @classmethod
    def parse(cls, text: str) -> "Fpn | None":
        """Read the text of a pyramid; None where it is none."""
        if not (match := _TEXT.fullmatch(text)):
            return None
        taps = None if match[2] is None else tuple(map(int, filter(None, match[2].split("-"))))
        found = {"channels": int(match[1]), "taps": taps, "first_level": int(match[3] or 0), "extra_levels": match[4] or "pool"}
        return cls.model_validate(found)

    def reads(self, arch: Arch) -> tuple[int, ...]:
        """For every output, one per stage from the first on, the merged level that it reads; ArchError where there is no such level.

        Outputs beyond the end of `taps` read their own level, and so do all where it is None: the plain pyramid.
        """
        count, given, first = len(arch.stages), self.taps or (), self.first_level
        if first >= count:
            raise ArchError(f"architecture {str(arch)!r}: expected neck.first_level of at most {count - 1}, got {first}")
        if len(given) > count - first or not all(0 <= tap < count for tap in given):
            expected = f"expected taps of at most {count - first} levels, each from 0 to {count - 1}"
            raise ArchError(f"architecture {str(arch)!r}: {expected}, got {list(given)}")
        return (*given, *range(first + len(given), count))

    def identity(self, arch: Arch) -> Hashable:
        """Value that pyramids on `arch` share if and only if they are the same: several `taps` may name one."""
        plain = (self.first_level, self.extra_levels) == (0, "pool")
        return (self.channels, self.reads(arch)) + (() if plain else (self.first_level, self.extra_levels))

    def outputs(self, arch: Arch, size: Size) -> tuple[Output, ...]:
        """Give the outputs for a network input of `size` px: one per stage, with the scale of its own level, and the extra ones."""
        sizes, strides = stage_sizes(arch, size), [level.stride for level in levels(arch)]
        found = [Output(sizes[tap], strides[tap], own) for tap, own in zip(self.reads(arch), strides[self.first_level :], strict=True)]
        last = Output(sizes[-1], strides[-1], strides[-1]) if self.extra_levels == "c5" else found[-1]
        for _ in range({"none": 0, "pool": 1}.get(self.extra_levels, _CONVOLVED)):
            last = Output(half(last.size), 2 * last.stride, 2 * last.scale, extra=True)
            found.append(last)
        return tuple(found)

    def extra_inputs(self, arch: Arch, base_width: int) -> tuple[int, ...]:
        """Input channels of each extra output's convolution."""
        last = levels(arch, base_width)[-1].channels
        return {"p5": (self.channels,) * _CONVOLVED, "c5": (last, self.channels)}.get(self.extra_levels, ())

    def cost(self, arch: Arch, size: Size, base_width: int) -> Cost:
        """Cost on a backbone for a network input of `size` px; convolutions have a bias."""
        total, first = Cost(), min(self.reads(arch))
        for level, out in list(zip(levels(arch, base_width), stage_sizes(arch, size), strict=True))[first:]:
            total += conv_cost(level.channels, self.channels, 1, out, norm=False)
        outputs = self.outputs(arch, size)
        extra = self.extra_inputs(arch, base_width)
        inputs = (*(self.channels for output in outputs if not output.extra), *extra)
        for given, output in zip(inputs, outputs, strict=False):  # a pooled output costs nothing
            total += conv_cost(given, self.channels, 3, output.size, norm=False)
        return total


def continues(name: str, parent: Arch, child: Arch, given: Collection[str]) -> bool:
    """Whether the tensor `name` of a child's pyramid starts from that of its parent, which has tensors of the names `given`.

    New are those of stages, levels and extra outputs that the parent has not, and the weights of a convolution that reads a stage with
    other channels or another stride; the first extra one may read the last stage.
    """
    if not (match := PYRAMID_TENSOR.fullmatch(name)):
        return True
    if unused(name, given):
        return False
    ours, theirs, kind, number = levels(parent), levels(child), match[1], int(match[2])
    if kind == "extra":
        return number > 0 or match[3] == "bias" or ours[-1] == theirs[-1]
    if number >= len(ours):
        return False
    return not (kind == "inner" and match[3] == "weight" and ours[number] != theirs[number])


def unused(name: str, wanted: Collection[str]) -> bool:
    """Whether `name` is of a level, or an extra output, that the pyramid of a net with tensors of the names `wanted` has not.

    That pyramid lacks the levels below its lowest, which its taps or its first level leave out.
    """
    if not (match := PYRAMID_TENSOR.fullmatch(name)):
        return False
    own = [int(other[2]) for other in map(PYRAMID_TENSOR.fullmatch, wanted) if other and other[1] == match[1]]
    return not own if match[1] == "extra" else int(match[2]) < min(own, default=0)


def lacks(name: str, given: Collection[str]) -> bool:
    """Whether `name` is of a level without an output, or an extra output, in the pyramid of a net with tensors of the names `given`."""
    match = PYRAMID_TENSOR.fullmatch(name)
    return match is not None and unused(name if match[1] == "extra" else f"{LAYER}{match[2]}.{match[3]}", given)
