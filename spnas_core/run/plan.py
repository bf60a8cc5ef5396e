"""Plan of a run: its settings and data, the jobs that follow from them, and the keys of all stages, known in advance."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from spnas_core.arch import parse
from spnas_core.cost import Cost
from spnas_core.job import RECIPE_VERSION, BenchmarkJob, Data, EvaluateJob, ReigniteJob, TrainJob, Weights, canonical_json, digest
from spnas_core.search.clock import DeviceClock, net_latency
from spnas_core.search.costs import candidate_cost
from spnas_core.search.ledger import Trial
from spnas_core.search.net import Net, net_of
from spnas_core.search.propose import Proposal
from spnas_core.search.stock import stock_family
from spnas_core.settings.base import Settings, key_document
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run, StageName
from spnas_core.settings.search import DEVICE_LATENCY, MEASURED
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest
from spnas_core.weights.lineage import lineage

SEARCH_VERSION = 2  # raise it when a stage comes to do something else with the same settings
ScoredSplit = Literal["val", "test"]
RoundStage = Literal["structures", "serial"]  # stages whose rounds leave records
FinalNet = str  # of the nets that are trained to the end: `final`, and those that it is compared with
START, EQUAL = "start", "start, equal epochs"  # names of the start net among these: by the same recipe as the chosen net, or longer
STOCK, FRONT = "stock: ", "front "  # before the names of stock nets and of others of the front
_MEASURING = BenchmarkJob.model_fields["reference"].default
_T = TypeVar("_T")


class Counts(Settings):
    """Counts of images per split, of boxes to learn, and of crops of these or the reignition's own images."""

    train: int = 0
    val: int = 0
    test: int = 0
    boxes: int = 0
    crops: int = 0


@dataclass(frozen=True)
class Plan:
    """A run with its data opened; `test` is the data of the test split, `images` the fingerprint of the reignition's own images, if any.

    `clocks`: of the other devices whose latency counts, by name.
    """

    settings: Run
    store: Store
    data: Data
    classes: int
    test: Data | None = None
    checkpoint_sha256: str | None = None
    images: str | None = None
    counts: Counts = field(default_factory=Counts)
    clocks: Mapping[str, DeviceClock] = field(default_factory=dict)
    keys: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Derive the keys of the stages, each from its settings and the key of the stage before."""
        object.__setattr__(self, "keys", stage_keys(self))

    @property
    def start(self) -> Net:
        """The start net."""
        return net_of(self.settings.arch, self.settings.detector)

    @property
    def leaves_out(self) -> bool:
        """Whether children may lack blocks of their parents, see `weights.lineage`."""
        structures = self.settings.structures
        return self.settings.serial.mutation.shrink > 0 or bool(structures and structures.mutation.shrink > 0)

    def train(self, arch: str, detector: Detector, recipe: Recipe, weights: tuple[Weights, ...] = ()) -> TrainJob:
        """Job that trains `arch` in `detector`; without `weights` it starts from the run's checkpoint, if that has one."""
        settings, from_checkpoint = self.settings, {}
        if settings.checkpoint and not weights:
            from_checkpoint = {
                "checkpoint": settings.checkpoint,
                "checkpoint_sha256": self.checkpoint_sha256,
                "checkpoint_coverage": settings.checkpoint_coverage,
            }
        common = {"data": self.data, "seed": settings.seed, "device_target": settings.device_target}
        return TrainJob(arch=arch, detector=detector, recipe=recipe, weights=weights, **common, **from_checkpoint)

    def train_net(self, net: Net, recipe: Recipe, weights: tuple[Weights, ...] = ()) -> TrainJob:
        """Job that trains a candidate."""
        return self.train(str(net.arch), net.detector(self.settings.detector), recipe, weights)

    def short_training(self, recipe: Recipe, child: Proposal, reignited: Mapping[str, Weights]) -> tuple[TrainJob, Trial]:
        """Job that trains a child on the weights of its parent, with the parent's reignited backbone where there is one; and the parent."""
        parent = child.parent
        weights = (inherited(parent), *((reignited[parent.digest],) if parent.digest in reignited else ()))
        job, nets = self.train_net(child.net, recipe, weights), (parent.net.arch, child.net.arch)
        matters = self.leaves_out and lineage(*nets, leaves_out=True) != lineage(*nets)  # else its digest is that of any other run
        return job.model_copy(update={"leaves_out": matters}), parent

    def full_trainings(self, chosen: Trial, start: Trial, behind: int = 0, others: Sequence[Trial] = ()) -> dict[FinalNet, TrainJob]:
        """Jobs that fully train the chosen net, and the start net for comparison, from their weights in the ledger.

        Where the settings ask for it the start net is trained for as many epochs in all as the chosen one, `behind` of them before its full
        training, and a family of stock nets from scratch. `others`: further nets of the front.
        """
        settings, full = self.settings, self.settings.full_train
        equal = settings.final.equal_epochs
        trials: dict[FinalNet, Trial] = {"final": chosen} if equal else {"final": chosen, START: start}
        trials |= {f"{FRONT}{number}": trial for number, trial in enumerate(others, start=1)}
        jobs = {name: self.train_net(one.net, full, (inherited(one),)) for name, one in trials.items()}
        if equal:
            jobs[EQUAL] = self.train_net(start.net, full.lasting(full.epochs + behind), (inherited(start),))
        if settings.final.stock or (settings.structures and settings.structures.stock):
            recipe = settings.fine_tune.lasting(settings.fine_tune.epochs + behind + full.epochs)
            family = stock_family(start.net, settings.detector, settings.space.image_sizes if settings.structures else ())
            jobs |= {f"{STOCK}{name}": self.train_net(net, recipe) for name, net in family.items()}
        return jobs

    def reignite(self, trial: Trial) -> ReigniteJob:
        """Job that trains the backbone of `trial` as a classifier."""
        settings = self.settings
        net = replace(trial.net, stem=settings.reignite.stem or trial.net.stem)
        return ReigniteJob(
            arch=trial.arch,
            detector=net.detector(settings.detector),
            recipe=settings.reignite,
            images=self.images,
            data=self.data,
            weights=(inherited(trial),),
            seed=settings.seed,
            device_target=settings.device_target,
        )

    def evaluate(self, job: TrainJob, artifact: str, split: ScoredSplit) -> EvaluateJob:
        """Job that scores the artifact `artifact` of a train job on a split of the data."""
        data = self.test if split == "test" and self.test else self.data
        weights = Weights(kind="train", digest=artifact, arch=job.arch)
        return EvaluateJob(
            arch=job.arch, detector=job.detector, data=data, split=split, weights=(weights,), device_target=job.device_target
        )

    def after(self, rounds: int, stage: RoundStage = "serial") -> "Plan":
        """Plan of the same run with `rounds` rounds of a stage: the record of that stage is that of this run after so many rounds."""
        part = getattr(self.settings, stage).model_copy(update={"rounds": rounds})
        return replace(self, settings=self.settings.model_copy(update={stage: part}))

    def rounds(self, stage: RoundStage) -> int:
        """Return the number of rounds of a stage; 0 where the run has no such stage."""
        part = getattr(self.settings, stage)
        return part.rounds if part else 0

    def benchmark(self, net: Net) -> BenchmarkJob:
        """Job that measures what inference with a candidate costs on the run's device."""
        device = {"device_target": self.settings.device_target, "threads": self.settings.threads}
        return BenchmarkJob(arch=str(net.arch), detector=net.detector(self.settings.detector), classes=self.classes, **device)

    def measured(self, *benchmarks: Manifest) -> list[dict[str, float]]:
        """Latency, ms, and memory, MB, that benchmarks of nets found.

        A latency is that at the speed which the device had when the start net was measured: shared machines are a third faster at one hour
        than at another, and each host has its own.
        """
        start = self.store.manifest(f"benchmark/{digest(self.benchmark(self.start))}")
        found = [{name: float(one.metrics[name]) for name in MEASURED} for one in benchmarks]
        if isinstance(start, Manifest):
            then = float(start.metrics["reference_ms"])
            for costs, one in zip(found, benchmarks, strict=True):
                costs["latency_ms"] *= then / float(one.metrics.get("reference_ms", then))  # a made-up measurement has none
        return found

    def clock_latencies(self, net: Net) -> dict[str, float]:
        """Latency of a candidate on the other devices that count, ms, by the names of the objectives."""
        detector = net.detector(self.settings.detector)
        return {f"{DEVICE_LATENCY}{name}": net_latency(clock, net.arch, detector, self.classes).ms for name, clock in self.clocks.items()}

    def benchmarks(self, ledger: Sequence[Trial]) -> tuple[str, ...]:
        """Digests of the benchmarks of the trials of `ledger`, where the settings ask for any."""
        nets = [trial.net for trial in ledger] if self.settings.measures else []
        return tuple(dict.fromkeys(digest(self.benchmark(net)) for net in nets))

    def cost_of(self, net: Net) -> Cost:
        """Cost of a candidate's detector, for the classes of the data."""
        return candidate_cost(net.arch, net.detector(self.settings.detector), self.classes)


def inherited(trial: Trial) -> Weights:
    """Weights that the children of `trial` inherit; ValueError for a trial that has none."""
    if trial.weights is None:
        raise ValueError(f"expected a trial with weights, got {trial.failure or 'none'}: train/{trial.digest}")
    return trial.weights


def stage_keys(plan: Plan) -> dict[str, str]:
    """Digest of each stage, from all that determines its record and nothing else."""
    settings = plan.settings
    whole = key_document(settings) | {"detector": settings.detector.former_document()}
    measured: dict[str, Any] = {"device": [whole["device_target"], whole["threads"], _MEASURING]} if settings.measures else {}
    if plan.clocks:
        measured["clocks"] = {name: clock.digest for name, clock in sorted(plan.clocks.items())}
    reignite = {**whole["reignite"], "data": plan.images}
    folds = {"folds": whole["folds"]} if "folds" in whole else {}
    parts: dict[StageName, dict[str, Any]] = {
        "fine_tune": {name: whole[name] for name in ("arch", "seed", "detector", "fine_tune")} | {"checkpoint": plan.checkpoint_sha256},
        "serial": {name: whole[name] for name in ("serial", "space", "budget", "objectives")} | {"reignite": reignite} | measured | folds,
        "reignite": {"reignite": reignite, "parents": settings.parallel.parents}
        | ({} if settings.parallel.candidates else {"parallel": False}),
        "parallel": {name: whole[name] for name in ("parallel", "budget")},
        "full_train": {"full_train": whole["full_train"], "test": plan.test.fingerprint if plan.test else None}
        | ({"final": whole["final"]} if "final" in whole else {}),
    }
    if settings.structures:
        rules = whole["structures"]
        parts["serial"] |= {"chosen": rules.pop("chosen")}
        parts["full_train"] |= {name: rules.pop(name) for name in ("finals", "stock")}
        searched = {name: whole[name] for name in ("structures", "space", "budget", "objectives")} | measured
        parts["structures"] = searched | {"heads": [key_document(head) for head in settings.detector.other_heads]}
    keys: dict[str, str] = {}
    before = canonical_json({"data": plan.data.identity, "device": settings.device_target, "versions": [SEARCH_VERSION, RECIPE_VERSION]})
    for name in settings.stages:
        before = hashlib.sha256(canonical_json({"stage": name, "settings": parts[name], "before": before}).encode()).hexdigest()
        keys[name] = before
    return keys


def short(arch: str, length: int = 28) -> str:
    """Architecture text without a parallel part of zeros, cut to `length` for names."""
    value = parse(arch)
    text = arch if any(value.parallel) or value.inner else f"{value.block_type.text}_{value.serial_text}"
    return text if len(text) <= length else text[: length - 1] + "…"
