"""Translation between torchvision's tensor names and ours, for a serial architecture with the 7x7 stem.

torchvision has two kinds of nets here: `FasterRCNN` with a ResNet (``backbone.body.layer1.0.conv1.weight``, ``roi_heads.*`` ...) and the
bare classifier (``layer1.0.conv1.weight``, ``fc.weight``). Source: torchvision `models/resnet.py` and `models/detection/faster_rcnn.py`.
"""

import re
from collections.abc import Iterable, Mapping

from spnas_core.arch import Arch, Block, blocks, parse
from spnas_core.errors import UserError
from spnas_core.necks.fpn import INNER, LAYER
from spnas_core.weights.tensor_names import (
    AFFINE,
    BACKBONE,
    HEAD,
    NECK,
    RPN,
    SCORE,
    STATISTICS,
    STEM,
    block_name,
    connection_name,
    copied_block_name,
)

_NORM = dict(zip((".weight", ".bias", ".running_mean", ".running_var"), (*AFFINE, *STATISTICS), strict=True))
_PLAIN = {".weight": ".weight", ".bias": ".bias"}
_COUNTER = ".num_batches_tracked"
_SCORE = "roi_heads.box_predictor.cls_score.weight"
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
_OLD = (
    (re.compile(r"rpn\.head\.conv\.(weight|bias)"), r"rpn.head.conv.0.0.\1"),
    (re.compile(r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)"), r"backbone.fpn.\1_blocks.\2.0.\3"),
)


_BLOCK = re.compile(r"layer([1-9]\d*)\.(\d+)\.conv1\.weight")


def from_torchvision(names: Iterable[str]) -> bool:
    """Whether these are torchvision's names."""
    return any(name.startswith((_BODY, "layer1.")) for name in names)


def trained_epsilon(shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Epsilon of the norms in the training of torchvision's weights; None if the tensors do not show it.

    1e-5 if norms were trained, and so have counters of batches; 0.0 for a detector with the 90 labels of COCO and no counters, as
    torchvision sets it for its released weights. Source: `overwrite_eps` of torchvision `models/detection/_utils.py`.
    """
    if any(name.endswith(_COUNTER) for name in shapes):
        return 1e-5
    return 0.0 if shapes.get(_SCORE, ())[:1] == (COCO_LABELS + 1,) else None


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
    table = _table(arch, detector=any(name.startswith(_BODY) for name in names))
    found = {name: table.get(_current(name)) for name in names}
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
    table = _table(arch, detector=any(name.startswith(NECK) for name in names))
    theirs = {ours: name for name, ours in table.items()}
    return _complete({name: theirs.get(name) for name in names}, f"names of {arch}, serial, with the 7x7 stem")


def to_module(arch: Arch, names: Iterable[str]) -> dict[str, str]:
    """Name of each of a detector's `names` in the module shipped with an export, `export/shipped/net.py`.

    These are torchvision's names; for the 3x3 stem, the copies and their connections, which it lacks, they are similar to ours. UserError
    for a name that the module has no place for, such as those of a cascade.
    """
    beyond = {_BODY + theirs: ours for theirs, ours in _beyond(arch).items()}
    table = {ours: theirs for found in (_table(arch, detector=True), _tensors(beyond)) for theirs, ours in found.items()}
    return _complete({name: table.get(name) for name in names}, f"names of {arch} with a plain pyramid and one box head")


def _table(arch: Arch, detector: bool) -> dict[str, str]:
    """Our name of every tensor that torchvision's net of this architecture may have; convolutions with or without a bias."""
    body = {"conv1": f"{STEM}conv", "bn1": f"{STEM}bn"}
    first = {block.stage: block.index for block in reversed(blocks(arch))}
    for block in blocks(arch):
        body |= _layers(arch, block, f"layer{block.stage + 1}.{block.index - first[block.stage]}.", block_name(block.index))
    if not detector:
        return _tensors({**body, "fc": SCORE.removesuffix(".")})
    owners = {_BODY + theirs: ours for theirs, ours in body.items()} | _HEADS
    for level in range(len(arch.stages)):
        owners |= {f"backbone.fpn.inner_blocks.{level}.0": f"{INNER}{level}", f"backbone.fpn.layer_blocks.{level}.0": f"{LAYER}{level}"}
    return _tensors(owners)


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
    return {f"{theirs}{k}": f"{ours}{own}" for theirs, ours in layers.items() for k, own in (_NORM if ".bn" in ours else _PLAIN).items()}


def _current(name: str) -> str:
    for pattern, spelling in _OLD:
        if pattern.fullmatch(name):
            return pattern.sub(spelling, name)
    return name


def _complete(found: dict[str, str | None], expected: str) -> dict[str, str]:
    strays = sorted(name for name, other in found.items() if other is None)
    if strays:
        raise UserError(f"torchvision weights: expected {expected}, got {strays[0]!r} ({len(strays)} such names)")
    return {name: other for name, other in found.items() if other is not None}
