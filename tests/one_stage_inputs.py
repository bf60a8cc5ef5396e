"""Images and ground truth of the golden values of one-stage detectors, drawn from a salt; numpy alone, for torchvision's side too."""

from typing import Any

import numpy as np
import numpy.typing as npt

HEIGHT, WIDTHS, CLASSES = 256, (320, 288), 91
PICKED = {  # steps along the axes of the elements that are compared
    "body": (1, 211, 11, 13), "pyramid": (1, 101, 3, 3),
    "cls_logits": (1, 1013, 17), "bbox_regression": (1, 211, 1), "bbox_ctrness": (1, 53, 1),
}  # fmt: skip
Drawn = tuple[npt.NDArray[np.uint8], list[npt.NDArray[Any]], list[npt.NDArray[Any]]]


def draw(salt: int) -> Drawn:
    """Images (2, H, W, 3), and boxes (N, 4) and torchvision's labels (N,) of each: five and eight, of 16 to 160 px."""
    rng = np.random.default_rng(salt)
    images = rng.integers(0, 256, (len(WIDTHS), HEIGHT, max(WIDTHS), 3)).astype(np.uint8)
    boxes, labels = [], []
    for count, width in zip((5, 8), WIDTHS, strict=True):
        side = 16 + rng.random((count, 2)) * 144
        corner = rng.random((count, 2)) * (np.array([width, HEIGHT]) - side)
        boxes.append(np.concatenate((corner, corner + side), 1).astype(np.float32))
        labels.append(rng.integers(1, CLASSES, count))
    return images, boxes, labels
