"""One-stage heads as nodes of an ONNX graph, equivalent to `models/{dense_head,retinanet,fcos}.py` in inference.

Shape shorthand: B images, C channels, S boxes per place, K classes, H and W rows and columns of a level, A = H * W * S boxes of a level,
D detections. Boxes are xyxy, px of the network input.
"""

from spnas_core.cost import Size
from spnas_core.export.boxes import clip_boxes, decode_deltas, take_rows
from spnas_core.export.features import batch_norm, conv
from spnas_core.export.graph import Graph, Value
from spnas_core.export.heads import last_selection
from spnas_core.models import retinanet, roi, towers
from spnas_core.models.anchors import Grid, place_anchors
from spnas_core.settings.detector import Detector, one_stage
from spnas_core.weights.tensor_names import TOWERS


def dense_outputs(graph: Graph, settings: Detector, x: Value, level: int, size: Size, classes: int) -> dict[str, tuple[Value, int]]:
    """Write the outputs of one level, counted from 0: (B, channels, H, W), and channels.

    They are score and delta, or score, distance and centrality.
    """
    head, name = one_stage(settings), f"{settings.head.kind}."
    ends = []
    for tower in TOWERS:
        y = x
        for number in range(head.depth):
            layer = f"{name}{tower}{number}."
            y = conv(graph, y, f"{layer}conv")
            if head.level_norms:
                y = batch_norm(graph, y, f"{layer}norms.{level}", towers.NORM_EPSILON)
            if head.groups:
                y = _group_norm(graph, y, f"{layer}norm", head.groups, size)
            y = graph("Relu", y)
        ends.append(y)
    found = {"score": (conv(graph, ends[0], f"{name}score"), head.shapes * classes)}
    if head.kind == "retinanet":
        return found | {"delta": (conv(graph, ends[1], f"{name}delta"), 4 * head.shapes)}
    distance = graph("Relu", conv(graph, ends[1], f"{name}distance"))
    return found | {"distance": (distance, 4), "centrality": (conv(graph, ends[1], f"{name}centrality"), 1)}


def _group_norm(graph: Graph, x: Value, name: str, groups: int, size: Size) -> Value:
    """Normalise groups of channels as `InstanceNormalization` does single ones: opset 17 has no operator for groups."""
    ones, zeros = [1.0] * groups, [0.0] * groups
    rows = graph("InstanceNormalization", graph("Reshape", x, [0, groups, -1]), ones, zeros, epsilon=towers.NORM_EPSILON)
    y = graph("Reshape", rows, [0, len(graph.weights[f"{name}.gamma"]), *size])
    gamma, beta = (graph("Reshape", graph.weight(f"{name}.{part}"), [1, -1, 1, 1]) for part in ("gamma", "beta"))
    return graph("Add", graph("Mul", y, gamma), beta)


def detect_dense(
    graph: Graph, settings: Detector, grid: Grid, classes: int, maps: tuple[Value, ...], image_hw: Value
) -> tuple[Value, Value, Value]:
    """Boxes (B, D, 4), scores (B, D; 0 = none) and labels (B, D); with soft-NMS its candidates instead of D detections."""
    head, scores, labels, boxes, total = one_stage(settings), list[Value](), list[Value](), list[Value](), 0
    places = place_anchors(grid, head.anchor_ratios, head.anchor_octave)
    for level, (x, size, anchors) in enumerate(zip(maps, grid.sizes, places, strict=True)):
        outputs = {name: value for name, (value, _) in dense_outputs(graph, settings, x, level, size, classes).items()}
        chance = graph("Sigmoid", _rows(graph, outputs["score"], classes))
        if "centrality" in outputs:
            chance = graph("Sqrt", graph("Mul", chance, graph("Sigmoid", _rows(graph, outputs["centrality"], 1))))
        most = min(head.candidates, len(anchors))
        _, box = graph.several(2, "TopK", graph("ReduceMax", chance, axes=[2], keepdims=0), [most])
        pairs = min(head.candidates, most * classes)
        best, pair = graph.several(2, "TopK", graph("Reshape", take_rows(graph, chance, box), [0, -1]), [pairs])
        box = take_rows(graph, box, graph("Div", pair, classes))
        own = graph("Gather", anchors, box)
        if "delta" in outputs:
            found = decode_deltas(graph, take_rows(graph, _rows(graph, outputs["delta"], 4), box), own, retinanet.CODER)
        else:
            found = _boxes_around(graph, own, take_rows(graph, _rows(graph, outputs["distance"], 4), box))
        scores.append(best)
        labels.append(graph("Mod", pair, classes))
        boxes.append(found)
        total += pairs
    most = min(roi.CANDIDATES * settings.detections, total)
    best, order = graph.several(2, "TopK", graph("Concat", *scores, axis=1), [most])
    found = clip_boxes(graph, take_rows(graph, graph("Concat", *boxes, axis=1), order), image_hw)
    label = take_rows(graph, graph("Concat", *labels, axis=1), order)
    return last_selection(graph, settings, classes, most, found, best, label)


def _rows(graph: Graph, x: Value, values: int) -> Value:
    """Reshape (B, S * values, H, W) to (B, A, values)."""
    return graph("Reshape", graph("Transpose", x, perm=[0, 2, 3, 1]), [0, -1, values])


def _boxes_around(graph: Graph, places: Value, distances: Value) -> Value:
    """Boxes (..., 4) by the distances (..., 4) of their sides from the centres of the squares `places`, in sides of these."""
    low, high = graph.several(2, "Split", places, axis=-1)
    middle, side = graph("Mul", graph("Add", low, high), 0.5), graph("Sub", high, low)
    before, after = graph.several(2, "Split", distances, axis=-1)
    return graph("Concat", graph("Sub", middle, graph("Mul", before, side)), graph("Add", middle, graph("Mul", after, side)), axis=-1)
