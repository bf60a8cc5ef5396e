"""Construction of the net from settings."""

from spnas_core.arch import Arch
from spnas_core.models.detector import DetectorNet
from spnas_core.models.faster_rcnn import FasterRCNN
from spnas_core.models.fcos import FCOS
from spnas_core.models.retinanet import RetinaNet
from spnas_core.settings.detector import Detector


def build(arch: Arch, settings: Detector, classes: int, half: bool = False) -> DetectorNet:
    """Detector with the backbone `arch` and new weights for `classes` classes, without the background.

    `half`: backbone and neck compute in float16.
    """
    kinds: dict[str, type[RetinaNet | FCOS]] = {"retinanet": RetinaNet, "fcos": FCOS}
    return kinds.get(settings.head.kind, FasterRCNN)(arch, settings, classes, half)
