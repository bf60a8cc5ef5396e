"""Causes of an mIoU near chance, each recognised by its traces in a segmentation data set, in losses or in the confusion on val."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spnas_core.check.masks import MaskReport
from spnas_core.errors import JobError
from spnas_core.job import TrainJob, digest
from spnas_core.monitor.doctor import LEARNT, Cause, frozen_causes, loss_causes, too_fast
from spnas_core.names import AUDIT_FILE, HISTORY_FILE, SEGMENTATION_FILE
from spnas_core.run.replay import Step
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest

ABOVE_CHANCE = 0.1  # of the way from chance to 1: from there on nothing ails a net
ALONE = 0.97  # share of all pixels that a net gives one class, where the truth has less of it
CALLED = 0.5  # share of a class's pixels that bear another name
_OF_NAMES = ("no-names", "name-missing", "name-twice", "unnamed-value", "train-ids", "other-names")
_OF_SPLIT = ("no-masks", "nothing-counts", "mask-size", "mask-unturned")
_Table = npt.NDArray[np.float64]


def chance_miou(table: _Table) -> float:
    """Give the mIoU of a net that says the most frequent class everywhere, by its confusion (K, K), truth in rows."""
    truth = table.sum(1)
    return float(truth.max() / max(1.0, truth.sum()) / max(1, np.count_nonzero(truth)))


def is_well(miou: float, chance: float) -> bool:
    """Whether an mIoU is clearly above chance."""
    return miou >= chance + ABOVE_CHANCE * (1 - chance)


def causes_in_mask_data(report: MaskReport) -> list[Cause]:
    """Causes in a checked data set: its errors."""
    return [
        Cause(
            "class mapping" if one.kind in _OF_NAMES else "wrong split" if one.kind in _OF_SPLIT else "masks",
            one.where,
            f"{one.what} ({one.first})",
            one.advice,
        )
        for one in report.findings
        if one.severity == "error"
    ]


def causes_in_mask_run(store: Store, steps: Sequence[Step], names: Sequence[str]) -> list[Cause]:
    """Causes in the ended trainings of a run, each once; `names` of the classes."""
    found: list[Cause] = []
    for step in steps:
        if not isinstance(step.job, TrainJob) or step.ended is None:
            continue
        label = str(step.label)
        if isinstance(step.ended, JobError):
            if step.ended.reason == "diverged":
                found.append(too_fast(label, step.ended.message or "its loss was not finite", step.job))
            continue
        found += _causes_of(store, label, step.job, step.ended, names)
    first = {cause.name: cause for cause in reversed(found)}  # one training is enough
    return [cause for cause in found if first[cause.name] is cause]


def _causes_of(store: Store, label: str, job: TrainJob, ended: Manifest, names: Sequence[str]) -> list[Cause]:
    key = digest(job)

    def document(name: str) -> Any:
        return json.loads(store.fetch("train", key, name).read_text())

    table = np.array(document(SEGMENTATION_FILE)["counts"]["confusion"], np.float64)
    if is_well(float(ended.metrics.get("mIoU", -1.0)), chance_miou(table)):
        return []
    losses = [float(record["loss"]) for record in document(HISTORY_FILE)]
    learnt = len(losses) > 1 and losses[-1] < LEARNT * losses[0]
    found = [*frozen_causes(label, job, document(AUDIT_FILE)), *loss_causes(label, job, losses)]
    return [*found, *causes_in_confusion(label, table, names, learnt)]


def causes_in_confusion(label: str, table: _Table, names: Sequence[str], learnt: bool) -> list[Cause]:
    """Judge the confusion (K, K) on val, truth in rows, of a net that scores badly; `learnt`: whether its loss fell."""
    whole, truth, said = max(1.0, table.sum()), table.sum(1), table.sum(0)
    most = int(said.argmax())
    if said[most] >= ALONE * whole > truth[most]:
        seen = f"{100 * said[most] / whole:.1f} % of val is called {names[most]}, of which it has {100 * truth[most] / whole:.1f} %"
        advice = "give rare classes weight (detector.head.class_weights, or auxiliary: dice), raise lr, or train longer"
        return [Cause("one class", label, seen, advice)]
    called = {row: int(table[row].argmax()) for row in np.flatnonzero(truth)}
    wrong = {row: name for row, name in called.items() if name != row and table[row, name] > CALLED * truth[row]}
    if wrong and 2 * len(wrong) >= len(called) and len(set(called.values())) == len(called):
        texts = [f"{names[row]} is called {names[name]} ({100 * table[row, name] / truth[row]:.0f} %)" for row, name in wrong.items()]
        seen = f"regions are found, but under other names: {'; '.join(texts[:3])}"
        return [Cause("class mapping", label, seen, "see whether train and val give the same class the same number")]
    if learnt:
        right = 100 * float(np.trace(table)) / whole
        seen = f"the loss fell, yet {right:.1f} % of val's pixels are right"
        return [Cause("wrong split", label, seen, "see whether val's masks belong to its images (spnas check --picture)")]
    return []
