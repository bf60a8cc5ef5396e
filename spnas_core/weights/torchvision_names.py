"""Translation between torchvision's tensor names and ours, for a serial architecture with the 7x7 stem.

torchvision has these nets here: `FasterRCNN`, `RetinaNet` and `FCOS` with a ResNet (``backbone.body.layer1.0.conv1.weight``,
``roi_heads.*`` or ``head.*`` ...) and the bare classifier (``layer1.0.conv1.weight``, ``fc.weight``). It counts the levels of a pyramid
from the first that is there. Source: torchvision `models/resnet.py`, `models/detection/faster_rcnn.py`, `retinanet.py` and `fcos.py`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from spnas_core.arch import Arch, Block, blocks, parse
from spnas_core.errors import UserError
from spnas_core.necks.fpn import EXTRA, INNER, LAYER
from spnas_core.weights.tensor_names import (
    AFFINE,
    BACKBONE,
    FCOS,
    HEAD,
    NECK,
    RETINANET,
    RPN,
    SCORE,
    STATISTICS,
    STEM,
    TOWERS,
    block_name,
    connection_name,
    copied_block_name,
    one_stage_head,
)

_NORM = dict(zip((".weight", ".bias", ".running_mean", ".running_var"), (*AFFINE, *STATISTICS), strict=True))
_PLAIN = {".weight": ".weight", ".bias": ".bias"}
_COUNTER = ".num_batches_tracked"
_SCORE, _DENSE_SCORE, _CENTRALITY = (
    "roi_heads.box_predictor.cls_score.weight", "head.classification_head.cls_logits.weight", "head.regression_head.bbox_ctrness.weight"
)  # fmt: skip
_OF_NORM = re.compile(r"\.bn|norm$")
_DEEPEST = 32  # most layers of a tower that have a name
COCO_LABELS = 90  # of torchvision's released detectors: the ids of COCO's categories
_BODY = "backbone.body."
_HEADS = {
    "rpn.head.conv.0.0": f"{RPN}conv",
    "rpn.head.cls_logits": f"{RPN}score",
    "rpn.head.bbox_pred": f"{RPN}delta",
    "roi_heads.box_head.fc6": f"{HEAD}fc1",
    "roi_heads.box_head.fc7": f"{HEAD}fc2",
    "roi_heads.box_predictor.cls_score": f"{HEAD}score",
    "roi_heads.box_predictor.bbox_pred": f"{HEAD}delta",
}
_LAST = {
    RETINANET: {"classification_head.cls_logits": "score", "regression_head.bbox_reg": "delta"},
    FCOS: {"classification_head.cls_logits": "score", "regression_head.bbox_reg": "distance", "regression_head.bbox_ctrness": "centrality"},
}  # last layers of one-stage heads, below "head."
_TOWERS = dict(zip(TOWERS, ("classification_head.conv.", "regression_head.conv."), strict=True))
_THEIR_LEVEL, _OUR_LEVEL = re.compile(r"backbone\.fpn\.layer_blocks\.(\d+)\."), re.compile(re.escape(LAYER) + r"(\d+)\.")
_OLD_TOWER = re.compile(r"head\.(classification|regression)_head\.conv\.(\d+)\.(weight|bias)")  # of RetinaNet: every second is a ReLU
_OLD = (
    (re.compile(r"rpn\.head\.conv\.(weight|bias)"), r"rpn.head.conv.0.0.\1"),
    (re.compile(r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)"), r"backbone.fpn.\1_blocks.\2.0.\3"),
)


class _Parts(NamedTuple):
    """What a net has besides its backbone: a neck and heads, a one-stage head of this prefix, a pyramid from this level on."""

    detector: bool = True
    one_stage: str = ""
    first: int = 0


_BLOCK = re.compile(r"layer([1-9]\d*)\.(\d+)\.conv1\.weight")


def from_torchvision(names: Iterable[str]) -> bool:
    """Whether these are torchvision's names."""
    return any(name.startswith((_BODY, "layer1.")) for name in names)


def trained_epsilon(shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Epsilon of the norms in the training of torchvision's weights; None if the tensors do not show it.

    1e-5 if norms were trained, and so have counters of batches; for a detector with the 90 labels of COCO and no counters 0.0, as
    torchvision sets it for its released weights, but for FCOS. Source: `overwrite_eps` of torchvision `models/detection/_utils.py`.
    """
    if any(name.endswith(_COUNTER) for name in shapes):
        return 1e-5
    coco = COCO_LABELS + 1
    if shapes.get(_DENSE_SCORE, ())[:1] == (coco,) and _CENTRALITY in shapes:
        return 1e-5
    return 0.0 if shapes.get(_SCORE, ())[:1] == (coco,) or shapes.get(_DENSE_SCORE, ())[:1] == (9 * coco,) else None


def infer_arch(shapes: Mapping[str, tuple[int, ...]]) -> Arch:
    """Architecture of a ResNet or ResNeXt, from the names and shapes of torchvision's tensors.

    UserError for blocks outside of the search space, such as a width that is neither kept nor doubled.
    """
    body = {name.removeprefix(_BODY): shape for name, shape in shapes.items()}
    counts: dict[int, int] = {}
    for name in body:
        if match := _BLOCK.fullmatch(name):
            counts[int(match[1])] = counts.get(int(match[1]), 0) + 1
    basic = "layer1.0.conv3.weight" not in body
    try:
        width = body["conv1.weight"][0]
        stages = []
        for stage in range(1, len(counts) + 1):
            digits = ""
            for index in range(counts[stage]):
                shape = body[f"layer{stage}.{index}.conv{2 if basic else 3}.weight"]
                planes = shape[0] if basic else shape[0] // 4
                digits += {1.0: "1", 2.0: "2"}[planes / width]
                width = planes
            stages.append(digits)
        inner, share = body["layer1.0.conv2.weight"][:2]
        planes = inner if basic else body["layer1.0.conv3.weight"][0] // 4
        kind = "b" if basic else "r" if inner == share == planes else f"x({inner // share}x{share * 64 // planes}d)"
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        text = "expected the stem, blocks and widths of a ResNet or ResNeXt"
        raise UserError(f"torchvision weights: {text}, could not make an architecture of them at {error}") from error
    return parse(f"{kind}_{'-'.join(stages)}")


def to_spnas(arch: Arch, names: Iterable[str]) -> dict[str, str]:
    """Our name for each of torchvision's `names`, including old spellings of released files; counters of batches are left out.

    UserError for a name that `arch` has no place for.
    """
    names = [name for name in names if not name.endswith(_COUNTER)]
    one_stage = ""
    if any(name.startswith("head.classification_head.") for name in names):
        one_stage = FCOS if any("bbox_ctrness" in name for name in names) else RETINANET
    current = {name: _current(name, one_stage) for name in names}
    levels = {match[1] for name in current.values() if (match := _THEIR_LEVEL.match(name))}
    first = len(arch.stages) - len(levels) if one_stage and levels else 0
    table = _table(arch, _Parts(any(name.startswith(_BODY) for name in names), one_stage, first))
    found = {name: table.get(spelling) for name, spelling in current.items()}
    return _complete(found, f"names of {arch} in torchvision's spelling")


def to_torchvision(arch: Arch, names: Iterable[str]) -> dict[str, str]:
    """Torchvision's name for each of our `names`: those of a detector if there is a neck, else those of a classifier.

    UserError for a name that torchvision has no place for: parallel copies and their connections, and the 3x3 stem.
    """
    names = list(names)
    if arch.inner:
        raise UserError(
            f"architecture {str(arch)!r}: expected blocks as wide inside as torchvision's, got {'-'.join(map(str, arch.inner))} eighths"
        )
    table = _table(arch, _our_parts(names))
    theirs = {ours: name for name, ours in table.items()}
    return _complete({name: theirs.get(name) for name in names}, f"names of {arch}, serial, with the 7x7 stem")


def to_module(arch: Arch, names: Iterable[str]) -> dict[str, str]:
    """Name of each of a detector's `names` in the module shipped with an export, `export/shipped/net.py`.

    These are torchvision's names; for the 3x3 stem, the copies and their connections, which it lacks, they are similar to ours. UserError
    for a name that the module has no place for, such as those of a cascade.
    """
    beyond = {_BODY + theirs: ours for theirs, ours in _beyond(arch).items()}
    names = list(names)
    table = {ours: theirs for found in (_table(arch, _our_parts(names)), _tensors(beyond)) for theirs, ours in found.items()}
    return _complete({name: table.get(name) for name in names}, f"names of {arch} with a plain pyramid and one box head")


def _our_parts(names: list[str]) -> _Parts:
    first = min((int(match[1]) for name in names if (match := _OUR_LEVEL.match(name))), default=0)
    return _Parts(any(name.startswith(NECK) for name in names), one_stage_head(names), first)


def _table(arch: Arch, parts: _Parts) -> dict[str, str]:
    """Our name of every tensor that torchvision's net of this architecture may have; convolutions with or without a bias."""
    body = {"conv1": f"{STEM}conv", "bn1": f"{STEM}bn"}
    first = {block.stage: block.index for block in reversed(blocks(arch))}
    for block in blocks(arch):
        body |= _layers(arch, block, f"layer{block.stage + 1}.{block.index - first[block.stage]}.", block_name(block.index))
    if not parts.detector:
        return _tensors({**body, "fc": SCORE.removesuffix(".")})
    owners = {_BODY + theirs: ours for theirs, ours in body.items()} | (_one_stage(parts.one_stage) if parts.one_stage else _HEADS)
    for own in range(parts.first, len(arch.stages)):
        level = own - parts.first
        owners |= {f"backbone.fpn.inner_blocks.{level}.0": f"{INNER}{own}", f"backbone.fpn.layer_blocks.{level}.0": f"{LAYER}{own}"}
    owners |= {f"backbone.fpn.extra_blocks.p{6 + number}": f"{EXTRA}{number}" for number in range(2)}
    return _tensors(owners)


def _one_stage(head: str) -> dict[str, str]:
    """Our name of every layer of a one-stage head; torchvision counts FCOS's convolutions, norms and ReLUs along one list."""
    found = {f"head.{theirs}": head + ours for theirs, ours in _LAST[head].items()}
    for tower, theirs in _TOWERS.items():
        for number in range(_DEEPEST):
            ours = f"{head}{tower}{number}."
            if head == FCOS:
                found |= {f"head.{theirs}{3 * number}": f"{ours}conv", f"head.{theirs}{3 * number + 1}": f"{ours}norm"}
            else:
                found[f"head.{theirs}{number}.0"] = f"{ours}conv"
    return found


def _beyond(arch: Arch) -> dict[str, str]:
    """Our name of every layer of a backbone that torchvision has no name for."""
    found = {name: f"{STEM}{name}" for name in ("conv1", "bn1", "conv2", "bn2")}
    for stage, count in enumerate(arch.parallel):
        members = [block for block in blocks(arch) if block.stage == stage]
        for copy in range(count):
            ours = connection_name(stage, copy)
            found |= {ours.removeprefix(BACKBONE) + number: ours + layer for number, layer in (("0", "conv"), ("1", "bn"))}
            for position, block in enumerate(members):
                ours = copied_block_name(stage, copy, position)
                found |= _layers(arch, block, ours.removeprefix(BACKBONE), ours)
    return found


def _layers(arch: Arch, block: Block, theirs: str, ours: str) -> dict[str, str]:
    """Our name of every layer of a block, by torchvision's; their name prefixes are `ours` and `theirs`."""
    kinds = [f"{kind}{number}" for number in range(1, 3 if arch.block_type.expansion == 1 else 4) for kind in ("conv", "bn")]
    found = {f"{theirs}{kind}": f"{ours}{kind}" for kind in kinds}
    if block.projection:
        found |= {f"{theirs}downsample.0": f"{ours}shortcut.conv", f"{theirs}downsample.1": f"{ours}shortcut.bn"}
    return found


def _tensors(layers: dict[str, str]) -> dict[str, str]:
    """Our name of every tensor of the layers; convolutions with or without a bias."""
    return {
        f"{theirs}{k}": f"{ours}{own}" for theirs, ours in layers.items() for k, own in (_NORM if _OF_NORM.search(ours) else _PLAIN).items()
    }


def _current(name: str, one_stage: str) -> str:
    if one_stage == RETINANET and (match := _OLD_TOWER.fullmatch(name)):
        return f"head.{match[1]}_head.conv.{int(match[2]) // 2}.0.{match[3]}"
    for pattern, spelling in _OLD:
        if pattern.fullmatch(name):
            return pattern.sub(spelling, name)
    return name


def _complete(found: dict[str, str | None], expected: str) -> dict[str, str]:
    strays = sorted(name for name, other in found.items() if other is None)
    if strays:
        raise UserError(f"torchvision weights: expected {expected}, got {strays[0]!r} ({len(strays)} such names)")
    return {name: other for name, other in found.items() if other is not None}
