"""Small detectors for tests of necks."""

from typing import Any

import numpy as np

from spnas_core.arch import parse
from spnas_core.settings.detector import Detector
from spnas_core.weights.net_shapes import net_shapes

SMALL: dict[str, Any] = {
    "image_size": (72, 100), "base_width": 4, "stem": "3x3", "head_channels": 16, "anchor_scale": 4, "rpn_batch": 16,
    "proposals_train": 20, "proposals_test": 10, "roi_batch": 8, "max_boxes": 8, "detections": 10,
}  # fmt: skip


def weights_of(arch: str, neck: Any, seed: int, **changes: Any) -> dict[str, np.ndarray]:
    """Weights of a detector, drawn at random, by their names."""
    detector = Detector(**SMALL | changes, neck=neck)
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in net_shapes(parse(arch), detector, 3).items()}
