"""torchvision's Faster R-CNN of the golden values: its weights, made by a rule (weight_rule.py), and its settings in ours."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from weight_rule import Floats, torchvision_weights

from spnas_core.arch import parse
from spnas_core.data import images
from spnas_core.settings.detector import Detector
from spnas_core.weights.torchvision_names import to_spnas

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "fasterrcnn_resnet50_fpn.npz"
ARCH = parse("r_111-2111-211111-211")
CLASSES = 90
SETTINGS = Detector(image_size=(256, 320), norm="frozen", frozen_stages=2, rpn_batch=10**6, roi_batch=10**6, detections=300, max_boxes=10)


def spnas_weights(names: list[str], shapes: list[str], salt: int = 0) -> dict[str, Floats]:
    """All tensors, under our names."""
    ours = to_spnas(ARCH, names)
    return {ours[name]: array for name, array in torchvision_weights(names, shapes, salt).items()}


def network_input(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Images (B, H, W, 3) as the net's input (B, 3, H, W)."""
    return ((pixels.astype(np.float32) / 255 - images.MEAN) / images.STD).transpose(0, 3, 1, 2).astype(np.float32)
