"""Jobs: one unit of work on devices, described by one JSON document, named by the digest of everything that determines its result."""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from spnas_core.settings.base import ArchText, Settings, key_document
from spnas_core.settings.detector import Detector
from spnas_core.settings.reading import Reading
from spnas_core.settings.run import DeviceTarget
from spnas_core.settings.supernet import FamilySpace, PathTraining
from spnas_core.settings.training import Recipe, Reignite

FORMER_NAMES = {"stop": "stop_after_epochs", "resume": "resume_from"}  # of fields of a job; digests are made with the former ones
RECIPE_VERSION = 2  # raise it when the meaning of a job changes: old artifacts are then not found any more


class Data(Settings):
    """A data set: where it lies (not part of the digest) and what it holds."""

    url: str
    fingerprint: str
    train: str = "train"
    val: str = "val"
    strict: bool = False
    reading: Reading = Reading()
    fold: tuple[int, PositiveInt] | None = Field(None, description="number, from 0, and count of the folds of train and val together")

    @property
    def identity(self) -> dict[str, Any]:
        """What counts in digests: not where it lies, nor whether faulty boxes are refused, since no result depends on that."""
        whole = self.model_dump(mode="json", exclude={"url", "reading", *(() if self.fold else ("fold",))})
        return whole | {"strict": False} | self.reading.identity


class Weights(Settings):
    """The weights file of an artifact, and the architecture whose names it uses; of a supernet, those of its path `arch`."""

    kind: Literal["train", "reignite", "supernet"]
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    arch: ArchText


class TrainJob(Settings):
    """Train one detector, from given weights (inherited where the architecture differs) or from scratch, and evaluate it."""

    later: ClassVar[frozenset[str]] = frozenset({"leaves_out"})
    kind: Literal["train"] = "train"
    arch: ArchText
    detector: Detector
    recipe: Recipe
    data: Data
    weights: tuple[Weights, ...] = Field(
        (), description="later ones replace what earlier ones gave (a detector, then its reignited backbone)"
    )
    checkpoint: str | None = Field(None, description="URL of a checkpoint file to start from instead")
    checkpoint_sha256: str | None = None
    checkpoint_coverage: float = Field(0.0, description="least share of the net's parameters that the checkpoint must give")
    seed: int = 0
    stop_after_epochs: PositiveInt | None = Field(
        None, description="epochs after which it stops, a rung of successive halving; none: at its end"
    )
    resume_from: str | None = Field(
        None, description="digest of the artifact of an earlier rung to go on from; it saves time and does not change the result"
    )
    leaves_out: bool = Field(False, description="the search takes blocks out too: see `weights.lineage`")
    device_target: DeviceTarget = "CPU"

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, values: Any) -> Any:
        """Read the manifests of earlier versions, which call two fields otherwise."""
        return {FORMER_NAMES.get(name, name): value for name, value in values.items()} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _checkpoint_of_known_content(self) -> "TrainJob":
        if (self.checkpoint is None) != (self.checkpoint_sha256 is None):
            raise ValueError("expected checkpoint and checkpoint_sha256 together, since only the latter is in the digest")
        return self


class ReigniteJob(Settings):
    """Train a backbone as a classifier, starting from the backbone of a detector's weights."""

    kind: Literal["reignite"] = "reignite"
    arch: ArchText
    detector: Detector
    recipe: Reignite
    images: str | None = Field(None, description="fingerprint of the recipe's folder of images, where it names one")
    data: Data
    weights: tuple[Weights, ...] = ()
    seed: int = 0
    device_target: DeviceTarget = "CPU"

    @model_validator(mode="after")
    def _images_of_known_content(self) -> "ReigniteJob":
        if (self.recipe.data is None) != (self.images is None):
            raise ValueError("expected recipe.data and images, its fingerprint, together, since only the latter is in the digest")
        return self


class EvaluateJob(Settings):
    """Score given weights on one split, with pycocotools."""

    kind: Literal["evaluate"] = "evaluate"
    arch: ArchText
    detector: Detector
    data: Data
    split: str
    weights: tuple[Weights, ...]
    device_target: DeviceTarget = "CPU"


class BenchmarkJob(Settings):
    """Measure what inference with one architecture costs on a device; a measurement in the store is taken as it is."""

    kind: Literal["benchmark"] = "benchmark"
    reference: Literal[1] = Field(1, description="version of how it is measured, and beside which net (jobs/benchmark.py)")
    arch: ArchText
    detector: Detector
    classes: PositiveInt
    device_target: DeviceTarget
    threads: PositiveInt


class MeasureJob(Settings):
    """Measure how long steps and evaluation of a training take on a device, and how much memory it needs, by a few of them."""

    kind: Literal["measure"] = "measure"
    arch: ArchText
    detector: Detector
    recipe: Recipe
    data: Data
    device_target: DeviceTarget = "CPU"


class SupernetJob(Settings):
    """Train all nets of the family around `arch` as paths of one net, from the weights of `arch`; `blocks`: fewest and most of a net."""

    kind: Literal["supernet"] = "supernet"
    arch: ArchText
    detector: Detector
    family: FamilySpace
    blocks: tuple[PositiveInt, PositiveInt]
    recipe: Recipe
    paths: PathTraining
    data: Data
    weights: tuple[Weights, ...]
    seed: int = 0
    device_target: DeviceTarget = "CPU"


class PathsJob(Settings):
    """Score paths of a trained supernet, each after its norms got their statistics from `calibration` batches of `recipe`."""

    kind: Literal["paths"] = "paths"
    arch: ArchText
    detector: Detector
    family: FamilySpace
    blocks: tuple[PositiveInt, PositiveInt]
    recipe: Recipe
    calibration: PositiveInt
    members: tuple[ArchText, ...]
    data: Data
    weights: tuple[Weights, ...] = Field(description="the supernet's; the architecture is `arch`")
    seed: int = 0
    device_target: DeviceTarget = "CPU"


AnyJob = TrainJob | ReigniteJob | EvaluateJob | BenchmarkJob | MeasureJob | SupernetJob | PathsJob
Job = Annotated[AnyJob, Field(discriminator="kind")]


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(job: AnyJob) -> str:
    """Sha256 (hex) of the job and the recipe version, without what cannot change the result: where things lie, what is refused.

    The kind of device is in it, since each has its own arithmetic; versions of libraries are not, and are in the artifact's manifest.
    """
    document = key_document(job) | {"detector": job.detector.former_document()}
    if not isinstance(job, BenchmarkJob):
        document["data"] = job.data.identity
    for name in ("checkpoint", "checkpoint_coverage", "resume_from"):
        document.pop(name, None)
    document |= {former: document.pop(name) for former, name in FORMER_NAMES.items() if name in document}
    if "recipe" in document:
        document["recipe"].pop("data", None)
    return hashlib.sha256(canonical_json({"job": document, "version": RECIPE_VERSION}).encode()).hexdigest()
