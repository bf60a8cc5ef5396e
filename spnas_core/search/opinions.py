"""Second opinions: what published cheap scores say about a net, beside its trained score. They decide nothing.

MACs: whether larger nets simply rank higher. Entropy: MAE-DET's formula (`entropy.py`). Gammas: BN-NAS's score, the sum over blocks of the
mean |gamma| of the last norm of the residual branch; the sum, as published, since a block that is not used adds nothing to it, as a skip
does there, and a mean would fall with every inserted block. AP before training: on inherited weights, where a recipe asks for it.
"""

from collections.abc import Mapping
from typing import Any, Literal

from spnas_core.arch import Arch
from spnas_core.search.entropy import backbone_entropy
from spnas_core.settings.detector import Detector

OpinionName = Literal["macs", "entropy", "gammas", "AP_inherited"]
OPINIONS: dict[OpinionName, str] = {
    "macs": "MACs",
    "entropy": "entropy (MAE-DET)",
    "gammas": "sum of |γ| (BN-NAS)",
    "AP_inherited": "AP before training",
}
BLOCK_GAMMAS = "block_gammas"  # metric of a training: mean |gamma| per block, see weights/gammas.py
INHERITED_SCORE: OpinionName = "AP_inherited"  # metric of a training, a fraction


def opinions_of(arch: Arch, detector: Detector, macs: float, metrics: Mapping[str, Any]) -> dict[OpinionName, float | None]:
    """Opinions on a net with the metrics of its training; None for one that they do not tell, such as those of earlier versions."""
    gammas, before = metrics.get(BLOCK_GAMMAS), metrics.get(INHERITED_SCORE)
    return {
        "macs": float(macs),
        "entropy": backbone_entropy(arch, detector.base_width, detector.stem),
        "gammas": sum(gammas) if gammas else None,
        "AP_inherited": float(before) if before is not None and before >= 0 else None,
    }
