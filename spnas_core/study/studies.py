"""A study in the store: its inputs, its record (an artifact of kind `study`), and the report derived from the record."""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from spnas_core.errors import UserError
from spnas_core.job import canonical_json
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.register import announce
from spnas_core.settings.run import Run
from spnas_core.settings.task import Task
from spnas_core.study.fronts import FrontOutcome, report_fronts
from spnas_core.study.methods import SIMPLE_METHODS, Arrival, Forecast, Outcome, SimpleMethod, StudyEntry
from spnas_core.study.noise import NoisyScore, report_noise
from spnas_core.study.report import report_arrivals, report_forecasts, report_outcomes
from spnas_core.study.report_form import StudyReport, entries_csv

STUDY_VERSION = 2  # increase it when a change makes a study give other results with the same settings
ENTRIES_FILE = "entries.json"
StudyKind = Literal["baselines", "proxy", "inheritance", "noise", "front"]
ENTRIES: dict[StudyKind, TypeAdapter[Any]] = {
    "baselines": TypeAdapter(tuple[Outcome, ...]),
    "proxy": TypeAdapter(tuple[Forecast, ...]),
    "inheritance": TypeAdapter(tuple[Arrival, ...]),
    "noise": TypeAdapter(tuple[NoisyScore, ...]),
    "front": TypeAdapter(tuple[FrontOutcome, ...]),
}
REPORTS: dict[StudyKind, Callable[[Any, Task], StudyReport]] = {
    "baselines": report_outcomes,
    "proxy": report_forecasts,
    "inheritance": report_arrivals,
    "noise": report_noise,
    "front": report_fronts,
}


@dataclass(frozen=True)
class Study:
    """Study of a run's settings with the seeds of `plans`; `count` is the number of nets, for a study that does not search for them.

    `against`: the methods that `baselines` compares SP-NAS with.
    """

    kind: StudyKind
    plans: tuple[Plan, ...]
    count: int = 0
    against: tuple[SimpleMethod, ...] = SIMPLE_METHODS

    @property
    def key(self) -> str:
        """Digest of everything that determines the record."""
        runs = [plan.keys["full_train"] for plan in self.plans]
        parts: dict[str, Any] = {"study": self.kind, "runs": runs, "count": self.count, "version": STUDY_VERSION}
        parts |= {} if self.against == SIMPLE_METHODS else {"against": self.against}
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Name of the study in the store: the folder of its report below `runs/`."""
        return f"{self.plans[0].settings.name}-{self.kind}"


def open_study(
    kind: StudyKind,
    settings: Run,
    data_url: str,
    store_url: str,
    seeds: int = 1,
    count: int = 0,
    against: Collection[SimpleMethod] = SIMPLE_METHODS,
) -> Study:
    """Open data and store for a study with `seeds` consecutive seeds from that of `settings`. UserError if methods cannot be compared."""
    if settings.checkpoint:
        raise UserError(f"study: expected settings without a checkpoint, since nets are trained from scratch, got {settings.checkpoint!r}")
    if settings.structures:
        raise UserError("study: expected settings without structures, since its methods search one structure, got some")
    first = open_plan(settings, data_url, store_url)
    if kind in ("baselines", "front") and first.test is None:
        raise UserError(f"{data_url}: expected a test split, on which the methods are compared, got none")
    later = (settings.model_copy(update={"seed": settings.seed + number}) for number in range(1, seeds))
    methods = tuple(method for method in SIMPLE_METHODS if method in against)
    study = Study(kind, (first, *(replace(first, settings=run) for run in later)), count, methods)
    announce(first.store, study.name, {kind: study.key})
    return study


def stored_entries(study: Study) -> tuple[StudyEntry, ...] | None:
    """Record of a finished study, else None."""
    store = study.plans[0].store
    if store.find("study", study.key) is None:
        return None
    entries: tuple[StudyEntry, ...] = ENTRIES[study.kind].validate_json(store.fetch("study", study.key, ENTRIES_FILE).read_bytes())
    return entries


def publish_entries(study: Study, entries: Sequence[StudyEntry], seconds: float) -> None:
    """Write the record of a finished study to the store."""
    names = dict.fromkeys(tuple(name.split("/")) for entry in entries for name in entry.artifacts)
    document = {
        "kind": "study",
        "name": study.kind,
        "settings": study.plans[0].settings.model_dump(mode="json"),
        "seeds": [plan.settings.seed for plan in study.plans],
        "weights": [{"kind": kind, "digest": digest} for kind, digest in names],
    }
    with tempfile.TemporaryDirectory(prefix="spnas-study-") as scratch:
        (Path(scratch) / ENTRIES_FILE).write_bytes(ENTRIES[study.kind].dump_json(tuple(entries)))
        study.plans[0].store.publish_record("study", study.key, document, Path(scratch), {"entries": len(entries)}, seconds)


def publish_report(study: Study, entries: Sequence[StudyEntry]) -> dict[str, Any]:
    """Write `report.md`, `.csv`, `.json` and `.png` of a finished study below `runs/NAME-KIND/`; returns the content of `report.json`."""
    store, report = study.plans[0].store, REPORTS[study.kind](entries, study.plans[0].settings.work)
    summary = {
        "study": study.kind,
        "folder": f"{store.url}/runs/{study.name}",
        **_finite(report.computed),
        "entries": [entry.model_dump(mode="json") for entry in entries],
        "text": report.plain(),
    }
    files = {
        "md": report.markdown().encode(),
        "csv": entries_csv(entries).encode(),
        "json": json.dumps(summary, indent=1, allow_nan=False).encode(),
        "png": report.picture,
    }
    for ending, content in files.items():
        store.write(f"runs/{study.name}/report.{ending}", content)
    return summary


def _finite(value: Any) -> Any:
    """Figures for JSON, which has no nan: None where a figure is not defined, such as Kendall's tau of equal scores."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
