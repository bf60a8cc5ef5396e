"""Cost of the stages of a run, and its time by phase."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from spnas_core.jobs.timing import parts, total_seconds
from spnas_core.report.inputs import ReportInputs, trained_before
from spnas_core.search.ledger import SEARCH_STAGES
from spnas_core.store.manifest import Manifest


class StageCost(NamedTuple):
    """Cost of one stage: successful jobs, failed trials, epochs; device seconds, in total and by phase (timing.py).

    `wall` is the time from start to end, s; 0 if the store does not tell. Failed jobs have no recorded time.
    """

    name: str
    jobs: int
    failed: int
    epochs: int
    seconds: float
    phases: Mapping[str, float]
    wall: float


def stage_costs(inputs: ReportInputs) -> list[StageCost]:
    """Compute the cost of each stage; a job reused from another run counts with the time that it took there."""
    ledger, results = inputs.stage.ledger, inputs.stage.results
    digests: dict[str, list[str]] = {
        name: [digest for one in ledger if one.stage == name for digest in one.trainings] for name in SEARCH_STAGES
    }
    digests["serial"] += trained_before(inputs.stage)
    digests["full_train"] = [one.digest for one in results.values()]
    jobs: dict[str, list[Manifest | None]] = {
        name: [inputs.trainings[digest].manifest for digest in dict.fromkeys(ones)] for name, ones in digests.items()
    }
    jobs["reignite"] = [one.manifest for one in inputs.reignitions.values()]
    jobs["full_train"] += inputs.evaluations
    first = "structures" if inputs.plan.settings.structures else "serial"  # at whose start the start net is measured
    at = {digest: first if one.stage == "fine_tune" else one.stage for one in reversed(ledger) for digest in inputs.plan.benchmarks([one])}
    for key, benchmark in inputs.benchmarks.items():
        jobs[at.get(key, "full_train")].append(benchmark)
    done = {name: [one for one in ones if one] for name, ones in jobs.items()}
    failed = {name: sum(bool(one.failure) for one in ledger if one.stage == name) for name in inputs.plan.settings.stages}
    found = (_cost(name, done[name], failed[name], inputs) for name in inputs.plan.settings.stages)
    return [one for one in found if one.jobs or one.failed]


def _cost(name: str, done: Sequence[Manifest], failed: int, inputs: ReportInputs) -> StageCost:
    # continued from a checkpoint or a rung: its epochs count all of its processes, its manifest only the last one
    seconds = [max(one.seconds, float(one.metrics.get("seconds", 0.0))) for one in done]
    phases = total_seconds(parts(one.kind, each, one.metrics) for one, each in zip(done, seconds, strict=True))
    devices = inputs.plan.settings.devices_per_job
    epochs = sum(int(one.metrics.get("epochs", 0)) for one in done)
    by_phase = {phase: devices * each for phase, each in phases.items()}
    return StageCost(name, len(done), failed, epochs, devices * sum(seconds), by_phase, inputs.seconds.get(name, 0.0))
