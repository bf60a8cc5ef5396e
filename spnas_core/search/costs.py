"""Costs of candidates, counted from their settings, and the budget as a test of them."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

from spnas_core.arch import Arch
from spnas_core.cost import Cost, backbone_cost
from spnas_core.search.net import Net
from spnas_core.settings.base import Limit
from spnas_core.settings.detector import Detector
from spnas_core.settings.search import Budget
from spnas_core.settings.segmentation import SemanticFpnHead

CostOf = Callable[[Net], Cost]


@lru_cache(maxsize=1 << 15)
def candidate_cost(arch: Arch, detector: Detector, classes: int) -> Cost:
    """Cost of the whole net of `detector` with the backbone `arch`, in inference at its image size; `classes` without background."""
    backbone = backbone_cost(arch, detector.image_size, detector.base_width, detector.stem, detector.share_weights)
    return backbone + neck_and_head_cost(arch, detector, classes)


def neck_and_head_cost(arch: Arch, detector: Detector, classes: int) -> Cost:
    """Cost of all but the backbone, as `candidate_cost`."""
    size, neck = detector.image_size, detector.neck
    outputs, body = neck.outputs(arch, size), neck.cost(arch, size, detector.base_width)
    if isinstance(detector.head, SemanticFpnHead):
        return body + detector.head.map_cost(neck.channels, outputs, classes)
    return body + detector.head.cost(neck.channels, [output.size for output in outputs], classes)


def over_budget(measured: Mapping[str, float], budget: Budget) -> str | None:
    """Say which measured value is outside of `budget`, if one is."""
    for name, limit in budget.measured.items():
        if name in measured and not _inside(measured[name], limit):
            return f"{name}: expected {limit[0] or 0:g} to {limit[1] or math.inf:g}, got {measured[name]:.4g}"
    return None


def within(cost: Cost, budget: Budget, lower: bool = True) -> bool:
    """Whether `cost` lies in `budget`; without `lower` only the upper limits count."""
    pairs = ((cost.params / 1e6, budget.params_m), (cost.macs / 1e9, budget.gmacs))
    return all(_inside(value, limit if lower else (None, limit[1])) for value, limit in pairs)


def _inside(value: float, limit: Limit) -> bool:
    low, high = limit
    return (low is None or value >= low) and (high is None or value <= high)
