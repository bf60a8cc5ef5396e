"""Semantic FPN's head as nodes of an ONNX graph, equivalent to `models/semantic_fpn.py` in inference.

Shape shorthand: B images, C channels, (h, w) cells of the finest map, K classes.
"""

from spnas_core import arch as architecture
from spnas_core.export.features import Features, conv
from spnas_core.export.graph import Graph, Value
from spnas_core.models.semantic_fpn import LEAST_EPSILON_TRAINED
from spnas_core.settings.segmentation import ladders_of
from spnas_core.weights.model_folder import Model
from spnas_core.weights.tensor_names import SEMANTIC, SEMANTIC_LAST, Arrays


def semantic_model(card: Model, weights: Arrays, batch: int | str = "batch") -> bytes:
    """Content of the ONNX file: images (B, 3, H, W) to `scores` (B, K, h, w), before softmax; for any batch size, or a fixed `batch`."""
    arch, settings = architecture.parse(card.arch), card.detector
    graph = Graph(weights)
    features = Features(graph, arch, settings, batch)
    maps, total = features.pyramid("images"), Value()
    channels = len(weights[f"{SEMANTIC_LAST}.weight"][0])
    epsilon = max(settings.norm_epsilon, LEAST_EPSILON_TRAINED)
    ladders = ladders_of(settings.neck.outputs(arch, settings.image_size))
    for level, ladder in enumerate(ladders):
        x = maps[ladder.output]
        for step, target in enumerate((*ladder.sizes[1:], ladder.target)):
            name = f"{SEMANTIC}{level}.{step}."
            x = graph("Relu", features.conv_norm(x, f"{name}conv", f"{name}bn", epsilon=epsilon))
            x = features.resize(x, ladder.sizes[step], target, channels)
        total = graph("Add", total, x) if level else x
    scores = conv(graph, total, SEMANTIC_LAST)
    shape = (batch, len(card.classes), *ladders[0].target)
    return graph.model({"images": (batch, 3, *settings.image_size)}, {"scores": (scores, "float32", shape)})
