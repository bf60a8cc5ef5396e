"""Construction of the net from settings."""

from spnas_core.arch import Arch
from spnas_core.models.detector import PyramidNet
from spnas_core.models.faster_rcnn import FasterRCNN
from spnas_core.models.fcos import FCOS
from spnas_core.models.retinanet import RetinaNet
from spnas_core.models.semantic_fpn import SemanticFPN
from spnas_core.settings.detector import Detector
from spnas_core.settings.segmentation import SemanticFpnHead


def build(arch: Arch, settings: Detector, classes: int, half: bool = False) -> PyramidNet:
    """Net with the backbone `arch` and new weights for `classes` classes, of a detector without the background.

    `half`: backbone and neck compute in float16.
    """
    if isinstance(settings.head, SemanticFpnHead):
        return SemanticFPN(arch, settings, settings.head, classes, half)
    kinds: dict[str, type[RetinaNet | FCOS]] = {"retinanet": RetinaNet, "fcos": FCOS}
    return kinds.get(settings.head.kind, FasterRCNN)(arch, settings, classes, half)
