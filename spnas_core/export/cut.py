"""The net cut into ONNX graphs of static shapes, for compilers such as Ascend's ATC; `shipped/parts.py` runs between them.

`trunk` ends before the proposals, and a head begins after the pooling of regions; a one-stage detector is all trunk.
NMS, selections of rows and the choice of a level, whose results have sizes that only an image tells, stay outside. ATC wants static sizes,
none of them 0.
Source: https://www.hiascend.com/document/detail/zh/canncommercial/latest/devaids/atctool/atlasatc_16_0039.html
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spnas_core import arch as architecture
from spnas_core.cost import CASCADE_STAGES, POOLED
from spnas_core.export.dense_heads import dense_outputs
from spnas_core.export.features import Features, conv, dense
from spnas_core.export.graph import Graph, Shape, Value
from spnas_core.export.semantic import semantic_model
from spnas_core.models.anchors import anchor_grid, anchor_shapes, steps
from spnas_core.models.pooling import least_sizes
from spnas_core.settings.detector import two_stage
from spnas_core.settings.one_stage import FcosHead, RetinaNetHead
from spnas_core.settings.task import SEGMENTATION
from spnas_core.weights.model_folder import Model
from spnas_core.weights.tensor_names import CASCADE, HEAD, RPN, Arrays


@dataclass(frozen=True)
class CutPart:
    """One graph: the content of its ONNX file, and the name, shape and layout (as ATC calls it) of its only input."""

    content: bytes
    given: str
    shape: tuple[int, ...]
    layout: str


def cut_parts(card: Model, weights: Arrays) -> dict[str, CutPart]:
    """Parts by name, trunk first. It is alone of segmentation, and of a one-stage detector: `images` to `dense_outputs` of every level.

    trunk: `images` (1, 3, H, W) to the map (1, C, H_l, W_l) of each level that regions are pooled from, then `score_l` (1, A, H_l, W_l) and
    `delta_l` (1, 4A, H_l, W_l) of every level. A head: `regions` (P, C * 49) to `share` (P, K + 1) and `delta` (P, 4 * boxes).
    """
    if card.detector.task is SEGMENTATION:
        shape = (1, 3, *card.detector.image_size)
        return {"trunk": CutPart(semantic_model(card, weights, 1), "images", shape, "NCHW")}
    if isinstance(card.detector.head, RetinaNetHead | FcosHead):
        return {"trunk": _dense_trunk(card, weights)}
    cascade = card.detector.head.kind == "cascade_rcnn"
    names = [f"{CASCADE}{stage}." for stage in range(CASCADE_STAGES)] if cascade else [HEAD]
    heads = {f"head{number}": _head(card, weights, name, 1 if cascade else len(card.classes) + 1) for number, name in enumerate(names)}
    return {"trunk": _trunk(card, weights), **heads}


def cut_levels(card: Model) -> list[dict[str, Any]]:
    """Give what `shipped/parts.py` knows of each level: its anchors and, where regions are pooled, stride and least size of a region."""
    grid, head = anchor_grid(architecture.parse(card.arch), card.detector), card.detector.head
    if isinstance(head, RetinaNetHead | FcosHead):
        shapes = [anchor_shapes(side, head.anchor_ratios, head.anchor_octave).tolist() for side in grid.sides]
        return [{"step": step, "anchors": anchors} for step, anchors in zip(steps(grid), shapes, strict=True)]
    pooled = grid.regions()
    least = [0.0, *map(float, least_sizes(pooled.sides))][: len(pooled.sides)]
    missing = (None,) * (len(grid.sizes) - len(pooled.sizes))
    return [
        {"step": step, "anchors": anchor_shapes(side, two_stage(card.detector).anchor_ratios).tolist(), "stride": stride, "least": smallest}
        for step, side, stride, smallest in zip(steps(grid), grid.sides, (*pooled.strides, *missing), (*least, *missing), strict=True)
    ]


def _trunk(card: Model, weights: Arrays) -> CutPart:
    arch, settings = architecture.parse(card.arch), card.detector
    graph, grid = Graph(weights), anchor_grid(arch, settings)
    maps = Features(graph, arch, settings, 1).pyramid("images")
    ratios = len(two_stage(settings).anchor_ratios)
    outputs = {f"map_{level}": (maps[level], (settings.neck.channels, *grid.sizes[level])) for level in range(len(grid.sizes) - grid.extra)}
    for level, x in enumerate(maps):
        hidden = graph("Relu", conv(graph, x, f"{RPN}conv"))
        outputs[f"score_{level}"] = conv(graph, hidden, f"{RPN}score"), (ratios, *grid.sizes[level])
        outputs[f"delta_{level}"] = conv(graph, hidden, f"{RPN}delta"), (4 * ratios, *grid.sizes[level])
    shape = (1, 3, *settings.image_size)
    return CutPart(
        _closed(graph, "images", shape, {name: (value, (1, *size)) for name, (value, size) in outputs.items()}), "images", shape, "NCHW"
    )


def _dense_trunk(card: Model, weights: Arrays) -> CutPart:
    arch, settings = architecture.parse(card.arch), card.detector
    graph, grid = Graph(weights), anchor_grid(arch, settings)
    outputs: dict[str, tuple[Value, Shape]] = {}
    for level, (x, size) in enumerate(zip(Features(graph, arch, settings, 1).pyramid("images"), grid.sizes, strict=True)):
        found = dense_outputs(graph, settings, x, level, size, len(card.classes))
        outputs |= {f"{name}_{level}": (value, (1, channels, *size)) for name, (value, channels) in found.items()}
    shape = (1, 3, *settings.image_size)
    return CutPart(_closed(graph, "images", shape, outputs), "images", shape, "NCHW")


def _head(card: Model, weights: Arrays, head: str, boxes: int) -> CutPart:
    settings = card.detector
    sizes = anchor_grid(architecture.parse(card.arch), settings).sizes
    own = two_stage(settings)
    most = own.proposals_test
    count = min(most, sum(min(most, height * width * len(own.anchor_ratios)) for height, width in sizes))
    graph: Graph = Graph(weights)
    x: Value = "regions"
    for layer in ("fc1", "fc2"):
        x = graph("Relu", dense(graph, x, f"{head}{layer}"))
    outputs = {
        "share": (graph("Softmax", dense(graph, x, f"{head}score"), axis=-1), (count, len(card.classes) + 1)),
        "delta": (dense(graph, x, f"{head}delta"), (count, 4 * boxes)),
    }
    shape = (count, settings.neck.channels * POOLED * POOLED)
    return CutPart(_closed(graph, "regions", shape, outputs), "regions", shape, "ND")


def _closed(graph: Graph, given: str, shape: Sequence[int], outputs: Mapping[str, tuple[Value, Shape]]) -> bytes:
    return graph.model({given: tuple(shape)}, {name: (value, "float32", size) for name, (value, size) in outputs.items()})
