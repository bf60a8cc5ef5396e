"""Box operations as nodes of an ONNX graph, equivalent to `models/boxes.py`.

Shape shorthand: B images, N boxes, xyxy in px, K selected rows.
"""

from spnas_core.export.graph import Graph, Value
from spnas_core.models.boxes import LOG_LIMIT

_MOST = 1 << 31  # most boxes of a class that NMS keeps: all
FLOAT, INT64 = 1, 7  # numbers of ONNX's types


def decode_deltas(graph: Graph, deltas: Value, references: Value, weights: tuple[float, float, float, float]) -> Value:
    """Boxes (..., 4) from deltas (..., 4) and their reference boxes, of the same shape or broadcast to it."""
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
    """1 (...) for boxes (..., 4) whose sides are both at least `side` px, else 0."""
    _, size = corner_and_size(graph, boxes)
    return as_number(graph, graph("GreaterOrEqual", graph("ReduceMin", size, axes=[-1], keepdims=0), side))


def take_rows(graph: Graph, values: Value, rows: Value) -> Value:
    """Rows (B, K, ...) of values (B, N, ...) at `rows` (B, K)."""
    return graph("GatherND", values, graph("Unsqueeze", rows, [-1]), batch_dims=1)


def after_nms(graph: Graph, boxes: Value, scores: Value, iou: float, least: float | None = None) -> Value:
    """1 (B, N) for boxes (B, N, 4) that survive NMS within each class of the scores (B, classes, N), else 0.

    If `least` is given, a box belongs to a class only if its score there is greater than that.
    """
    limits = [[iou]] if least is None else [[iou], [least]]
    kept = graph("NonMaxSuppression", boxes, scores, [_MOST], *limits)  # rows of image, class, box
    kept = graph("Gather", kept, [0, 2], axis=1)
    ones = graph("Add", graph("ConstantOfShape", graph("Shape", kept, end=1)), 1.0)
    return graph("ScatterND", graph("ConstantOfShape", graph("Shape", boxes, end=2)), kept, ones)


def as_number(graph: Graph, truth: Value) -> Value:
    """0 or 1, as float32."""
    return graph("Cast", truth, to=FLOAT)
