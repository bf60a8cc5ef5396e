"""Names of torchvision's weights and ours, both ways, for a serial architecture with the 7x7 stem.

torchvision knows two kinds of nets here: `FasterRCNN` with a ResNet (``backbone.body.layer1.0.conv1.weight``, ``roi_heads.*`` ...) and the
bare classifier (``layer1.0.conv1.weight``, ``fc.weight``). Source: torchvision `models/resnet.py` and `models/detection/faster_rcnn.py`.
"""

import re
from collections.abc import Iterable

from spnas_core.arch import Arch
from spnas_core.errors import UserError

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_PARTS = {
    "rpn.head.conv.0.0": "rpn.conv",
    "rpn.head.cls_logits": "rpn.score",
    "rpn.head.bbox_pred": "rpn.delta",
    "roi_heads.box_head.fc6": "head.fc1",
    "roi_heads.box_head.fc7": "head.fc2",
    "roi_heads.box_predictor.cls_score": "head.score",
    "roi_heads.box_predictor.bbox_pred": "head.delta",
    "fc": "score",
}
_OLD = (
    (re.compile(r"rpn\.head\.conv\.(weight|bias)"), r"rpn.head.conv.0.0.\1"),
    (re.compile(r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)"), r"backbone.fpn.\1_blocks.\2.0.\3"),
)
_BODY = re.compile(r"(?:backbone\.body\.)?(?:(conv|bn)1|layer(\d+)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(0|1)))\.(\w+)")
_NECK = re.compile(r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.0\.(weight|bias)")


def to_spnas(arch: Arch, names: Iterable[str]) -> dict[str, str]:
    """Our name for each of torchvision's `names`, old spellings of released files included; counters of batches have none and are left out.

    UserError for a name that `arch` has no place for.
    """
    counters = ".num_batches_tracked"
    return {name: _ours(arch, name) for name in names if not name.endswith(counters)}


def to_torchvision(arch: Arch, names: Iterable[str]) -> dict[str, str]:
    """Name of torchvision's for each of our `names`: those of a detector if there is a neck, else those of a classifier.

    UserError for a name that torchvision has no place for: parallel copies and their connections, and the 3x3 stem.
    """
    names = list(names)
    prefix = "backbone.body." if any(name.startswith("neck.") for name in names) else ""
    return {name: _theirs(arch, name, prefix) for name in names}


def _ours(arch: Arch, name: str) -> str:
    for pattern, current in _OLD:
        name = pattern.sub(current, name) if pattern.fullmatch(name) else name
    owner, _, kind = name.rpartition(".")
    if owner in _PARTS:
        return f"{_PARTS[owner]}.{kind}"
    if neck := _NECK.fullmatch(name):
        return f"neck.{neck[1]}.{neck[2]}.{neck[3]}"
    body = _BODY.fullmatch(name)
    if not body:
        raise UserError(f"torchvision weights: expected the names of a ResNet or of a Faster R-CNN with one, got {name!r}")
    stem, layer, block, part, number, downsample, kind = body.groups()
    kind = _NORM[kind] if "bn" in (stem, part) or downsample == "1" else kind
    if stem:
        return f"backbone.stem.{stem}.{kind}"
    stage = int(layer) - 1
    if stage >= len(arch.stages) or int(block) >= len(arch.stages[stage]):
        raise UserError(f"torchvision weights: expected the blocks of {str(arch)!r}, got {name!r}")
    index = sum(map(len, arch.stages[:stage])) + int(block)
    place = f"{part}{number}" if part else f"shortcut.{('conv', 'bn')[int(downsample)]}"
    return f"backbone.blocks.{index}.{place}.{kind}"


def _theirs(arch: Arch, name: str, prefix: str) -> str:
    owner, _, kind = name.rpartition(".")
    places = {ours: theirs for theirs, ours in _PARTS.items()}
    if owner in places:
        return f"{places[owner]}.{kind}"
    parts = name.split(".")
    theirs = {ours: torch for torch, ours in _NORM.items()}
    kind = theirs.get(kind, kind)
    match parts:
        case ["neck", side, level, _]:
            return f"backbone.fpn.{side}_blocks.{level}.0.{kind}"
        case ["backbone", "stem", "conv" | "bn" as stem, _]:
            return f"{prefix}{stem}1.{kind}"
        case ["backbone", "blocks", index, *place, _]:
            stage, block = _position(arch, int(index))
            part = place[0]
            if part == "shortcut":
                part = f"downsample.{('conv', 'bn').index(place[1])}"
            return f"{prefix}layer{stage + 1}.{block}.{part}.{kind}"
    raise UserError(f"torchvision weights: expected a serial net with the 7x7 stem, got {name!r}")


def _position(arch: Arch, index: int) -> tuple[int, int]:
    """Stage, and place in the stage, of a block."""
    stage = 0
    while index >= len(arch.stages[stage]):
        index -= len(arch.stages[stage])
        stage += 1
    return stage, index
