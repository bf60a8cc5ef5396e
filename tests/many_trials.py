"""A run of as many trials as wanted, made without training: its data, and its store with all that its jobs would have left."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data_sets import make

from spnas_core.errors import JobError
from spnas_core.job import BenchmarkJob, Job, ReigniteJob, TrainJob, digest
from spnas_core.metrics import STATS
from spnas_core.run.crew import Ended, Work
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan, RoundStage
from spnas_core.run.record import StageRecord, publish_stage
from spnas_core.run.register import announce_run
from spnas_core.run.stages import STAGES
from spnas_core.search.net import net_of
from spnas_core.settings.run import Run
from spnas_core.weights.net_shapes import net_shapes

CANDIDATES, CLASSES, IMAGES, EPOCHS = 4, 20, 40, 5
LOG = "epoch 1\nRuntimeError: the loss is not finite"


class RunStoppedError(Exception):
    """The run was stopped."""


def settings_of(trials: int, name: str = "many", **more: Any) -> Run:
    """Settings of a run whose ledger has `trials` trials at its end: the start net, rounds of four, at least four parallel nets."""
    rounds, parallel = divmod(trials - 1 - CANDIDATES, CANDIDATES)
    serial = {"rounds": rounds, "candidates": CANDIDATES, "recipe": {"epochs": EPOCHS}}
    parts = {"serial": serial, "parallel": {"candidates": CANDIDATES + parallel, "recipe": {"epochs": EPOCHS}}}
    return Run.model_validate({"name": name, **parts, **more})


def make_data(folder: Path) -> Path:
    """Write small pictures with five objects each, of twenty classes."""
    kinds = [{"id": n + 1, "name": f"class {n + 1}"} for n in range(CLASSES)]
    for split, count in (("train", 8), ("val", IMAGES)):
        images = [{"id": n + 1, "file_name": f"{split}{n}.jpg", "width": 64, "height": 48} for n in range(count)]
        boxes = [(n, k) for n in range(count) for k in range(5)]
        same = {"area": 600.0, "iscrowd": 0}
        marks = [
            {"id": at + 1, "image_id": n + 1, "category_id": (n + k) % CLASSES + 1, "bbox": [5.0 * k, 4.0, 20.0, 30.0], **same}
            for at, (n, k) in enumerate(boxes)
        ]  # fmt: skip
        make(str(folder), {"images": images, "annotations": marks, "categories": kinds}, split)
    return folder


class StoringCrew:
    """A crew whose jobs leave made-up results in the store of the plan: one in fifty diverges, and larger nets score better.

    After `most` trainings the run is stopped. `level`: AP of a net as large as the start net; `failing`: share that diverges.
    """

    def __init__(self, plan: Plan, most: int | None = None, level: float = 0.3, failing: float = 0.02) -> None:
        self.plan, self.left, self.level, self.failing = plan, most, level, failing
        self.start = plan.cost_of(net_of(plan.settings.arch, plan.settings.detector))

    def do(self, work: Sequence[Work]) -> list[Ended]:
        return [self._leave(job, may_fail=not label.ends_run and label.stage != "full_train") for label, job in work]

    def newest_round(self, plan: Plan, start: StageRecord, stage: RoundStage = "serial") -> tuple[int, StageRecord]:
        return 0, start

    def leave(self, plan: Plan, record: StageRecord, seconds: float) -> None:
        publish_stage(plan, record, seconds)

    def tell(self, line: Callable[[], str]) -> None:
        pass

    def _leave(self, job: Job, may_fail: bool) -> Ended:
        key = digest(job)
        rng = np.random.default_rng(int(key[:8], 16))
        if isinstance(job, TrainJob) and self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise RunStoppedError
        if may_fail and rng.random() < self.failing:
            self.plan.store.write(f"logs/train/{key}.txt", LOG.encode())
            return self._told(job, key, JobError("diverged", "the loss is not finite"))
        with tempfile.TemporaryDirectory() as folder:
            found = self.plan.store.publish(job, Path(folder), self._results(job, rng, Path(folder)), 620.0)
        return self._told(job, key, found)

    def _told(self, job: Job, key: str, ended: Ended) -> Ended:
        failed = {"event": "failed", "reason": "diverged", "message": "diverged: the loss is not finite"}
        state = failed if isinstance(ended, JobError) else {"event": "done", "seconds": 620.0}
        self.plan.store.write(f"logs/{job.kind}/{key}.json", json.dumps({"arch": job.arch, "attempt": 1, "at": 1.0, **state}).encode())
        return ended

    def _results(self, job: Job, rng: np.random.Generator, folder: Path) -> dict[str, Any]:
        """Write the files of a job, and return its metrics."""
        if isinstance(job, ReigniteJob):
            return {"top1": 0.5, "epochs": job.recipe.epochs, "seconds": 300.0}
        cost = self.plan.cost_of(net_of(job.arch, job.detector, self.plan.settings.detector))
        if isinstance(job, BenchmarkJob):
            return {"latency_ms": cost.macs / 1e8 * rng.uniform(0.9, 1.1), "reference_ms": rng.uniform(9, 12), "memory_mb": 500.0}
        score = float(np.clip(self.level + 0.03 * np.log2(cost.macs / self.start.macs) + rng.normal(0, 0.02), 0.001, 0.99))
        scores = {name: min(1.0, (1.3 if name == "AP50" else 1.0) * score) for name in STATS}
        kinds = {f"class {n + 1}": {"AP": score * rng.uniform(0.5, 1), "AP50": score * rng.uniform(1, 1.4)} for n in range(CLASSES)}
        metrics: dict[str, Any] = {**scores, "per_class": kinds, "params": cost.params, "macs": cost.macs}
        if not isinstance(job, TrainJob):
            return metrics
        files = {
            "history": [
                {"epoch": n, "loss": 2 / n + rng.random() / 9, "losses": [1 / n] * 4, "seconds": 120.0 * n} for n in range(1, EPOCHS + 1)
            ],
            "audit": self._audit(job),
            "detections": detections(rng),
            "model": {"arch": job.arch, "classes": [{"id": n + 1, "name": f"class {n + 1}"} for n in range(CLASSES)]},
        }
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        (folder / "weights.safetensors").write_bytes(rng.bytes(1000))
        spent = {"compile": 20.0, "data": 10.0, "steps": 500.0, "evaluation": 80.0}
        opinions = {"block_gammas": rng.uniform(0, 1, len(net_of(job.arch, job.detector).arch.digits)).round(6).tolist()}
        return {**metrics, **opinions, "seconds": 620.0, "timing": spent, "epochs": EPOCHS, "inherited": 0.9}

    def _audit(self, job: TrainJob) -> dict[str, Any]:
        net = net_of(job.arch, job.detector)
        names = sorted(net_shapes(net.arch, job.detector, CLASSES))
        new = names[:12] if job.weights else names
        counts = {"copied_params": 40_000_000, "new_params": 100_000, "dropped_params": 0, "share": 0.997}
        return {"copied": names[len(new) :], "new": new, "dropped": [], "zero": names[:3], **counts}


def detections(rng: np.random.Generator, each: int = 20) -> list[dict[str, Any]]:
    """COCO results, some on an object and some beside; `each` per image, falling in score."""
    boxes = np.round(rng.uniform((0, 0, 8, 8), (30, 20, 30, 28), (IMAGES, each, 4)), 2).tolist()
    scores = np.sort(rng.uniform(0.05, 1, (IMAGES, each)))[:, ::-1].round(5).tolist()
    kinds = rng.integers(1, CLASSES + 1, (IMAGES, each)).tolist()
    return [
        {"image_id": n + 1, "category_id": kinds[n][k], "bbox": boxes[n][k], "score": scores[n][k]}
        for n in range(IMAGES)
        for k in range(each)
    ]


def make_many(folder: Path, data: Path, settings: Run, most: int | None = None, level: float = 0.3, failing: float = 0.02) -> Plan:
    """Fill the store `folder` as a run does that ends, or that is stopped after `most` trainings; returns its plan."""
    plan = open_plan(settings, str(data), str(folder))
    announce_run(plan)
    crew, record = StoringCrew(plan, most, level, failing), None
    try:
        for name in settings.stages:
            record = STAGES[name](plan, crew, record)
            if name not in ("structures", "serial"):  # their last rounds have left them
                publish_stage(plan, record, 1.0)
    except RunStoppedError:
        pass
    return plan
