"""Trials as ended trainings leave them, made without any training."""

import hashlib
from typing import Any

from spnas_core.job import Weights
from spnas_core.search.ledger import SearchStage, Trial
from spnas_core.search.net import net_of
from spnas_core.settings.detector import Detector


def trial_of(
    arch: str,
    stage: SearchStage,
    number: int,
    index: int,
    parent: str | None,
    digest: str,
    metrics: dict[str, Any] | None = None,
    failure: str | None = None,
    rung: int | None = None,
    detector: Detector = Detector(),  # noqa: B008 - it is immutable
) -> Trial:
    """A trial; with metrics, it has weights and a score."""
    net, key = net_of(arch, detector), hashlib.sha256(digest.encode()).hexdigest()
    if metrics is None:
        return Trial(net, stage, number, index, parent, digest, None, failure, rung)
    weights = Weights(kind="train", digest=key, arch=arch)
    return Trial(net, stage, number, index, parent, digest, metrics, failure, rung, weights, metrics.get("AP"))
