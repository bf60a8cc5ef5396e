"""Trials as ended trainings leave them, made without any training."""

import hashlib
from typing import Any

import numpy as np

from spnas_core.arch import Arch
from spnas_core.job import Weights
from spnas_core.search.ledger import SearchStage, Trial
from spnas_core.search.mutation import mutate
from spnas_core.search.net import net_of
from spnas_core.settings.detector import Detector
from spnas_core.settings.search import Mutation, Space


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


def mutate_arch(arch: Arch, rng: np.random.Generator, settings: Mutation, space: Space) -> Arch:
    """Child of an architecture, where no gene of the whole net changes."""
    detector = Detector()
    return mutate(net_of(arch, detector), rng, settings, space, detector).arch
