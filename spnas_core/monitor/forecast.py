"""Forecast of a run: seconds and bytes of each stage, from its replay and the measured speed of a device.

The rounds to come are played several times with made-up scores (run/replay.py), and the forecast is the mean; larger nets score better
there, so the search grows. Artifacts in the store take no time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spnas_core.arch import Arch, parse
from spnas_core.cost import backbone_cost
from spnas_core.data.loader import BY_OPERATORS, batch_size, steps_per_epoch
from spnas_core.data.pipeline import ImageCache
from spnas_core.job import EvaluateJob, Job, PathsJob, ReigniteJob, SupernetJob, TrainJob
from spnas_core.monitor.speed import WARM, Speed, fit_line, makespan
from spnas_core.run.plan import Plan
from spnas_core.run.replay import Replay, Step
from spnas_core.search.costs import candidate_cost
from spnas_core.search.family import family_of
from spnas_core.search.net import net_of
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import StageName

FORECAST_PLAYS = 8
RUN = 12.0  # s of a run beside its jobs: Prefect's server starts, the report is written
_STATISTICS = 1.02  # of a net's bytes, those of its norms' statistics included, to those of its parameters
_DETECTION_BYTES = 105  # bytes of one in detections.json
FOUND = 0.4  # share of the most detections of an image that a net finds
Kept = Callable[[Job], bool]


@dataclass(frozen=True)
class Share:
    """Forecast of one stage: jobs, of which `held` are in the store; seconds as mean, least and most of all plays; bytes."""

    jobs: float
    held: int
    epochs: float
    seconds: float | None
    least: float | None
    most: float | None
    bytes: float


class MeasuredNet(NamedTuple):
    """Measurements of one net by jobs/measure.py in steps of `batch` images, and the seconds outside of that job."""

    arch: str
    detector: Detector
    batch: int
    metrics: dict[str, float]
    outside: float


def forecast(plan: Plan, courses: Sequence[Replay], speed: Speed | None, kept: Kept) -> dict[StageName, Share]:
    """Forecast each stage over several replays; `kept` tells whether the graphs of a job are compiled. No seconds without `speed`."""
    found = {}
    clocks = [Clock(plan, one, speed, kept) for one in courses] if speed else []
    for name in plan.settings.stages:
        groups = [[group for group in one.groups if group[0].stage == name] for one in courses]
        steps = [[step for group in those for step in group] for those in groups]
        times = [sum(clock.group(group) for group in those) for clock, those in zip(clocks, groups, strict=False)]
        if all(step.ended is not None for those in steps for step in those):
            times = [0.0]
        found[name] = Share(
            jobs=_mean(map(len, steps)),
            held=min(sum(step.ended is not None for step in those) for those in steps),
            epochs=_mean(sum(step.epochs for step in those) for those in steps),
            seconds=_mean(times) if times else None,
            least=min(times, default=None),
            most=max(times, default=None),
            bytes=_mean(sum(_step_bytes(plan, step) for step in those if step.ended is None) for those in steps),
        )
    return found


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


class Clock:
    """Seconds of the steps of one replay."""

    def __init__(self, plan: Plan, course: Replay, speed: Speed, kept: Kept) -> None:
        self.plan, self.speed, self.kept = plan, speed, kept
        candidates = [
            step for step in course.steps if step.sure and step.ended is None and step.stage in ("structures", "serial", "parallel")
        ]
        certain = candidates or [step for step in course.steps if step.sure and step.ended is None]
        self.share = _mean(kept(step.job) for step in certain) if certain else 0.0  # of the graphs of nets that nobody can name yet

    def group(self, group: Sequence[Step]) -> float:
        """Seconds of a group of steps, on the devices of the plan."""
        settings = self.plan.settings
        return makespan([self.step(step) for step in group if step.ended is None], len(settings.device_groups))

    def step(self, step: Step) -> float:
        """Seconds of one job that is done anew."""
        warm = float(self.kept(step.job)) if step.sure else self.share
        return job_seconds(self.plan, step.job, step.epochs, self.speed, 1 - warm * (1 - WARM))


def job_seconds(plan: Plan, job: Job, epochs: int, speed: Speed, compiling: float = 1.0) -> float:
    """Seconds of a job that trains `epochs` epochs; `compiling` is the share of its compilation that is still to do."""
    counts, arch = plan.counts, parse(job.arch)
    devices = plan.settings.devices_per_job
    images = image_gmacs(plan, arch, job.detector)

    def evaluation(count: int, scored: int = 1) -> float:
        batches, blocks = scored * -(-count // batch_size(job.detector.image_size)), graph_blocks(arch)
        half = isinstance(job, TrainJob) and job.recipe.mixed_precision
        most = BY_OPERATORS if plan.settings.device_target == "CPU" and not half else 0
        compiled = compiling * speed.eval_compile.at(blocks) if batches > most else 0.0
        seen = count * (scored * speed.image.at(images) + speed.decode) / devices
        return compiled + min(batches, most) * speed.by_operators.at(blocks) + seen

    if isinstance(job, TrainJob):
        batch, size = job.recipe.batch, job.detector.image_size
        steps = epochs * steps_per_epoch(counts.train, batch)
        fits = counts.train * size[0] * size[1] * 3 <= ImageCache().max_bytes
        decoded = steps * batch / (epochs if fits and epochs else 1)
        compiled = compiling * speed.train_compile.at(graph_blocks(arch))
        scored = (epochs // job.recipe.eval_epochs if job.recipe.eval_epochs else 1) + bool(job.recipe.inherited_batches)
        whole = speed.start + compiled + steps * speed.step.at(batch * images / devices) + decoded * speed.decode / devices
        return whole + evaluation(counts.val, scored)
    if isinstance(job, ReigniteJob):
        recipe = job.recipe
        body = backbone_cost(arch, (recipe.image_size, recipe.image_size), job.detector.base_width, job.detector.stem)
        steps = epochs * steps_per_epoch(counts.crops, recipe.batch)
        compiled = compiling * speed.train_compile.at(graph_blocks(arch))
        return speed.start + compiled + steps * speed.step.slope * recipe.batch * body.macs / 1e9 / devices + counts.crops * speed.decode
    if isinstance(job, SupernetJob | PathsJob):
        return speed.start + _supernet_seconds(plan, job, epochs, speed, compiling)
    if isinstance(job, EvaluateJob):
        return speed.start + evaluation(counts.test if job.split == "test" else counts.val)
    return speed.start + speed.eval_compile.at(graph_blocks(arch)) + 8.0  # compiles the reference net and takes images of both for so long


def _supernet_seconds(plan: Plan, job: SupernetJob | PathsJob, epochs: int, speed: Speed, compiling: float) -> float:
    """Seconds of a job of a supernet, whose graph computes the blocks of all places; devices are of no use to it."""
    family, batch = family_of(job.arch, job.family, job.blocks), job.recipe.batch
    images = image_gmacs(plan, family.union, job.detector) * len(family.places) / len(family.slots)
    count = plan.counts.train
    if isinstance(job, SupernetJob):
        steps = epochs * steps_per_epoch(count, batch)
        return compiling * speed.train_compile.at(len(family.places)) + steps * speed.step.at(batch * images) + count * speed.decode
    path = (job.calibration * batch + plan.counts.val) * speed.image.at(images)
    decoded = (job.calibration * batch + plan.counts.val) * speed.decode
    return 2 * compiling * speed.eval_compile.at(len(family.places)) + decoded + len(job.members) * path


def _step_bytes(plan: Plan, step: Step) -> float:
    """Bytes of a step; the run's folder has the final net once more."""
    return job_bytes(plan, step.job) * (2 if (step.label.role, step.label.net) == ("full_train", "final") else 1)


def job_bytes(plan: Plan, job: Job) -> float:
    """Bytes of the artifact of a job: weights in float32 and detections; at a rung of halving also the state of the training."""
    arch, counts = parse(job.arch), plan.counts
    found = 0.0
    if isinstance(job, TrainJob | EvaluateJob):
        images = counts.test if isinstance(job, EvaluateJob) and job.split == "test" else counts.val
        found += images * FOUND * job.detector.detections * _DETECTION_BYTES
    if isinstance(job, TrainJob):
        weights = 4 * _STATISTICS * plan.cost_of(net_of(arch, job.detector, plan.settings.detector)).params
        found += weights * (3 if job.stop_after_epochs else 1)
    if isinstance(job, SupernetJob):
        found += 4 * _STATISTICS * plan.cost_of(net_of(family_of(job.arch, job.family, job.blocks).union, job.detector)).params
    if isinstance(job, ReigniteJob):
        detector = job.detector
        body = backbone_cost(arch, detector.image_size, detector.base_width, detector.stem, detector.share_weights)
        found += 4 * _STATISTICS * body.params
    return found


def graph_blocks(arch: Arch) -> int:
    """Blocks in a graph of the net, parallel copies included."""
    return sum(len(stage) * (1 + copies) for stage, copies in zip(arch.stages, arch.parallel, strict=True))


def image_gmacs(plan: Plan, arch: Arch, detector: Detector) -> float:
    """GMACs of one image in a detector."""
    return candidate_cost(arch, detector, plan.classes).macs / 1e9


def speed_of(plan: Plan, measured: Sequence[MeasuredNet]) -> Speed:
    """Fit the lines of a Speed to measured nets."""
    points = [(one, graph_blocks(parse(one.arch)), image_gmacs(plan, parse(one.arch), one.detector)) for one in measured]
    return Speed(
        start=_mean(one.outside + one.metrics["prepare"] for one in measured),
        train_compile=fit_line((blocks, one.metrics["train_compile"]) for one, blocks, _ in points),
        step=fit_line((one.batch * gmacs, one.metrics["step"]) for one, _, gmacs in points),
        eval_compile=fit_line((blocks, one.metrics["eval_compile"]) for one, blocks, _ in points),
        image=fit_line((gmacs, one.metrics["image"]) for one, _, gmacs in points),
        by_operators=fit_line((blocks, one.metrics["by_operators"]) for one, blocks, _ in points),
        decode=_mean(one.metrics["decode"] for one in measured),
        memory_mb=fit_line((one.batch * gmacs, one.metrics["memory_mb"]) for one, _, gmacs in points),
    )
