"""ONNX model of a detector, from its architecture, settings and weights."""

from spnas_core import arch as architecture
from spnas_core.export.dense_heads import detect_dense
from spnas_core.export.features import Features
from spnas_core.export.graph import Graph
from spnas_core.export.heads import Heads
from spnas_core.models.anchors import anchor_grid
from spnas_core.settings.one_stage import OneStageHead
from spnas_core.weights.model_folder import Model
from spnas_core.weights.tensor_names import Arrays


def onnx_model(card: Model, weights: Arrays) -> bytes:
    """Content of the ONNX file; inputs and outputs are those of `models.detector.DetectorNet`, by name, for any batch size.

    images (B, 3, H, W), image_hw (B, 2) to boxes (B, D, 4), scores (B, D; 0 = none), labels (B, D); before soft-NMS if it is set.
    """
    arch, settings = architecture.parse(card.arch), card.detector
    graph = Graph(weights)
    maps = Features(graph, arch, settings).pyramid("images")
    grid, classes = anchor_grid(arch, settings), len(card.classes)
    if isinstance(settings.head, OneStageHead):
        boxes, scores, labels = detect_dense(graph, settings, grid, classes, maps, "image_hw")
    else:
        heads = Heads(graph, settings, grid, classes, maps, "image_hw")
        boxes, scores, labels = heads.detect(*heads.propose())
    count = ("batch", "detections")
    return graph.model(
        {"images": ("batch", 3, *settings.image_size), "image_hw": ("batch", 2)},
        {"boxes": (boxes, "float32", (*count, 4)), "scores": (scores, "float32", count), "labels": (labels, "int64", count)},
    )
