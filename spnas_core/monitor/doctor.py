"""Causes of an AP near 0, each recognised by its traces in a data set, in losses or in detections.

A data set is judged by the findings of `spnas check` that spoil most of a split, else by its first error. A training is judged by its
start, its losses and its detections on the val split; a training that scores well has no cause.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools import mask

from spnas_core.check.dataset import CheckReport
from spnas_core.data.finding_kinds import FINDING_KINDS as FINDINGS
from spnas_core.data.findings import Finding
from spnas_core.errors import JobError
from spnas_core.job import TrainJob, digest
from spnas_core.names import AUDIT_FILE, DETECTIONS_FILE, HISTORY_FILE, MODEL_FILE
from spnas_core.run.replay import Step
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest
from spnas_core.weights.tensor_names import BACKBONE, STATISTICS

CauseName = Literal[
    "class mapping", "boxes format", "anchors", "learning rate", "frozen norms", "empty targets", "wrong split", "broken data"
]
_MOST = 0.5  # share of a split that must be spoilt
WELL = 0.2  # AP50 from which on nothing ails a net; one whose categories are mixed up may come to 0.15
FELL, ROSE = 0.97, 1.2  # of the first epoch's loss: what the last one is above where nothing is learnt, and where it runs away
LEARNT = 0.6  # of the first epoch's loss: what the last one is below where the train split is learnt
MATCH, FEW = 0.5, 5  # IoU of a detection and a box that belong together; pairs of a category that say something
FOUND, LOST = 0.3, 0.15  # shares of the boxes that a net finds, whatever it calls them: it does; it only hits some by chance
_CAUSES: dict[str, CauseName] = {
    "different-categories": "class mapping",
    "foreign-categories": "class mapping",
    "undefined-category": "class mapping",
    "xyxy": "boxes format",
    "normalised": "boxes format",
    "unreached": "anchors",
    "no-point": "anchors",
    "no-images": "empty targets",
    "no-boxes": "empty targets",
    "all-crowds": "empty targets",
    "zero-area": "empty targets",
    "outside": "wrong split",
    "missing-image": "wrong split",
    "wrong-size": "wrong split",
    "missing-split": "wrong split",
    "dangling-image": "wrong split",
    "drawn-unrotated": "boxes format",
    "unreadable": "broken data",
    "malformed": "broken data",
    "broken-image": "broken data",
}
WHOLE = (
    "different-categories",
    "foreign-categories",
    "no-images",
    "no-boxes",
    "all-crowds",
    "missing-split",
    "unreadable",
)  # one is enough
OF_IMAGES = ("missing-image", "wrong-size", "drawn-unrotated", "broken-image")
ADVICE = {
    "unreached": "take the anchors that spnas check --preset proposes, or a larger detector.image_size",
    "no-point": "take a larger detector.image_size",
}


@dataclass(frozen=True)
class Cause:
    """One cause: its name, its place, the observation there, and the advice."""

    name: CauseName
    where: str
    seen: str
    advice: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        return " ".join(f"{self.name}: {self.where}: {self.seen}: {self.advice}".split())


def causes_in_data(report: CheckReport) -> list[Cause]:
    """Causes in a checked data set: findings that spoil most of a split."""
    facts = {one.split: report.facts(one) for one in report.splits}
    return [_cause(one) for one in report.findings if one.kind in _CAUSES and _spoils(one, facts.get(one.where, {}))]


def first_error(report: CheckReport) -> list[Cause]:
    """Return the first error of a data set as a cause, if there is one: it spoils less than most of a split, but may stop a training."""
    return [_cause(one) for one in report.findings if one.severity == "error"][:1]


def _cause(finding: Finding) -> Cause:
    advice = ADVICE.get(finding.kind, FINDINGS[finding.kind].advice)
    return Cause(_CAUSES.get(finding.kind, "broken data"), finding.where, f"{finding.what} ({finding.first})", advice)


def _spoils(finding: Finding, facts: Mapping[str, Any]) -> bool:
    """Whether a finding is about most of its split."""
    if finding.kind in WHOLE:
        return True
    return bool(finding.count > _MOST * max(1, facts.get("images" if finding.kind in OF_IMAGES else "boxes", 1)))


def causes_in_run(store: Store, steps: Sequence[Step], truth: Mapping[str, Any] | None) -> list[Cause]:
    """Causes in the ended trainings of a run, each once; `truth` is the val split as a COCO document, None where it is unreadable."""
    found: list[Cause] = []
    for step in steps:
        if not isinstance(step.job, TrainJob) or step.ended is None:
            continue
        if isinstance(step.ended, JobError):
            if step.ended.reason == "diverged":
                found.append(_too_fast(str(step.label), step.ended.message or "its loss was not finite", step.job))
            continue
        found += _causes_in_training(store, str(step.label), step.job, step.ended, truth)
    first = {cause.name: cause for cause in reversed(found)}  # one training is enough
    return [cause for cause in found if first[cause.name] is cause]


def _causes_in_training(store: Store, label: str, job: TrainJob, ended: Manifest, truth: Mapping[str, Any] | None) -> list[Cause]:
    if ended.metrics.get("AP50", 0.0) >= WELL:
        return []
    key = digest(job)

    def document(name: str) -> Any:
        return json.loads(store.fetch("train", key, name).read_text())

    losses = [float(record["loss"]) for record in document(HISTORY_FILE)]
    found = [*_frozen(label, job, document(AUDIT_FILE)), *_losses(label, job, losses)]
    if truth is not None:
        learnt = len(losses) > 1 and losses[-1] < LEARNT * losses[0]
        found += causes_in_detections(label, document(DETECTIONS_FILE), document(MODEL_FILE)["classes"], truth, learnt)
    return found


def _too_fast(label: str, seen: str, job: TrainJob) -> Cause:
    return Cause("learning rate", label, f"{seen}, at lr {job.recipe.lr:g}", "lower lr, raise warmup_steps, or set clip_norm")


def _losses(label: str, job: TrainJob, losses: Sequence[float]) -> list[Cause]:
    """Judge the loss of each epoch of a training."""
    if len(losses) < 2:
        return []
    seen = f"loss {losses[0]:.3g} in the first epoch, {losses[-1]:.3g} in the last of {len(losses)}"
    if losses[-1] > ROSE * losses[0]:
        return [_too_fast(label, seen, job)]
    if losses[-1] > FELL * losses[0]:
        return [Cause("learning rate", label, f"{seen}, at lr {job.recipe.lr:g}", "it does not fall: raise lr, or train longer")]
    return []


def _frozen(label: str, job: TrainJob, audit: Mapping[str, Any]) -> list[Cause]:
    """Find frozen norms that started with new statistics."""
    norms = [name for key in ("copied", "new") for name in audit[key] if name.startswith(BACKBONE) and name.endswith(STATISTICS[0])]
    new = [name for name in audit["new"] if name in norms]
    if job.detector.norm != "frozen" or len(new) <= _MOST * len(norms):
        return []
    seen = f"norms are frozen, and {len(new)} of the backbone's {len(norms)} started with new statistics ({new[0]})"
    return [Cause("frozen norms", label, seen, "set detector.norm=train, or give a checkpoint that has the backbone")]


def causes_in_detections(
    label: str, detections: Sequence[Mapping[str, Any]], classes: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], learnt: bool
) -> list[Cause]:
    """Judge the detections (COCO results) of a net that scores badly on a val split; `learnt`: whether its loss fell."""
    names = {one["id"]: one["name"] for one in truth["categories"]}
    if {one["id"]: one["name"] for one in classes} != names:
        ours = ", ".join(f"{one['id']} {one['name']}" for one in classes[:4])
        seen = f"the net was trained for the categories {ours}, val has {', '.join(f'{k} {v}' for k, v in list(names.items())[:4])}"
        return [Cause("class mapping", label, seen, "give train and val the same ids and names, and train anew")]
    known = {image["id"] for image in truth["images"]}
    there = {one["image_id"] for one in detections}
    if there and len(there & known) < _MOST * len(there):
        seen = f"{len(there - known)} of {len(there)} images with detections are not of the val split (id {min(there - known)})"
        return [Cause("wrong split", label, seen, "evaluate on the data that the run was made for")]
    pairs, boxes = _pairs(detections, truth["annotations"])
    if len(pairs) >= max(FEW, FOUND * boxes):
        return _swapped(label, pairs, names)
    if learnt and len(pairs) < LOST * boxes:
        seen = f"the loss fell, yet of {boxes} boxes of val {len(pairs)} are found"
        return [Cause("wrong split", label, seen, "see whether val's annotations belong to its images (spnas check --picture)")]
    return []


def _pairs(detections: Iterable[Mapping[str, Any]], marks: Iterable[Mapping[str, Any]]) -> tuple[list[tuple[int, int]], int]:
    """Pair each box with its best-scored overlapping detection; returns the categories of both, and the number of boxes."""
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for one in sorted(detections, key=lambda one: -one["score"]):
        by_image.setdefault(one["image_id"], []).append(one)
    pairs, boxes = [], 0
    for mark in marks:
        boxes += 1
        some = by_image.get(mark["image_id"], [])
        overlaps = mask.iou([one["bbox"] for one in some], [mark["bbox"]], [0]) if some else np.zeros(0)
        if len(hits := np.flatnonzero(np.ravel(overlaps) >= MATCH)):
            pairs.append((mark["category_id"], some[hits[0]]["category_id"]))
    return pairs, boxes


def _swapped(label: str, pairs: Sequence[tuple[int, int]], names: Mapping[int, str]) -> list[Cause]:
    """Find categories that the net mostly calls by another name, each by a different one; otherwise the net only prefers some names."""
    called = {category: Counter(ours for theirs, ours in pairs if theirs == category) for category in names}
    most = {category: counts.most_common(1)[0] for category, counts in called.items() if counts.total() >= FEW}
    wrong = {one: (name, count) for one, (name, count) in most.items() if name != one and count > _MOST * called[one].total()}
    if not wrong or 2 * len(wrong) < len(most) or len({name for name, _ in most.values()}) < len(most):
        return []
    texts = [f"{names[one]} is called {names.get(name, name)} ({count} of {called[one].total()})" for one, (name, count) in wrong.items()]
    seen = f"objects are found, but under other names: {'; '.join(texts[:3])}"
    return [Cause("class mapping", label, seen, "see whether train and val give the same category the same id")]
