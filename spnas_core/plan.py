"""What one run will do: its settings, its data, and the jobs and stages that follow from them; the keys of all stages are known at once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from spnas_core.arch import Arch, parse
from spnas_core.config import STAGE_NAMES, Run, StageName
from spnas_core.cost import Cost
from spnas_core.data import coco, crops
from spnas_core.data.demo import make_demo
from spnas_core.data.files import cache_folder, join, list_folder, open_url
from spnas_core.errors import UserError
from spnas_core.job import RECIPE_VERSION, BenchmarkJob, Data, EvaluateJob, ReigniteJob, TrainJob, Weights, canonical_json, digest
from spnas_core.ledger import Trial
from spnas_core.search import candidate_cost
from spnas_core.settings import Detector, Recipe
from spnas_core.store.artifacts import Store
from spnas_core.store.storage import sha256_file
from spnas_core.weights.checkpoint import open_checkpoint

SEARCH_VERSION = 2  # raise it when a stage comes to do something else with the same settings
Split = Literal["val", "test"]


@dataclass(frozen=True)
class Plan:
    """A run with its data opened; `test` is the data of the test split, `images` the fingerprint of the reignition's own images, if any."""

    settings: Run
    store: Store
    data: Data
    classes: int
    test: Data | None = None
    checkpoint_sha256: str | None = None
    images: str | None = None
    keys: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Derive the keys of the stages, each from its settings and the key of the stage before."""
        object.__setattr__(self, "keys", stage_keys(self))

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

    def reignite(self, trial: Trial) -> ReigniteJob:
        """Job that trains the backbone of `trial` as a classifier."""
        settings = self.settings
        return ReigniteJob(
            arch=trial.arch,
            detector=replace(trial, stem=settings.reignite.stem or trial.stem).detector(settings.detector),
            recipe=settings.reignite,
            images=self.images,
            data=self.data,
            weights=(trained(trial),),
            seed=settings.seed,
            device_target=settings.device_target,
        )

    def evaluate(self, job: TrainJob, artifact: str, split: Split) -> EvaluateJob:
        """Job that scores what the train job left, the artifact of digest `artifact`, on a split of the data."""
        data = self.test if split == "test" and self.test else self.data
        weights = Weights(kind="train", digest=artifact, arch=job.arch)
        return EvaluateJob(
            arch=job.arch, detector=job.detector, data=data, split=split, weights=(weights,), device_target=job.device_target
        )

    def after(self, rounds: int) -> "Plan":
        """Plan of this run with so many serial rounds; what its serial stage leaves is what this one's has found by then."""
        serial = self.settings.serial.model_copy(update={"rounds": rounds})
        return replace(self, settings=self.settings.model_copy(update={"serial": serial}))

    def benchmark(self, arch: str, detector: Detector) -> BenchmarkJob:
        """Job that measures what inference with `arch` in `detector` costs on the run's device."""
        device = {"device_target": self.settings.device_target, "threads": self.settings.threads}
        return BenchmarkJob(arch=arch, detector=detector, classes=self.classes, **device)

    def benchmarks(self, ledger: Sequence[Trial]) -> tuple[str, ...]:
        """Digests of the benchmarks that the trials of `ledger` needed."""
        nets = [(trial.arch, trial.detector(self.settings.detector)) for trial in ledger] if self.settings.measures else []
        return tuple(dict.fromkeys(digest(self.benchmark(*net)) for net in nets))

    def cost_of(self, arch: Arch, detector: Detector) -> Cost:
        """Cost of the detector with this backbone, for the classes of the data."""
        return candidate_cost(arch, detector, self.classes)


def trained(trial: Trial) -> Weights:
    """Weights that the training of `trial` left."""
    return Weights(kind="train", digest=trial.digest, arch=trial.arch)


def open_plan(settings: Run, data_url: str, store_url: str) -> Plan:
    """Check the store, open the data (`demo` is made here) and read its fingerprint; UserError for whatever is wrong with either."""
    store = Store(store_url)
    store.writable()
    if data_url == "demo":
        data_url = str(make_demo(cache_folder() / "demo"))
    elif "://" not in data_url:
        data_url = str(Path(data_url).expanduser().absolute())
    splits = {name: coco.open_split(data_url, name, settings.strict) for name in ("train", "val")}
    names = splits["train"].class_names
    if splits["val"].class_names != names:
        raise UserError(f"{data_url}: expected the same categories in train and val, got {names} and {splits['val'].class_names}")
    full, threads = settings.fingerprint == "full", settings.threads
    data = Data(url=data_url, fingerprint=coco.fingerprint(list(splits.values()), full, threads), strict=settings.strict)
    test = None
    if has_test(data_url):
        scored = coco.open_split(data_url, "test")
        test = data.model_copy(update={"fingerprint": coco.fingerprint([scored], full, threads)})
    sha256 = sha256_file(open_checkpoint(settings.checkpoint)) if settings.checkpoint else None
    images = crops.fingerprint(settings.reignite.data, full) if settings.reignite.data else None
    plan = Plan(settings, store, data, len(names), test, sha256, images)
    if store.find("stage", plan.keys["fine_tune"]) is None:
        for split in splits.values():
            coco.verify_images(split, settings.threads)
    return plan


def stage_keys(plan: Plan) -> dict[str, str]:
    """Digest of each stage: of all that determines what it leaves, and of nothing else."""
    settings = plan.settings
    whole = settings.model_dump(mode="json")
    data = plan.data.model_dump(mode="json", exclude={"url"})
    device = {"device": [whole["device_target"], whole["threads"]]} if settings.measures else {}
    reignite = {**whole["reignite"], "data": plan.images}
    parts: dict[StageName, dict[str, Any]] = {
        "fine_tune": {name: whole[name] for name in ("arch", "seed", "detector", "fine_tune")} | {"checkpoint": plan.checkpoint_sha256},
        "serial": {name: whole[name] for name in ("serial", "space", "budget", "objectives")} | {"reignite": reignite} | device,
        "reignite": {"reignite": reignite, "parents": settings.parallel.parents},
        "parallel": {name: whole[name] for name in ("parallel", "budget")},
        "full_train": {"full_train": whole["full_train"], "test": plan.test.fingerprint if plan.test else None},
    }
    keys: dict[str, str] = {}
    before = canonical_json({"data": data, "device": settings.device_target, "versions": [SEARCH_VERSION, RECIPE_VERSION]})
    for name in STAGE_NAMES:
        before = hashlib.sha256(canonical_json({"stage": name, "settings": parts[name], "before": before}).encode()).hexdigest()
        keys[name] = before
    return keys


def short(arch: str, length: int = 28) -> str:
    """Architecture text without a parallel part of zeros, cut to `length` for names."""
    value = parse(arch)
    text = arch if any(value.parallel) else f"{value.block_type.text}_{value.serial_text}"
    return text if len(text) <= length else text[: length - 1] + "…"


def has_test(data_url: str) -> bool:
    """Whether a data set has a test split."""
    system, root = open_url(data_url)
    return "instances_test.json" in list_folder(system, join(root, "annotations"))
