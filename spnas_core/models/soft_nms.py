"""Soft-NMS: a box lowers the scores of the boxes of its class that it overlaps, instead of removing them.

It runs on the host, on the candidates from the compiled net. Source: Bodla et al., ICCV 2017, figure 2 and equations 2 and 3.
"""

import numpy as np
import numpy.typing as npt

from spnas_core.data.images import Floats, Ints
from spnas_core.settings.detector import Detector


def soft_nms(boxes: Floats, scores: Floats, labels: Ints, settings: Detector) -> tuple[npt.NDArray[np.intp], Floats]:
    """Rows (D,) of the at most `detections` best of boxes (N, 4), xyxy, with scores (N,) and labels (N,); and their lowered scores (D,).

    Boxes of all classes are processed in one order, best first. Classes do not affect each other, so the result equals soft-NMS per class
    and then the best of all, and it stops after `detections` steps.
    """
    x1, y1, x2, y2 = boxes.T.astype(np.float64)
    area, left = (x2 - x1) * (y2 - y1), scores.astype(np.float64)
    taken: list[int] = []
    values: list[float] = []
    for _ in range(min(settings.detections, len(left))):
        best = int(left.argmax())
        if left[best] <= settings.score_threshold:
            break
        taken.append(best)
        values.append(left[best])
        width = np.minimum(x2, x2[best]) - np.maximum(x1, x1[best])
        height = np.minimum(y2, y2[best]) - np.maximum(y1, y1[best])
        inter = np.maximum(width, 0) * np.maximum(height, 0)
        iou = np.where(labels == labels[best], inter / np.maximum(area + area[best] - inter, 1e-12), 0.0)
        if settings.soft_nms == "linear":
            left *= np.where(iou >= settings.box_nms, 1 - iou, 1.0)
        else:
            left *= np.exp(-(iou**2) / settings.soft_nms_sigma)
        left[best] = 0.0
    return np.array(taken, np.intp), np.array(values, np.float32)
