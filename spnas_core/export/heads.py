"""Proposals, box heads and selection of detections as nodes of an ONNX graph, equivalent to `models/{rpn,pooling,roi,cascade}.py`.

Shape shorthand: B images, C channels, P proposals, N candidate detections, D detections, K classes; L pooled levels, R regions of all
images. Boxes are xyxy, px of the network input.
"""

import numpy as np

from spnas_core.cost import CASCADE_STAGES, POOLED
from spnas_core.export.boxes import INT64, after_nms, as_number, clip_boxes, corner_and_size, decode_deltas, large_enough, take_rows
from spnas_core.export.features import conv, dense
from spnas_core.export.graph import Graph, Value
from spnas_core.models import cascade, roi, rpn
from spnas_core.models.anchors import Grid, place_anchors
from spnas_core.models.pooling import SAMPLES, least_sizes
from spnas_core.settings.detector import Detector, two_stage
from spnas_core.weights.tensor_names import CASCADE, HEAD, RPN

POOLING = {
    "output_height": POOLED,
    "output_width": POOLED,
    "sampling_ratio": SAMPLES,
    "coordinate_transformation_mode": "output_half_pixel",
}


class Heads:
    """Writer of the nodes from the pyramid's `maps`, (B, C, H_l, W_l) of each level, to the detections."""

    def __init__(self, graph: Graph, settings: Detector, grid: Grid, classes: int, maps: tuple[Value, ...], image_hw: Value) -> None:
        self.graph = graph
        self.settings = settings
        self.grid = grid
        self.classes = classes
        self.maps = maps
        self.image_hw = image_hw  # (B, 2)
        self.head = two_stage(settings)
        self.anchors = place_anchors(grid, self.head.anchor_ratios)
        self.kept = [min(self.head.proposals_test, len(placed)) for placed in self.anchors]  # of each level
        self.proposals = min(self.head.proposals_test, sum(self.kept))

    def propose(self) -> tuple[Value, Value]:
        """Proposals (B, P, 4) and their validity (B, P; 0 or 1): the best of each level, NMS within the level, the best of all."""
        graph, scores, boxes, survivors = self.graph, [], [], []
        for x, anchors, most in zip(self.maps, self.anchors, self.kept, strict=True):
            hidden = graph("Relu", conv(graph, x, f"{RPN}conv"))
            score = graph("Reshape", graph("Transpose", conv(graph, hidden, f"{RPN}score"), perm=[0, 2, 3, 1]), [0, -1])
            delta = graph("Reshape", graph("Transpose", conv(graph, hidden, f"{RPN}delta"), perm=[0, 2, 3, 1]), [0, -1, 4])
            best, order = graph.several(2, "TopK", score, [most])
            found = decode_deltas(graph, take_rows(graph, delta, order), graph("Gather", anchors, order), rpn.RPN_CODER)
            boxes.append(clip_boxes(graph, found, self.image_hw))
            scores.append(best)
            survivors.append(after_nms(graph, boxes[-1], graph("Unsqueeze", best, [1]), self.head.rpn_nms))
        found = graph("Concat", *boxes, axis=1)
        keep = graph("Mul", graph("Concat", *survivors, axis=1), large_enough(graph, found, rpn.MIN_SIZE))
        score = graph("Sigmoid", graph("Concat", *scores, axis=1))
        keys = graph("Add", graph("Mul", score, keep), graph("Sub", keep, 1.0))  # -1 for removed boxes
        keys, order = graph.several(2, "TopK", keys, [self.proposals])
        valid = as_number(graph, graph("GreaterOrEqual", keys, 0.0))
        return graph("Mul", take_rows(graph, found, order), graph("Unsqueeze", valid, [2])), valid

    def detect(self, proposals: Value, valid: Value) -> tuple[Value, Value, Value]:
        """Boxes (B, D, 4), scores (B, D; 0 = none) and labels (B, D); with soft-NMS its N candidates instead of D detections."""
        graph = self.graph
        if self.head.kind == "cascade_rcnn":
            found, shares = proposals, []
            for stage, coder in enumerate(cascade.CODERS):
                share, delta = self.predict(found, f"{CASCADE}{stage}.", 1)
                found = clip_boxes(graph, decode_deltas(graph, graph("Squeeze", delta, [2]), found, coder), self.image_hw)
                shares.append(share)
            share = graph("Mul", graph("Sum", *shares), 1 / CASCADE_STAGES)
            boxes = graph("Expand", graph("Unsqueeze", found, [2]), [1, 1, self.classes, 1])
        else:
            share, delta = self.predict(proposals, HEAD, self.classes + 1)
            delta = graph("Slice", delta, [1], [self.classes + 1], [2])
            boxes = decode_deltas(graph, delta, graph("Unsqueeze", proposals, [2]), roi.BOX_CODER)
        return self.select(clip_boxes(graph, graph("Reshape", boxes, [0, -1, 4]), self.image_hw), share, valid)

    def predict(self, regions: Value, head: str, boxes: int) -> tuple[Value, Value]:
        """Probabilities (B, P, K+1) of the classes and the background, and deltas (B, P, boxes, 4), of regions (B, P, 4)."""
        x = self.pool(regions)
        for layer in ("fc1", "fc2"):
            x = self.graph("Relu", dense(self.graph, x, f"{head}{layer}"))
        score = self.graph("Reshape", dense(self.graph, x, f"{head}score"), [-1, self.proposals, self.classes + 1])
        delta = self.graph("Reshape", dense(self.graph, x, f"{head}delta"), [-1, self.proposals, boxes, 4])
        return self.graph("Softmax", score, axis=-1), delta

    def pool(self, regions: Value) -> Value:
        """Features (R, C * 7 * 7) of regions (B, P, 4), R = B * P, each from the level that fits its size."""
        graph, flat = self.graph, self.graph("Reshape", regions, [-1, 4])
        batch = graph("Squeeze", graph("Shape", regions, end=1))
        image = graph("Expand", graph("Unsqueeze", graph("Range", 0, batch, 1), [1]), [1, self.proposals])
        image = graph("Reshape", image, [-1])
        width, height = graph.several(2, "Split", corner_and_size(graph, flat)[1], axis=-1)
        side = graph("Sqrt", graph("Relu", graph("Mul", width, height)))
        pooling = self.grid.regions()
        reached = graph("GreaterOrEqual", side, least_sizes(pooling.sides))  # (R, L - 1)
        level = graph("ReduceSum", graph("Cast", reached, to=INT64), [-1], keepdims=0)
        rows, pooled = [], []
        for number, stride in enumerate(pooling.strides):
            own = graph("Squeeze", graph("NonZero", graph("Equal", level, number)), [0])
            given = self.maps[number], graph("Gather", flat, own), graph("Gather", image, own)
            rows.append(own)
            pooled.append(graph("Flatten", graph("RoiAlign", *given, spatial_scale=1 / stride, **POOLING)))
        order, features = graph("Concat", *rows, axis=0), graph("Concat", *pooled, axis=0)
        zeros = graph("ConstantOfShape", graph("Shape", features))
        return graph("ScatterND", zeros, graph("Unsqueeze", order, [1]), features)

    def select(self, found: Value, share: Value, valid: Value) -> tuple[Value, Value, Value]:
        """Select from boxes (B, P * K, 4) with probabilities (B, P, K+1) and validity (B, P): NMS per class, then the best of all."""
        graph, settings = self.graph, self.settings
        score = graph("Mul", graph("Slice", share, [1], [self.classes + 1], [2]), graph("Unsqueeze", valid, [2]))
        score = graph("Mul", graph("Reshape", score, [0, -1]), large_enough(graph, found, roi.MIN_SIZE))
        most = min(roi.CANDIDATES * settings.detections, self.proposals * self.classes)
        best, order = graph.several(2, "TopK", score, [most])
        candidates = take_rows(graph, found, order), best, graph("Mod", order, self.classes)
        return last_selection(graph, settings, self.classes, most, *candidates)


def last_selection(
    graph: Graph, settings: Detector, classes: int, most: int, found: Value, best: Value, label: Value
) -> tuple[Value, Value, Value]:
    """Select by NMS from `most` candidates, the best first: boxes (B, N, 4), scores (B, N) and classes (B, N) from 0 on."""
    best = graph("Mul", best, as_number(graph, graph("Greater", best, settings.score_threshold)))
    if settings.soft_nms is None:
        own = graph("Equal", graph("Unsqueeze", label, [1]), np.arange(classes).reshape(1, -1, 1))  # (B, K, N)
        by_class = graph("Where", own, graph("Unsqueeze", best, [1]), 0.0)
        best = graph("Mul", best, after_nms(graph, found, by_class, settings.box_nms, 0.0))
        best, order = graph.several(2, "TopK", best, [min(settings.detections, most)])
        found, label = take_rows(graph, found, order), take_rows(graph, label, order)
    there = graph("Cast", graph("Greater", best, 0.0), to=INT64)
    return found, best, graph("Mul", graph("Add", label, 1), there)
