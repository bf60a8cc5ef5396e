"""Nets to export: random weights that let every part matter, inputs, and what it means that two find the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mindspore import Tensor
from safetensors.numpy import save_file

from spnas_core.data.annotations import Categories
from spnas_core.jobs import detection
from spnas_core.models.detector import DetectorNet
from spnas_core.models.step import get_weights, set_weights
from spnas_core.settings.detector import Detector

Array = npt.NDArray[Any]
Weights = dict[str, npt.NDArray[np.float32]]
COMMON: dict[str, Any] = {
    "image_size": (75, 101), "base_width": 8, "fpn_channels": 16, "head_channels": 32, "anchor_scale": 4.0, "proposals_test": 40,
    "detections": 12, "score_threshold": 0.1,
}  # fmt: skip


def lively(net: DetectorNet, seed: int = 0) -> Weights:
    """Random weights that let every part matter: statistics, connections that are not zero, boxes that move, scores that differ."""
    rng = np.random.default_rng(seed)
    weights = get_weights(net)

    def normal(std: float, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return rng.normal(0, std, shape).astype(np.float32)

    for name, array in weights.items():
        kind = name.rsplit(".", 1)[-1]
        if kind in ("gamma", "moving_variance"):
            weights[name] = rng.uniform(0.5, 1.2, array.shape).astype(np.float32)
        elif kind in ("beta", "moving_mean", "bias"):
            weights[name] = normal(0.2, array.shape)
        elif name.startswith(("retinanet.delta", "fcos.centrality")):
            weights[name] = normal(0.5 / array[0].size ** 0.5, array.shape)
        elif name.startswith(("rpn", "head")):
            gain = {"rpn.score": 1.0, "rpn.delta": 0.3}.get(name.removesuffix(".weight"), 3.0 if ".score" in name else 1.4)
            weights[name] = normal(gain / array[0].size ** 0.5, array.shape)
        else:
            weights[name] = normal((2 / array[0].size) ** 0.5, array.shape)
    set_weights(net, weights)
    maps = net.set_train(False).features(Tensor(inputs((75, 101))[0][:1]))
    levels = sorted({int(name.split(".")[2]) for name in weights if name.startswith("neck.layer.")})
    for level, one in zip(levels, maps, strict=False):
        for name in (f"neck.layer.{level}.weight", f"neck.layer.{level}.bias"):
            if name in weights:  # a NAS-FPN ends with a norm
                weights[name] /= one.asnumpy().std()
    set_weights(net, weights)
    return weights


def write_model(folder: Path, text: str, settings: Detector, weights: Weights, categories: Categories) -> Path:
    """Write a model folder."""
    folder.mkdir(parents=True)
    save_file(weights, folder / "weights.safetensors")
    (folder / "model.json").write_text(json.dumps(detection.model_document(text, settings, categories)))
    return folder


def iou(a: Array, b: Array) -> float:
    """IoU of two boxes (4,); 1 for equal ones, also without area."""
    if np.abs(a - b).max() < 0.02:
        return 1.0
    inter = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(inter / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter, 1e-9))


def assert_same(ours: tuple[Array, ...], theirs: tuple[Array, ...]) -> int:
    """Assert that every detection of one has its own match among the other's; returns how many there are."""
    pairs = 0
    for image in range(len(ours[0])):
        a, b = ([(box, float(s), int(k)) for box, s, k in zip(*(o[image] for o in one), strict=True) if k > 0] for one in (ours, theirs))
        assert len(a) == len(b)
        for box, score, label in a:
            matches = [n for n, c in enumerate(b) if c[2] == label and abs(c[1] - score) < 1e-3 and iou(box, c[0]) > 0.99]
            assert matches, (image, box, score, label)
            b.pop(matches[0])
            pairs += 1
    return pairs


def inputs(size: tuple[int, int]) -> tuple[Array, Array]:
    """Two images, the second smaller than the network's input."""
    images = np.random.default_rng(1).standard_normal((2, 3, *size)).astype(np.float32)
    image_hw = np.array([size, (size[0] - 20, size[1] - 31)], np.float32)
    images[1, :, size[0] - 20 :], images[1, :, :, size[1] - 31 :] = 0, 0
    return images, image_hw
