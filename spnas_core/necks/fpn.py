"""The feature pyramid: a 1x1 convolution (inner) per merged level, a 3x3 one (layer) per output, and one extra, pooled output.

Which merged level an output reads is a setting, as in the ParallelFPN of the public SP-NAS programs.
Sources: Lin et al., CVPR 2017; torchvision `ops/feature_pyramid_network.py` with `LastLevelMaxPool`; Huawei Vega `ParallelFPN`.
"""

import re
from collections.abc import Collection, Hashable, Iterable
from typing import Literal, NamedTuple

from pydantic import Field, PositiveInt

from spnas_core.arch import Arch, ArchError, levels
from spnas_core.cost import Cost, Size, conv_cost, half, stage_sizes
from spnas_core.settings.base import Settings, Taps

INNER, LAYER = "neck.inner.", "neck.layer."  # tensors of these names, and the number of their level
_INNER = re.compile(r"neck\.inner\.(\d+)\.")
_TENSOR = re.compile(r"neck\.(inner|layer)\.(\d+)\.(weight|bias)")
_TEXT = re.compile(r"fpn([1-9]\d*)(?:\(((?:\d+(?:-\d+)*)?)\))?")


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

    kind: Literal["fpn"] = Field("fpn", description="names this neck")
    channels: PositiveInt = Field(256, description="channels of every output")
    taps: Taps | None = Field(
        None, description="merged level that each output of the pyramid reads, [1, 1, 2, 3] for example; null: its own, [0, 1, 2, 3]"
    )

    @property
    def text(self) -> str:
        """Canonical short text; ``parse_neck(neck.text) == neck``."""
        return f"fpn{self.channels}" + ("" if self.taps is None else f"({'-'.join(map(str, self.taps))})")

    @classmethod
    def parse(cls, text: str) -> "Fpn | None":
        """Read the text of a pyramid; None where it is none."""
        if not (match := _TEXT.fullmatch(text)):
            return None
        taps = None if match[2] is None else tuple(map(int, filter(None, match[2].split("-"))))
        return cls(channels=int(match[1]), taps=taps)

    def reads(self, arch: Arch) -> tuple[int, ...]:
        """For every output, one per stage, the number of the merged level that it reads; ArchError where there is no such level.

        Outputs beyond the end of `taps` read their own level, and so do all where it is None: the plain pyramid.
        """
        count, given = len(arch.stages), self.taps or ()
        if len(given) > count or not all(0 <= tap < count for tap in given):
            expected = f"expected taps of at most {count} levels, each from 0 to {count - 1}"
            raise ArchError(f"architecture {str(arch)!r}: {expected}, got {list(given)}")
        return (*given, *range(len(given), count))

    def identity(self, arch: Arch) -> Hashable:
        """Value that pyramids on `arch` share if and only if they are the same: several `taps` may name one."""
        return self.channels, self.reads(arch)

    def outputs(self, arch: Arch, size: Size) -> tuple[Output, ...]:
        """Give the outputs for a network input of `size` px: one per stage, with the scale of its own level, and the pooled one."""
        sizes, strides = stage_sizes(arch, size), [level.stride for level in levels(arch)]
        found = [Output(sizes[tap], strides[tap], own) for tap, own in zip(self.reads(arch), strides, strict=True)]
        return (*found, Output(half(found[-1].size), 2 * found[-1].stride, 2 * strides[-1], extra=True))

    def cost(self, arch: Arch, size: Size, base_width: int) -> Cost:
        """Cost on a backbone for a network input of `size` px; convolutions have a bias."""
        total, first = Cost(), min(self.reads(arch))
        for level, out in list(zip(levels(arch, base_width), stage_sizes(arch, size), strict=True))[first:]:
            total += conv_cost(level.channels, self.channels, 1, out, norm=False)
        for output in self.outputs(arch, size):
            if not output.extra:
                total += conv_cost(self.channels, self.channels, 3, output.size, norm=False)
        return total


def lowest_merged(names: Iterable[str]) -> int:
    """Lowest level that the pyramid of a net with tensors of these names merges: its taps leave out those below."""
    return min((int(match[1]) for match in map(_INNER.match, names) if match), default=0)


def continues(name: str, parent: Arch, child: Arch, given: Collection[str]) -> bool:
    """Whether the tensor `name` of a child's pyramid starts from that of its parent, which has tensors of the names `given`.

    New are those of stages and merged levels that the parent has not, and the weights of an inner convolution whose level has other
    channels or another stride.
    """
    if not (match := _TENSOR.fullmatch(name)):
        return True
    ours, theirs, inner, stage = levels(parent), levels(child), match[1] == "inner", int(match[2])
    if stage >= len(ours) or (inner and stage < lowest_merged(given)):
        return False
    return not (inner and match[3] == "weight" and ours[stage] != theirs[stage])


def unused(name: str, wanted: Collection[str]) -> bool:
    """Whether `name` is of a level that the pyramid of a net with tensors of the names `wanted` does not merge."""
    match = _INNER.match(name)
    return match is not None and int(match[1]) < lowest_merged(wanted)
