"""Boxes as nodes of an ONNX graph: what `models/boxes.py` computes.

Shape shorthand: B images, N boxes, xyxy in px, K rows that are taken.
"""

from spnas_core.export.graph import Graph, Value
from spnas_core.models.boxes import LOG_LIMIT

_MOST = 1 << 31  # boxes of a class that NMS may keep: all
FLOAT, INT64 = 1, 7  # of ONNX's types


def decode_deltas(graph: Graph, deltas: Value, references: Value, weights: tuple[float, float, float, float]) -> Value:
    """Boxes (..., 4) from deltas (..., 4) and the boxes they refer to, of this shape or one that is broadcast to it."""
    low, size = corner_and_size(graph, references)
    move, grow = graph.several(2, "Split", deltas, axis=-1)
    centre = graph("Add", low, graph("Mul", size, 0.5))
    centre = graph("Add", centre, graph("Mul", graph("Mul", move, [1 / weight for weight in weights[:2]]), size))
    factor = graph("Exp", graph("Min", graph("Mul", grow, [1 / weight for weight in weights[2:]]), LOG_LIMIT))
    half = graph("Mul", graph("Mul", factor, size), 0.5)
    return graph("Concat", graph("Sub", centre, half), graph("Add", centre, half), axis=-1)


def corner_and_size(graph: Graph, boxes: Value) -> tuple[Value, Value]:
    """Split boxes (..., 4) into their corners x1, y1 (..., 2), and their widths and heights (..., 2)."""
    low, high = graph.several(2, "Split", boxes, axis=-1)
    return low, graph("Sub", high, low)


def clip_boxes(graph: Graph, boxes: Value, image_hw: Value) -> Value:
    """Clip boxes (B, N, 4) to the valid part (B, 2: height, width) of their images."""
    limits = graph("Unsqueeze", graph("Gather", image_hw, [1, 0, 1, 0], axis=1), [1])
    return graph("Min", graph("Relu", boxes), limits)


def large_enough(graph: Graph, boxes: Value, side: float) -> Value:
    """1 (...) for the boxes (..., 4) of which both sides are at least `side` px, else 0."""
    _, size = corner_and_size(graph, boxes)
    return as_number(graph, graph("GreaterOrEqual", graph("ReduceMin", size, axes=[-1], keepdims=0), side))


def take_rows(graph: Graph, values: Value, rows: Value) -> Value:
    """Rows (B, K, ...) of values (B, N, ...) at `rows` (B, K)."""
    return graph("GatherND", values, graph("Unsqueeze", rows, [-1]), batch_dims=1)


def after_nms(graph: Graph, boxes: Value, scores: Value, iou: float, least: float | None = None) -> Value:
    """1 (B, N) for what survives NMS among boxes (B, N, 4) within each class of the scores (B, classes, N), else 0.

    Where `least` is given, only what has a score of more than that in a class belongs to it.
    """
    limits = [[iou]] if least is None else [[iou], [least]]
    kept = graph("NonMaxSuppression", boxes, scores, [_MOST], *limits)  # rows of image, class, box
    kept = graph("Gather", kept, [0, 2], axis=1)
    ones = graph("Add", graph("ConstantOfShape", graph("Shape", kept, end=1)), 1.0)
    return graph("ScatterND", graph("ConstantOfShape", graph("Shape", boxes, end=2)), kept, ones)


def as_number(graph: Graph, truth: Value) -> Value:
    """0 or 1, as float32."""
    return graph("Cast", truth, to=FLOAT)
