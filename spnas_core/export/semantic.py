"""Semantic FPN's head as nodes of an ONNX graph, equivalent to `models/semantic_fpn.py` in inference.

Shape shorthand: B images, C channels, (h, w) cells of the finest map, K classes.
"""

import numpy as np

from spnas_core import arch as architecture
from spnas_core.cost import Size
from spnas_core.export.features import Features, conv
from spnas_core.export.graph import Graph, Shape, Value
from spnas_core.models.semantic_fpn import LEAST_EPSILON_TRAINED
from spnas_core.settings.segmentation import ladders_of
from spnas_core.weights.model_folder import Model
from spnas_core.weights.tensor_names import SEMANTIC, SEMANTIC_LAST, Arrays


def semantic_model(card: Model, weights: Arrays, batch: int | str = "batch") -> bytes:
    """Content of the ONNX file: images (B, 3, H, W) to `scores` (B, K, h, w), before softmax; for any batch size, or a fixed `batch`."""
    arch, settings = architecture.parse(card.arch), card.detector
    graph = Graph(weights)
    features = Features(graph, arch, settings)
    maps, total = features.pyramid("images"), Value()
    channels = len(weights[f"{SEMANTIC_LAST}.weight"][0])
    epsilon = max(settings.norm_epsilon, LEAST_EPSILON_TRAINED)
    ladders = ladders_of(settings.neck.outputs(arch, settings.image_size))
    for level, ladder in enumerate(ladders):
        x = maps[ladder.output]
        for step, target in enumerate((*ladder.sizes[1:], ladder.target)):
            name = f"{SEMANTIC}{level}.{step}."
            x = graph("Relu", features.conv_norm(x, f"{name}conv", f"{name}bn", epsilon=epsilon))
            x = _enlarged(graph, x, ladder.sizes[step], (batch, channels, *target))
        total = graph("Add", total, x) if level else x
    scores = conv(graph, total, SEMANTIC_LAST)
    shape = (batch, len(card.classes), *ladders[0].target)
    return graph.model({"images": (batch, 3, *settings.image_size)}, {"scores": (scores, "float32", shape)})


def _enlarged(graph: Graph, x: Value, size: Size, shape: Shape) -> Value:
    """Resize (B, C, *size) bilinearly to `shape`, pixel centres at half pixels."""
    batch, channels, *target = shape
    if list(size) == target:
        return x
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    if target == [2 * size[0], 2 * size[1]]:
        return graph("Resize", x, "", [1.0, 1.0, 2.0, 2.0], **how)
    if isinstance(batch, int):
        return graph("Resize", x, "", "", np.array([batch, channels, *target], np.int64), **how)
    return graph("Resize", x, "", "", graph("Concat", graph("Shape", x, end=2), np.array(target, np.int64), axis=0), **how)
