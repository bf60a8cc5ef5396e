"""Settings of a run as a whole: resolved once at the door and passed by hand."""

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator, model_validator

from spnas_core.necks import CellNeck, Neck, parse_neck
from spnas_core.settings.base import ArchText, Settings, Url
from spnas_core.settings.detector import Detector, current_form
from spnas_core.settings.reading import Reading
from spnas_core.settings.run_checks import mistakes_between
from spnas_core.settings.search import (
    DEVICE_LATENCY,
    GENES,
    MEASURED,
    OBJECTIVES,
    SCORES,
    Budget,
    Final,
    Objectives,
    Parallel,
    Serial,
    Space,
    counted,
)
from spnas_core.settings.structures import Structures
from spnas_core.settings.task import SEGMENTATION, TASKS, Task, TaskName
from spnas_core.settings.training import Recipe, Reignite

DeviceTarget = Literal["CPU", "Ascend", "GPU"]
StageName = Literal["fine_tune", "structures", "serial", "reignite", "parallel", "full_train"]
TimedKind = Literal["train", "reignite", "evaluate", "benchmark", "supernet", "paths"]  # of jobs
STAGE_NAMES: tuple[StageName, ...] = ("fine_tune", "serial", "reignite", "parallel", "full_train")


class Retries(Settings):
    """Failures, of whatever kind, that a job may have and still be started again after one of this kind, from its last checkpoint."""

    killed: int = Field(2, ge=0, le=10, description="by a signal from outside, as the system sends them when memory is short")
    crashed: int = Field(1, ge=0, le=10, description="it died of a fault of its own, such as SIGSEGV in a library, or lost its device")
    timeout: int = Field(0, ge=0, le=10, description="it took longer than timeout_minutes")
    out_of_memory: int = Field(0, ge=0, le=10, description="it needed more than memory_gb, or than the device has")
    diverged: int = Field(0, ge=0, le=10, description="a loss or a weight was not finite; the same happens again")
    store: int = Field(2, ge=0, le=10, description="the store or the network did not answer, for longer than one waits for them")


class Run(Settings):
    """Everything that a run is, but where its data and its store are."""

    later: ClassVar[frozenset[str]] = frozenset({"task", "folds", "final", "structures"})
    task: TaskName = Field(
        "detection", description="find objects, or give every pixel a class; segmentation needs detector.head.kind semantic_fpn"
    )
    name: str = Field("run", pattern=r"^[a-z0-9][a-z0-9_-]*$", description="folder below `runs/` of the store")
    arch: ArchText = Field("r_111-2111-211111-211_0-0-0-0", description="architecture of the start net")
    checkpoint: Url | None = Field(None, description="weights to start from: URL of a .pth or .safetensors file, torchvision's or spnas'")
    checkpoint_coverage: float = Field(
        0.3, ge=0, le=1, description="least share of the start net's parameters that it must give; a ResNet-18 classifier gives 0.39"
    )
    seed: int = Field(0, ge=0, description="of proposals, new weights and the order of images")
    executor: Literal["local", "work_pool"] = Field(
        "local", description="where jobs run: on devices of this host, or of the hosts whose workers serve the work pool spnas-devices"
    )
    devices: tuple[int, ...] = Field((0,), min_length=1, description="devices of this host, one job at a time on each, or each group")
    devices_per_job: PositiveInt = Field(1, description="devices that train one net together, each on its share of every batch")
    threads: PositiveInt = Field(2, description="CPU threads, shared by the jobs that run at once")
    device_target: DeviceTarget = Field("CPU", description="what the devices are")
    timeout_minutes: PositiveFloat | dict[Literal["train", "reignite", "evaluate", "benchmark", "supernet", "paths"], PositiveFloat] = (
        Field(
            600.0, description="longest time of one job, or that by its kind, such as {train: 300, evaluate: 20}; 600 for a kind left out"
        )
    )
    memory_gb: PositiveFloat | None = Field(None, description="most memory of the host that one job may have, GB; null = no limit")
    retries: Retries = Field(Retries(), description="how often a job that failed is started again")
    checkpoint_seconds: PositiveFloat = Field(60.0, description="time between two checkpoints of a training")
    fingerprint: Literal["cheap", "full"] = Field(
        "cheap",
        description="what tells data sets apart: annotations and the names and sizes of images, or their contents too",
    )
    lease_seconds: PositiveFloat = Field(60.0, description="a job whose host has not been heard of for so long goes on elsewhere")
    refresh: tuple[StageName, ...] = Field((), description="stages to compute anew although the store has them, one or a list")
    data: Reading = Field(Reading(), description="how the data set is read")
    strict: bool = Field(False, description="refuse a data set with faulty boxes instead of leaving them out")
    folds: int = Field(
        1,
        ge=1,
        le=10,
        description="for a small data set: folds of train and val together, on each of which every net is trained too, and ranked by its "
        "mean score on the images held back; 1: val alone",
    )
    objectives: Objectives = Field(
        OBJECTIVES,
        description="what trials are ranked by: a score first, which alone decides the winner; latency_ms@NAME is that on another device",
    )
    tracker: dict[str, Url] = Field({}, description="servers that show the search while it runs, such as {mlflow: http://127.0.0.1:5000}")
    detector: Detector = Field(Detector(), description="all of the detector but its backbone")
    space: Space = Field(Space(), description="limits of the search space")
    budget: Budget = Field(Budget(), description="limits of a candidate's cost")
    fine_tune: Recipe = Field(Recipe(), description="training of the start net")
    structures: Structures | None = Field(
        None, description="a structural search before the serial one, which then goes on from several of its nets; null: none"
    )
    serial: Serial = Field(Serial(), description="the serial search")
    reignite: Reignite = Field(Reignite(), description="training of the backbone as a classifier")
    parallel: Parallel = Field(Parallel(), description="the parallel search")
    full_train: Recipe = Field(Recipe(), description="training of the final net, and of the start net to compare with")
    final: Final = Field(Final(), description="which net is the final one, and what it is compared with")

    @model_validator(mode="before")
    @classmethod
    def _of_task(cls, values: Any) -> Any:
        """Give a run of segmentation its own head and objectives where it names none."""
        if not isinstance(values, dict) or values.get("task") != "segmentation":
            return values
        found = {"objectives": counted(SEGMENTATION), **values}
        detector = found.get("detector", {})
        if isinstance(detector, dict):
            detector = current_form({"head": {}, **detector}, "segmentation")
        return {**found, "detector": detector}

    @model_validator(mode="after")
    def _check_search(self) -> "Run":
        if self.final.choose == "cheapest" and (len(self.objectives) < 2 or self.objectives[1] in SCORES):
            raise ValueError(f"expected a cost as second objective with final.choose cheapest, got objectives {list(self.objectives)}")
        for stage in ("serial", *(("structures",) if self.structures else ())):
            mutation = getattr(self, stage).mutation
            for gene, choices in GENES.items():
                if getattr(mutation, gene) and not getattr(self.space, choices):
                    raise ValueError(f"expected space.{choices} with {stage}.mutation.{gene}, got none")
            if mutation.head and not self.detector.other_heads:
                raise ValueError(f"expected detector.other_heads with {stage}.mutation.head, got none")
        beside = (self.serial.control, self.parallel.control, self.serial.race, self.parallel.race, self.serial.evaluator == "supernet")
        if self.detector.task.name != self.task:
            raise ValueError(f"expected a detector.head.kind of the task {self.task}, got {self.detector.head.kind}")
        if self.task == "segmentation" and (self.serial.evaluator == "supernet" or self.data.crowds == "learn"):
            raise ValueError("expected neither serial.evaluator supernet nor data.crowds learn with the task segmentation")
        if self.task == "segmentation" and any(one.inherited_batches for one in self.recipes):
            raise ValueError("expected inherited_batches 0 with the task segmentation")
        if self.folds > 1 and any(beside):
            raise ValueError("expected neither control nor race nor a supernet with folds, which rank nets by other trainings")
        if "neck" in self.serial.search and not isinstance(self.detector.neck, CellNeck):
            raise ValueError(f"expected detector.neck.kind nas_fpn or nas_fcos with neck in serial.search, got {self.detector.neck.kind}")
        if self.final.stock and self.checkpoint:
            raise ValueError("expected no checkpoint with final.stock, whose nets are trained from scratch")
        return self

    def timeout(self, kind: str) -> float:
        """Longest time of a job of that kind, seconds."""
        minutes = self.timeout_minutes
        return 60 * (minutes.get(kind, 600.0) if isinstance(minutes, dict) else minutes)  # type: ignore[call-overload]

    @field_validator("refresh", mode="before")
    @classmethod
    def _one_or_several(cls, stages: Any) -> Any:
        return (stages,) if isinstance(stages, str) else stages

    @field_validator("objectives")
    @classmethod
    def _score_first(cls, objectives: Objectives, info: ValidationInfo) -> Objectives:
        scores = TASKS[info.data.get("task", "detection")].scores
        foreign = [name for name in objectives if name in SCORES and name not in scores]
        if not objectives or objectives[0] not in scores or len(set(objectives)) < len(objectives) or foreign:
            raise ValueError(f"expected {' or '.join(scores)} first, and none twice, got {list(objectives)}")
        return objectives

    @property
    def work(self) -> Task:
        """What the nets are for."""
        return TASKS[self.task]

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Recipes of all trainings of nets."""
        return self.fine_tune, self.serial.recipe, self.parallel.recipe, self.full_train

    @property
    def stages(self) -> tuple[StageName, ...]:
        """Names of its stages, in their order."""
        first, *rest = STAGE_NAMES
        return (first, "structures", *rest) if self.structures else STAGE_NAMES

    @property
    def device_groups(self) -> tuple[tuple[int, ...], ...]:
        """The devices in groups of `devices_per_job`, in their order."""
        count = self.devices_per_job
        return tuple(self.devices[first : first + count] for first in range(0, len(self.devices), count))

    @model_validator(mode="after")
    def _all_at_once(self) -> "Run":
        mistakes = mistakes_between(self)
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    @property
    def measures(self) -> bool:
        """Whether candidates must be measured on the device."""
        limits = (limit for name in MEASURED for limit in getattr(self.budget, name))
        return any(name in self.objectives for name in MEASURED) or any(limit is not None for limit in limits)

    @property
    def clocks(self) -> tuple[str, ...]:
        """Names of the other devices whose latency counts."""
        named = [name.removeprefix(DEVICE_LATENCY) for name in self.objectives if name.startswith(DEVICE_LATENCY)]
        return tuple(dict.fromkeys((*named, *self.budget.device_ms)))

    @property
    def necks(self) -> tuple[Neck, ...]:
        """All necks that a candidate may have, but for their channels."""
        return (self.detector.neck, *map(parse_neck, self.space.necks))
