"""Construction of the net from settings."""

from spnas_core.arch import Arch
from spnas_core.models.detector import DetectorNet
from spnas_core.models.faster_rcnn import FasterRCNN
from spnas_core.settings.detector import Detector


def build(arch: Arch, settings: Detector, classes: int, half: bool = False) -> DetectorNet:
    """Detector with the backbone `arch` and new weights for `classes` classes, without the background.

    `half`: backbone and neck compute in float16.
    """
    return FasterRCNN(arch, settings, classes, half)
