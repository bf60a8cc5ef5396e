"""Clock of another device: nets that were measured there, and what they say of the latency of others.

A net that was measured is taken at its measurement. For any other a fit says it: latency = sum of features of the net (block_features.py)
times what each costs, none below zero, least squares of the relative errors over all measured nets with equal heads. Its error is that of
leaving one out: each measured net predicted from the others.

Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23, in scipy.
"""

import hashlib
import statistics
from collections import Counter
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from spnas_core import arch as architecture
from spnas_core.arch import Arch
from spnas_core.errors import UserError
from spnas_core.job import canonical_json
from spnas_core.search.block_features import net_features
from spnas_core.settings.base import ArchText, Settings, key_document
from spnas_core.settings.detector import Detector

LEAST_CLOCKED = 6  # measured, for a fit
_TRAINING = ("norm", "norm_epsilon", "frozen_stages", "max_boxes")  # settings of a detector that no inference depends on
_TRAINING_HEAD = (
    *("rpn_batch", "roi_batch", "proposals_train"),
    *("focal_alpha", "focal_gamma", "foreground_iou", "background_iou", "box_loss", "centre_radius", "first_distance"),
)
_IN_FEATURES = ("image_size", "base_width", "stem", "neck", "share_weights")  # may differ among the nets of one fit


class ClockedNet(Settings):
    """Latency of one net on a device, ms, and its fastest and slowest round."""

    arch: ArchText
    detector: Detector
    classes: PositiveInt
    latency_ms: PositiveFloat
    spread_ms: tuple[PositiveFloat, PositiveFloat]

    @property
    def identity(self) -> str:
        """Text that two measurements of the same net share."""
        return net_identity(self.arch, self.detector, self.classes)


class DeviceClock(Settings):
    """Measured nets of one device; `threads` 0: as many as its library takes by itself.

    `timer` processor: times of the processor, of a device that did other work meanwhile.
    """

    device: str
    threads: int = Field(ge=0)
    provider: str
    runtime: str
    timer: Literal["clock", "processor"] = "clock"
    nets: tuple[ClockedNet, ...] = Field(min_length=1)

    @property
    def words(self) -> str:
        """Device and manner of measuring: measurements of which these are equal belong together."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads or 'default'} threads"
        return f"{self.device}, {self.provider}, {threads}{', time of the processor' if self.timer == 'processor' else ''}"

    @property
    def digest(self) -> str:
        """Sha256 (hex) of the latencies, on which a search depends."""
        facts = sorted((one.identity, one.latency_ms) for one in self.nets)
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


class ClockLatency(NamedTuple):
    """Latency of a net by a clock, ms, and whether it was measured, or predicted."""

    ms: float
    measured: bool


class Fit(NamedTuple):
    """What the features cost, ms, by name; relative errors of the measured nets, each predicted from the others."""

    costs: dict[str, float]
    errors: tuple[float, ...]

    @property
    def mean_error(self) -> float:
        """Mean of the errors' sizes."""
        return statistics.fmean(map(abs, self.errors))

    @property
    def worst_error(self) -> float:
        """Largest of the errors' sizes."""
        return max(map(abs, self.errors))


def net_identity(arch: str, detector: Detector, classes: int) -> str:
    """Text that two nets share if and only if they are the same in inference, weights left out."""
    return canonical_json({"arch": str(arch), "classes": classes, "detector": _inference(detector)})


def net_latency(clock: DeviceClock, arch: Arch, detector: Detector, classes: int) -> ClockLatency:
    """Latency of a net by a clock; UserError where it was not measured and too few nets like it were."""
    known = _measured(clock).get(net_identity(str(arch), detector, classes))
    if known is not None:
        return ClockLatency(known, True)
    found, features = fit_clock(clock, _kind(detector, classes)), net_features(arch, detector, classes)
    return ClockLatency(sum(found.costs[name] * value for name, value in features.items()), False)


def fit_of(clock: DeviceClock, detector: Detector, classes: int) -> Fit:
    """Fit that says the latency of nets with this head; UserError where too few of them were measured."""
    return fit_clock(clock, _kind(detector, classes))


def clock_fits(clock: DeviceClock) -> list[tuple[int, Fit | str]]:
    """Return the number of measured nets of each kind, and their fit, or why there is none."""
    found: list[tuple[int, Fit | str]] = []
    for kind, count in Counter(_kind(one.detector, one.classes) for one in clock.nets).items():
        try:
            found.append((count, fit_clock(clock, kind)))
        except UserError as error:
            found.append((count, str(error)))
    return found


@lru_cache(maxsize=64)
def fit_clock(clock: DeviceClock, kind: str) -> Fit:
    """Fit the measured nets of one kind; UserError where these are too few."""
    nets = [one for one in clock.nets if _kind(one.detector, one.classes) == kind]
    if len(nets) < LEAST_CLOCKED:
        others = f", and {len(clock.nets) - len(nets)} with other heads or classes" if len(nets) < len(clock.nets) else ""
        raise UserError(
            f"device {clock.device}: expected at least {LEAST_CLOCKED} measured nets like these to predict others, got {len(nets)}{others}"
        )
    rows = [net_features(architecture.parse(one.arch), one.detector, one.classes) for one in nets]
    features, taken = np.array([list(row.values()) for row in rows]), np.array([one.latency_ms for one in nets])
    errors = []
    for left_out in range(len(nets)):
        others = np.arange(len(nets)) != left_out
        errors.append(float(features[left_out] @ _costs(features[others], taken[others]) / taken[left_out] - 1))
    return Fit(dict(zip(rows[0], map(float, _costs(features, taken)), strict=True)), tuple(errors))


def _costs(features: Any, taken: Any) -> Any:
    """Cost of each feature: non-negative least squares of the relative errors; columns are scaled, so that none is favoured."""
    from scipy import optimize  # 0.2 s, which no command without a clock should wait for

    scale = np.maximum(features.max(axis=0), 1e-12)
    found, _ = optimize.nnls(features / scale / taken[:, None], np.ones(len(taken)))
    return found / scale


@lru_cache(maxsize=64)
def _measured(clock: DeviceClock) -> dict[str, float]:
    return {one.identity: one.latency_ms for one in clock.nets}


@lru_cache(maxsize=1 << 12)
def _kind(detector: Detector, classes: int) -> str:
    """Return what the nets of one fit share: head, selection of detections, classes."""
    return canonical_json({"classes": classes, **{key: one for key, one in _inference(detector).items() if key not in _IN_FEATURES}})


def _inference(detector: Detector) -> dict[str, Any]:
    whole = {key: one for key, one in detector.model_dump(mode="json").items() if key not in _TRAINING}
    return whole | {"head": {key: one for key, one in key_document(detector.head).items() if key not in _TRAINING_HEAD}}
