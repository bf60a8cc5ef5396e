"""Fixed family of stock nets around a start net: what a user would try without a search, to compare the found net with.

Widths and depths are scaled as the usual series of a detector are (Ultralytics' n to x, EfficientDet's compound scaling), the place of the
blocks as in ResNet-18, 34 and 50.
"""

from collections.abc import Sequence
from dataclasses import replace

from spnas_core.arch import Arch, BlockType
from spnas_core.cost import Size
from spnas_core.search.net import Net
from spnas_core.settings.detector import Detector

WIDTH_STEP = 4  # channels
WIDTHS = (0.5, 0.75, 1.25)  # of the start net's


def stock_family(start: Net, settings: Detector, sizes: Sequence[Size] = ()) -> dict[str, Net]:
    """Nets by what they are, the start net first; `settings` are the detector's of the run. Equal nets appear once.

    `sizes`: network inputs of which the smallest and the largest count too, with the start net's blocks.
    """
    arch = start.arch.serial()
    other = BlockType("r" if arch.block_type.text == "b" else "b")
    found = {
        "start": replace(start, arch=arch),
        "deeper": replace(start, arch=_deeper(arch)),
        "Bottleneck" if other.text == "r" else "Basic": replace(start, arch=replace(arch, block_type=other)),
    }
    width = start.width or settings.base_width
    for share in WIDTHS:
        channels = max(WIDTH_STEP, round(width * share / WIDTH_STEP) * WIDTH_STEP)
        found[f"{share:g} x width"] = replace(start, arch=arch, width=channels if channels != settings.base_width else None)
    for size in sorted(sizes, key=lambda one: (one[0] * one[1], one))[:: max(1, len(sizes) - 1)]:
        found[f"input {size[0]}x{size[1]}"] = replace(start, arch=arch, size=size if size != settings.image_size else None)
    return {name: net for number, (name, net) in enumerate(found.items()) if net not in list(found.values())[:number]}


def _deeper(arch: Arch) -> Arch:
    """One block more at the end of each stage."""
    return replace(arch, stages=tuple(f"{stage}1" for stage in arch.stages))
