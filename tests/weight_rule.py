"""The rule that makes golden weights from their names; numpy alone, since the environment with torchvision runs it too."""

import math
import zlib

import numpy as np
import numpy.typing as npt

GAINS = {
    "roi_heads.box_predictor.bbox_pred": 0.3,
    "rpn.head.bbox_pred": 0.1,
    "roi_heads.box_predictor.cls_score": 0.8,
    "rpn.head.cls_logits": 1.0,
    "head.classification_head.cls_logits": 0.6,
    "head.regression_head.bbox_reg": 0.5,
}
BATCH, LR = 2, 1e-6  # of the training step whose time is compared
TRUTH = [[10.0, 20.0, 150.0, 180.0], [60.0, 70.0, 200.0, 230.0]]  # its boxes in each image, px
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
