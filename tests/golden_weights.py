"""torchvision's Faster R-CNN of ../shared/golden: its weights, made by the rule of the README there, and its settings in ours."""

import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spnas_core.arch import Arch, levels, parse
from spnas_core.config import Detector
from spnas_core.data import images
from spnas_core.shapes import backbone_shapes, detector_shapes
from spnas_core.torchvision_names import to_spnas, to_torchvision

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "fasterrcnn_resnet50_fpn.npz"
ARCH = parse("r_111-2111-211111-211")
CLASSES = 90
SETTINGS = Detector(image_size=(256, 320), norm="frozen", frozen_stages=2, rpn_batch=10**6, roi_batch=10**6, detections=300, max_boxes=10)
GAINS = {
    "roi_heads.box_predictor.bbox_pred": 0.3,
    "rpn.head.bbox_pred": 0.1,
    "roi_heads.box_predictor.cls_score": 0.8,
    "rpn.head.cls_logits": 1.0,
}
Floats = npt.NDArray[np.float32]


def rule(name: str, shape: tuple[int, ...], salt: int = 0) -> Floats:
    """One tensor of the rule."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + salt))
    n = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        return 1 + np.float32(0.2) * np.abs(n)
    if name.endswith((".running_mean", ".bias")):
        return np.float32(0.1) * n
    if len(shape) == 1:
        return (1 + np.float32(0.1) * n) * np.float32(0.3 if ".bn3." in name or ".downsample.1." in name else 1.0)
    gain = GAINS.get(name.removesuffix(".weight"), math.sqrt(2))
    return np.float32(gain / math.sqrt(math.prod(shape[1:]))) * n


def torchvision_weights(names: list[str], shapes: list[str], salt: int = 0) -> dict[str, Floats]:
    """All tensors, under torchvision's names; shapes as text: ``64,3,7,7``."""
    return {name: rule(name, tuple(map(int, shape.split(","))), salt) for name, shape in zip(names, shapes, strict=True)}


def spnas_weights(names: list[str], shapes: list[str], salt: int = 0) -> dict[str, Floats]:
    """All tensors, under our names."""
    ours = to_spnas(ARCH, names)
    return {ours[name]: array for name, array in torchvision_weights(names, shapes, salt).items()}


def made(arch: Arch, settings: Detector, classes: int | None) -> dict[str, Floats]:
    """Weights of the rule under torchvision's names: a Faster R-CNN of `classes` classes, or without them a classifier of ten."""
    if classes is None:
        score = (10, levels(arch, settings.base_width)[-1].channels)
        shapes = {**backbone_shapes(arch, settings), "score.weight": score, "score.bias": score[:1]}
    else:
        shapes = detector_shapes(arch, settings, classes)
    return {name: rule(name, shapes[ours]) for ours, name in to_torchvision(arch, shapes).items()}


def network_input(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Images (B, H, W, 3) as the net's input (B, 3, H, W)."""
    return ((pixels.astype(np.float32) / 255 - images.MEAN) / images.STD).transpose(0, 3, 1, 2).astype(np.float32)
