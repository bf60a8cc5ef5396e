"""What the names and shapes of torchvision's weights say of their net: the architecture and the sizes of the detector around it."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spnas_core.arch import Arch, check_space, parse
from spnas_core.errors import UserError
from spnas_core.torchvision_names import BODY, current

Shapes = Mapping[str, tuple[int, ...]]
_BLOCK = re.compile(r"layer([1-9]\d?)\.(\d{1,2})\.conv1\.weight")


@dataclass(frozen=True)
class Net:
    """A net of torchvision's: `classes` of the box head without background (None: no such layer), settings as `Detector` names them."""

    arch: Arch
    settings: dict[str, Any]
    classes: int | None


def infer(given: Shapes) -> Net:
    """Read the net off the shapes of its tensors, under torchvision's names, old spellings included.

    UserError where a tensor that this needs is missing, or where widths do not double or stay.
    """
    shapes = {current(name): shape for name, shape in given.items()}
    detector = any(name.startswith(BODY) for name in shapes)
    body = {name.removeprefix(BODY): shape for name, shape in shapes.items() if name.startswith(BODY) or not detector}
    base = _shape(body, "conv1.weight", 4)[0]
    arch = _arch(body, base)
    settings: dict[str, Any] = {"stem": "7x7", "base_width": base}
    if detector:
        settings["fpn_channels"] = _shape(shapes, "backbone.fpn.layer_blocks.0.0.weight", 4)[0]
        settings["head_channels"] = _shape(shapes, "roi_heads.box_head.fc6.weight", 2)[0]
    score = shapes.get("roi_heads.box_predictor.cls_score.weight")
    return Net(arch, settings, score[0] - 1 if score else None)


def _arch(body: Shapes, base: int) -> Arch:
    counts = Counter(int(match[1]) for name in body if (match := _BLOCK.fullmatch(name)))
    last = 3 if "layer1.0.conv3.weight" in body else 2
    expansion = 4 if last == 3 else 1
    planes, stages, kinds = base, [], set()
    for stage in range(1, len(counts) + 1):
        digits = ""
        for index in range(counts[stage] or 1):
            block = f"layer{stage}.{index}."
            out = _shape(body, f"{block}conv{last}.weight", 4)[0]
            factor, rest = divmod(out, planes * expansion)
            if rest or factor not in (1, 2):
                raise UserError(f"expected {block} to have {planes * expansion} or {2 * planes * expansion} channels, got {out}")
            planes *= factor
            digits += str(factor)
            kinds.add(_kind(body, block, planes) if last == 3 else "b")
        stages.append(digits)
    if len(kinds) != 1:
        raise UserError(f"expected residual blocks of one type, got {', '.join(sorted(kinds)) or 'none'}")
    return check_space(parse(f"{kinds.pop()}_{'-'.join(stages)}"))


def _kind(body: Shapes, block: str, planes: int) -> str:
    """Block type of a Bottleneck: its groups, and its width per group where planes are 64."""
    inner, per_group = _shape(body, f"{block}conv2.weight", 4)[:2]
    groups = max(inner // max(per_group, 1), 1)
    width = inner * 64 // (groups * planes)
    return "r" if (groups, width) == (1, 64) else f"x({groups}x{max(width, 1)}d)"


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != dimensions or 0 in shape:
        raise UserError(f"expected a tensor {name!r} of {dimensions} dimensions, got {'none' if shape is None else shape}")
    return shape
