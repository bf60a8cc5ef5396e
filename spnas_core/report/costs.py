"""What the stages of a run cost: trainings, epochs, time; and where it went."""

from collections.abc import Sequence
from typing import NamedTuple

from spnas_core.config import STAGE_NAMES
from spnas_core.report.evidence import Evidence, Training


class StageCost(NamedTuple):
    """One stage: its trainings, those that failed, epochs, seconds of devices (of them in the epochs), and seconds from begin to end.

    The trainings that failed left no time.
    """

    name: str
    trainings: int
    failed: int
    epochs: int
    device_seconds: float
    epoch_seconds: float
    seconds: float | None


def stage_costs(evidence: Evidence) -> list[StageCost]:
    """Return the cost of each finished stage; a training that another run had done before counts with the time that it took then."""
    ledger, results = evidence.stage.ledger, evidence.stage.results
    by_stage = {name: [evidence.trainings[one.digest] for one in ledger if one.stage == name] for name in ("fine_tune", "serial", "parallel")}
    failed = {name: sum(bool(one.failure) for one in ledger if one.stage == name) for name in by_stage}
    by_stage |= {"reignite": list(evidence.reignitions.values())}
    by_stage |= {"full_train": [evidence.trainings[digest] for digest in dict.fromkeys(one.digest for one in results.values())]}
    devices = evidence.plan.settings.devices_per_job
    rows = ((name, by_stage[name], failed.get(name, 0), evidence.seconds.get(name) or None) for name in STAGE_NAMES)
    return [_cost(name, jobs, bad, seconds, devices) for name, jobs, bad, seconds in rows if jobs]


def _cost(name: str, jobs: Sequence[Training], failed: int, seconds: float | None, devices: int) -> StageCost:
    whole = [one.manifest for one in jobs if one.manifest]
    inside = [float(one.metrics.get("seconds", 0.0)) for one in whole]
    # one that went on from a checkpoint or a rung: the epochs count all of its processes, its manifest the last one
    around = [max(one.seconds, part) for one, part in zip(whole, inside, strict=True)]
    epochs = sum(int(one.metrics.get("epochs", 0)) for one in whole)
    return StageCost(name, len(jobs), failed, epochs, devices * sum(around), devices * sum(inside), seconds)
