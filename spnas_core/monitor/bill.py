"""Expected cost of a run: counted, measured on this device with two of its nets, less what the store holds."""

import contextlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from spnas_core.cost import Cost
from spnas_core.errors import UserError
from spnas_core.job import Job, MeasureJob, TrainJob
from spnas_core.jobs import graphs
from spnas_core.jobs.progress import log_line
from spnas_core.jobs.runner import run_job
from spnas_core.monitor.forecast import FORECAST_PLAYS, RUN, MeasuredNet, forecast, speed_of
from spnas_core.monitor.speed import Speed
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan, short
from spnas_core.run.register import flat
from spnas_core.run.replay import Replay, known_results, replays
from spnas_core.run.supernet import search_bounds
from spnas_core.search.net import Net, gene_words, net_of
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run
from spnas_core.settings.training import Recipe
from spnas_core.track.following import open_trackers


def open_all(settings: Run, data: str, store: str) -> tuple[Plan | None, list[str]]:
    """Open the plan of a run, check its trackers, and that its budget allows a net; else returns None and one line per mistake."""
    plan, mistakes = None, list[str]()
    try:
        open_trackers(settings)
    except UserError as error:
        mistakes += str(error).splitlines()
    try:
        plan = open_plan(settings, data, store)
        search_bounds(settings, plan.cost_of)
    except UserError as error:
        mistakes += str(error).splitlines()
    return (None if mistakes else plan), mistakes


def bill(plan: Plan, measured: bool = True) -> dict[str, Any]:
    """Cost of the run as a JSON document; with `measured`, times too, for which two nets train for a few steps."""
    settings, known = plan.settings, known_results(plan)
    courses = replays(plan, known, FORECAST_PLAYS)
    left = any(step.ended is None for step in courses[0].steps)
    measurements = measure_nets(plan, courses[0]) if measured and left else []
    speed = speed_of(plan, measurements) if measurements else None
    stages = forecast(plan, courses, speed, lambda job: has_graphs(plan, job))
    kinds = ("jobs", "held", "epochs", "seconds", "least", "most", "bytes")
    total = {kind: _sum([getattr(one, kind) for one in stages.values()]) for kind in kinds}
    if speed:
        total |= {kind: (total[kind] or 0.0) + RUN for kind in ("seconds", "least", "most")}
    small, large = search_bounds(settings, plan.cost_of)
    start = net_of(settings.arch, settings.detector)
    nets = {"start net": (start, plan.cost_of(start)), "fewest MACs": small, "most MACs": large}
    finished = {name: plan.store.manifest(f"stage/{key}") is not None for name, key in plan.keys.items()}
    return {
        "name": settings.name,
        "store": plan.store.url,
        "data": plan.counts.model_dump(),
        "settings": _differing(settings),
        "nets": {name: _net(plan, *one, speed) for name, one in nets.items()},
        "measured": [{"arch": one.arch, "batch": one.batch, **one.metrics, "outside": one.outside} for one in measurements],
        "stages": {name: {**share.__dict__, "finished": finished[name]} for name, share in stages.items()},
        "total": total,
        "notes": _notes(plan, speed),
    }


def measure_nets(plan: Plan, first: Replay) -> list[MeasuredNet]:
    """Measure the start net and the net with most MACs of a replay."""
    settings = plan.settings
    jobs = [step.job for step in first.steps if isinstance(step.job, TrainJob)]
    largest = max(jobs, key=lambda job: plan.cost_of(net_of(job.arch, job.detector, plan.settings.detector)).macs)
    own = net_of(settings.arch, settings.detector).detector(settings.detector)
    nets = {(largest.arch, largest.detector): largest.recipe, (settings.arch, own): settings.fine_tune}
    return [_measure(plan, arch, detector, recipe) for (arch, detector), recipe in reversed(nets.items())]


def _measure(plan: Plan, arch: str, detector: Detector, recipe: Recipe) -> MeasuredNet:
    settings = plan.settings
    share = recipe.model_copy(update={"batch": recipe.batch // settings.devices_per_job})
    job = MeasureJob(arch=arch, detector=detector, recipe=share, data=plan.data, device_target=settings.device_target)
    log_line(f"measures {short(arch)}")
    threads = max(1, settings.threads // len(settings.device_groups))
    with tempfile.TemporaryDirectory(prefix="spnas-plan-") as store:
        begun = time.monotonic()
        device = contextlib.nullcontext(settings.devices[:1])
        found = run_job(job, store, devices=device, threads=threads, timeout=settings.timeout(job.kind), memory_gb=settings.memory_gb)
        outside = time.monotonic() - begun - float(found.metrics["inside"])
    return MeasuredNet(arch, detector, share.batch, found.metrics, outside)


def has_graphs(plan: Plan, job: Job) -> bool:
    """Whether this host holds the compiled graphs of a job, and runs the job itself."""
    return plan.settings.executor == "local" and graphs.is_kept(graphs.key(job, plan.settings.devices_per_job))


def _net(plan: Plan, net: Net, cost: Cost, speed: Speed | None) -> dict[str, Any]:
    work = plan.settings.fine_tune.batch / plan.settings.devices_per_job * cost.macs / 1e9
    genes = gene_words(net, net_of(plan.settings.arch, plan.settings.detector))
    return {
        "arch": str(net.arch),
        "genes": genes,
        "params": cost.params,
        "macs": cost.macs,
        "memory_mb": speed.memory_mb.at(work) if speed else None,
    }


def _differing(settings: Run) -> dict[str, tuple[Any, Any]]:
    """Value and default, by dotted key, of each setting that differs from its default."""
    values, defaults = (flat(one.model_dump(mode="json")) for one in (settings, Run()))
    return {key: (value, defaults.get(key)) for key, value in values.items() if value != defaults.get(key) and key != "name"}


def _notes(plan: Plan, speed: Speed | None) -> list[str]:
    notes = []
    if plan.settings.devices_per_job > 1 and speed:
        notes.append("Steps were measured on one device with its share of a batch; what the devices tell each other comes on top.")
    if plan.settings.executor == "work_pool" and speed:
        notes.append("Steps were measured on this host, not on those of the work pool.")
    return notes


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value for value in values if value is not None)
