"""Shapes of all tensors of a detector, from its settings alone: what a checkpoint is compared with before a net is built."""

import numpy as np
import numpy.typing as npt

from spnas_core.arch import Arch, blocks, levels
from spnas_core.cost import CASCADE_STAGES, POOLED
from spnas_core.necks import CellNeck
from spnas_core.necks.fpn import EXTRA, INNER, LAYER
from spnas_core.settings.detector import Detector, TwoStageHead, one_stage
from spnas_core.settings.one_stage import FcosHead, RetinaNetHead
from spnas_core.settings.segmentation import SemanticFpnHead, ladders_of
from spnas_core.weights.tensor_names import (
    AFFINE,
    CASCADE,
    HEAD,
    RPN,
    SEMANTIC,
    SEMANTIC_LAST,
    STATISTICS,
    STEM,
    TOWERS,
    Arrays,
    block_name,
    connection_name,
    copied_block_name,
)

_Shape = tuple[int, ...]


def empty_weights(arch: Arch, detector: Detector, classes: int) -> Arrays:
    """Arrays of zeros, float32, with the names and shapes of the built net's weights; all elements of one share one place in memory."""
    zero: npt.NDArray[np.float32] = np.zeros((), np.float32)
    return {name: np.broadcast_to(zero, shape) for name, shape in net_shapes(arch, detector, classes).items()}


def net_shapes(arch: Arch, detector: Detector, classes: int) -> dict[str, _Shape]:
    """Shape of every tensor of a detector for `classes` classes, of a detector without the background, by name."""
    body = _backbone(arch, detector) | _neck(arch, detector)
    if isinstance(detector.head, SemanticFpnHead):
        return body | _semantic(arch, detector, detector.head, classes)
    return body | _heads(arch, detector, classes)


def _normed(convolution: str, norm: str, shape: _Shape) -> dict[str, _Shape]:
    return {f"{convolution}.weight": shape, **{norm + part: shape[:1] for part in (*AFFINE, *STATISTICS)}}


def _biased(layer: str, shape: _Shape) -> dict[str, _Shape]:
    return {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}


def _backbone(arch: Arch, detector: Detector) -> dict[str, _Shape]:
    width = detector.base_width
    if detector.stem == "7x7":
        found = _normed(f"{STEM}conv", f"{STEM}bn", (width, 3, 7, 7))
    else:
        found = _normed(f"{STEM}conv1", f"{STEM}bn1", (width // 2, 3, 3, 3)) | _normed(
            f"{STEM}conv2", f"{STEM}bn2", (width, width // 2, 3, 3)
        )
    members = [[block for block in blocks(arch, width) if block.stage == stage] for stage in range(len(arch.stages))]
    places = [(block, block_name(block.index)) for stage in members for block in stage]
    for stage, copies in enumerate(arch.parallel):
        own = 0 if detector.share_weights else copies
        places += [(one, copied_block_name(stage, copy, place)) for copy in range(own) for place, one in enumerate(members[stage])]
        ends = (members[stage][0].in_channels, members[stage][-1].out_channels, 1, 1)
        for copy in range(own or min(copies, 1)):
            name = connection_name(stage, copy)
            found |= _normed(f"{name}conv", f"{name}bn", ends)
    for block, name in places:
        for layer, shape in block.layers(arch.block_type).items():
            path = f"{name}shortcut.conv" if layer == "shortcut" else name + layer
            found |= _normed(path, path.replace("conv", "bn"), shape)
    return found


def _neck(arch: Arch, detector: Detector) -> dict[str, _Shape]:
    if isinstance(detector.neck, CellNeck):
        return detector.neck.shapes(arch, detector.base_width)
    channels = detector.neck.channels
    found: dict[str, _Shape] = {}
    for number, level in list(enumerate(levels(arch, detector.base_width)))[min(detector.neck.reads(arch)) :]:
        found |= _biased(f"{INNER}{number}", (channels, level.channels, 1, 1))
    for number in range(detector.neck.first_level, len(arch.stages)):
        found |= _biased(f"{LAYER}{number}", (channels, channels, 3, 3))
    for number, inputs in enumerate(detector.neck.extra_inputs(arch, detector.base_width)):
        found |= _biased(f"{EXTRA}{number}", (channels, inputs, 3, 3))
    return found


def _one_stage(head: RetinaNetHead | FcosHead, channels: int, levels: int, classes: int) -> dict[str, _Shape]:
    found: dict[str, _Shape] = {}
    for layer in [f"{head.kind}.{tower}{number}." for tower in TOWERS for number in range(head.depth)]:
        if head.level_norms:
            for level in range(levels):
                found |= _normed(f"{layer}conv", f"{layer}norms.{level}", (channels, channels, 3, 3))
            continue
        found |= _biased(f"{layer}conv", (channels, channels, 3, 3))
        found |= {f"{layer}norm{part}": (channels,) for part in AFFINE} if head.groups else {}
    outputs = {
        "score": head.shapes * classes,
        **({"delta": 4 * head.shapes} if head.kind == "retinanet" else {"distance": 4, "centrality": 1}),
    }
    for layer, count in outputs.items():
        found |= _biased(f"{head.kind}.{layer}", (count, channels, 3, 3))
    return found


def _heads(arch: Arch, detector: Detector, classes: int) -> dict[str, _Shape]:
    if not isinstance(detector.head, TwoStageHead):
        levels = len(detector.neck.outputs(arch, detector.image_size))
        return _one_stage(one_stage(detector), detector.neck.channels, levels, classes)
    channels, hidden, anchors = detector.neck.channels, detector.head.head_channels, len(detector.head.anchor_ratios)
    found = _biased(f"{RPN}conv", (channels, channels, 3, 3)) | _biased(f"{RPN}score", (anchors, channels, 1, 1))
    found |= _biased(f"{RPN}delta", (4 * anchors, channels, 1, 1))
    cascade = detector.head.kind == "cascade_rcnn"
    for name in [f"{CASCADE}{stage}." for stage in range(CASCADE_STAGES)] if cascade else [HEAD]:
        found |= _biased(f"{name}fc1", (hidden, channels * POOLED * POOLED)) | _biased(f"{name}fc2", (hidden, hidden))
        found |= _biased(f"{name}score", (classes + 1, hidden)) | _biased(f"{name}delta", (4 * (1 if cascade else classes + 1), hidden))
    return found


def _semantic(arch: Arch, detector: Detector, head: SemanticFpnHead, classes: int) -> dict[str, _Shape]:
    found = _biased(SEMANTIC_LAST, (classes, head.channels, 1, 1))
    for level, ladder in enumerate(ladders_of(detector.neck.outputs(arch, detector.image_size))):
        for step in range(len(ladder.sizes)):
            name = f"{SEMANTIC}{level}.{step}."
            found |= _normed(f"{name}conv", f"{name}bn", (head.channels, head.channels if step else detector.neck.channels, 3, 3))
    return found
