"""A finished run, made without training: its data, its store with all that its trainings would have left, and its last stage."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from data_sets import document, make

from spnas_core import job as jobs
from spnas_core.data.samples import Split
from spnas_core.data.splits import open_split
from spnas_core.job import TrainJob, Weights
from spnas_core.metrics import score_detections
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan, inherited
from spnas_core.run.record import Result, StageRecord, publish_stage
from spnas_core.search.ledger import Trial
from spnas_core.search.net import net_of
from spnas_core.settings.run import Run

START, WIDER, CHILD, COPIES = "b_11-21-21-21", "b_111-21-21-21", "b_111-2-121-211", "b_111-21-21-21_0-1-0-2"
HOSTILE = "<script>alert('x')</script>\"><b onclick=alert(1)>&amp;{{ 7 * 7 }}"
TIMES = {"seconds": 9.0, "timing": {"compile": 2.0, "data": 1.0, "steps": 3.0, "evaluation": 2.0}}
LOG = "epoch 1\n<img src=x onerror=alert(2)>\nRuntimeError: loss & more"


class Page(HTMLParser):
    """What an HTML page has: its tags with their attributes, its text, and of each row of a trial the exact values by name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.trials: list[dict[str, str]] = []
        self._row: dict[str, str] | None = None
        self._cell = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "tr":
            self._row = {"digest": found["data-digest"]} if "data-digest" in found else None
            self.trials += [self._row] if self._row else []
        if tag == "td":
            self._cell = found.get("data-name", "")
        if tag == "data" and self._row and self._cell:
            self._row[self._cell] = found["value"]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [found[attribute] or "" for _, found in self.tags if attribute in found]


def make_data(folder: Path, name: str = "a", file_name: str = "{}.jpg") -> Path:
    """Twelve images to validate, four to train on; one of three classes is called `name`."""
    for split, count in (("train", 4), ("val", 12)):
        content = document(count, 3)
        for category in content["categories"]:
            category["name"] = name if category["name"] == "a" else category["name"]
        for number, image in enumerate(content["images"]):
            image["file_name"] = file_name.format(f"{split}{number}")
        make(str(folder), content, split)
    return folder


def guesses(val: Split, seed: int) -> list[dict[str, Any]]:
    """COCO results that find most of the truth: some boxes are off, of another class, doubled, missing or made up."""
    rng = np.random.default_rng(seed)
    kinds = [number for number, _ in val.categories]
    found = []
    for mark in val.annotations["annotations"]:
        draw, (x, y, w, h) = rng.random(), mark["bbox"]
        kind = int(rng.choice(kinds)) if draw < 0.2 else mark["category_id"]
        shift = 25.0 if 0.2 < draw < 0.3 else float(rng.normal(0, 1))
        one = {"image_id": mark["image_id"], "category_id": kind, "bbox": [x + shift, y, w, h], "score": float(rng.uniform(0.3, 1))}
        found += [one] * (0 if draw > 0.9 else 1)
    return found


class Maker:
    """Publishes trainings of a plan that were never run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.val = open_split(plan.data.url, "val")

    def scores(self, arch: str, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        cost = self.plan.cost_of(net_of(arch, self.plan.settings.detector))
        detections = guesses(self.val, seed)
        return detections, score_detections(self.val.annotations, detections).document() | {"params": cost.params, "macs": cost.macs}

    def train(self, job: TrainJob, seed: int, folder: Path) -> tuple[str, dict[str, Any]]:
        """Publish what `job` would leave; returns its digest and its metrics."""
        detections, metrics = self.scores(job.arch, seed)
        counts = {"copied_params": 900, "new_params": 100, "dropped_params": 0, "share": 0.9}
        files = {
            "history": [
                {"epoch": n, "loss": 2.0 / n, "losses": [1.0 / n, 0.5 / n, 0.3 / n, 0.2 / n], "seconds": 3.0 * n} for n in (1, 2, 3)
            ],
            "audit": {"copied": ["a", "b"], "new": ["c"], "dropped": [], "zero": [], **counts},
            "detections": detections,
            "model": {"arch": job.arch, "classes": []},
        }
        folder.mkdir()
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        (folder / "weights.safetensors").write_bytes(str(seed).encode())
        self.plan.store.publish(job, folder, {**metrics, **TIMES, "epochs": 3, "inherited": 0.9}, 11.5)
        return jobs.digest(job), metrics


def make_run(folder: Path, data: Path, settings: Run | None = None) -> tuple[Plan, StageRecord]:
    """Fill a store: a start net, two serial rounds with a failure and one that stopped early, a parallel net, and two full trainings."""
    plan = open_plan(settings or Run(name="mine"), str(data), str(folder / "store"))
    maker, ledger = Maker(plan), list[Trial]()
    recipe = plan.settings.serial.recipe

    def enter(arch: str, stage: Any, number: int, index: int, parent: Trial | None, **ended: Any) -> Trial:
        job = plan.train(arch, plan.settings.detector, recipe, (inherited(parent),) if parent else ())
        metrics, digest = None, jobs.digest(job)
        if "failure" not in ended:
            digest, metrics = maker.train(job, len(ledger), folder / f"job{len(ledger)}")
            metrics |= {"inherited": 0.9, "epochs": 3}
        more = {} if metrics is None else {"weights": Weights(kind="train", digest=digest, arch=job.arch), "score": metrics["AP"]}
        net = net_of(job.arch, job.detector)
        ledger.append(Trial(net, stage, number, index, parent.digest if parent else None, digest, metrics, **more, **ended))
        return ledger[-1]

    start = enter(START, "fine_tune", 0, 0, None)
    wider = enter(WIDER, "serial", 1, 0, start)
    lost = enter("b_11-211-21-21", "serial", 1, 1, start, failure="diverged")
    plan.store.write(f"logs/train/{lost.digest}.txt", LOG.encode())
    enter(CHILD, "serial", 2, 0, wider, rung=1)
    enter(COPIES, "parallel", 1, 0, wider)
    results = {}
    for seed, (name, trial) in enumerate((("start", start), ("final", ledger[-1])), start=20):
        job = plan.train(trial.arch, plan.settings.detector, plan.settings.full_train, (inherited(trial),))
        digest, metrics = maker.train(job, seed, folder / name)
        results[name] = Result(arch=job.arch, digest=digest, scores={"val": metrics})
        if name == "final":
            (folder / "scored").mkdir()
            plan.store.publish(plan.evaluate(job, digest, "val"), folder / "scored", metrics, 2.5)
    reignited = {wider.digest: Weights(kind="reignite", digest="e" * 64, arch=wider.arch)}
    stage = StageRecord(name="fine_tune", key=plan.keys["fine_tune"], ledger=(start,))
    publish_stage(plan, stage, 12.0)
    more = {"results": results, "notes": ("Mind <i>this</i>.",), "reignited": reignited, "top1": {wider.digest: 0.875}}
    final = StageRecord(name="full_train", key=plan.keys["full_train"], ledger=tuple(ledger), **more)
    publish_stage(plan, final, 30.0)
    return plan, final
