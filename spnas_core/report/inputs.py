"""Inputs of a run's report, read once: its ledger, the artifacts of its trainings, and its data if it still exists.

An unfinished run is reported up to its last finished stage. Whatever the store or the data no longer has is left out, not guessed.
"""

import contextlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from spnas_core.data.any_set import AnySplit, open_set
from spnas_core.data.fingerprints import fingerprint_splits
from spnas_core.errors import MissingArtifactError, StoreError, UserError
from spnas_core.job import Data, TrainJob, digest
from spnas_core.names import AUDIT_FILE, DETECTIONS_FILE, HISTORY_FILE, SEGMENTATION_FILE
from spnas_core.run.plan import Plan, RoundStage, ScoredSplit
from spnas_core.run.record import StageRecord, newest_round, read_stage
from spnas_core.run.register import Record, plan_of, read_run
from spnas_core.settings.run import Run
from spnas_core.settings.search import counted
from spnas_core.settings.task import Task
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest

_LOG_LINES = 12  # of a failed training's log
READERS = 8  # threads that read from the store


@dataclass(frozen=True)
class Training:
    """Stored data of one training: one record per epoch, the audit of its initial weights; for a failed one, the end of its log."""

    manifest: Manifest | None = None
    history: tuple[dict[str, Any], ...] = ()
    audit: dict[str, Any] = field(default_factory=dict)
    log: str = ""


@dataclass(frozen=True)
class ReportInputs:
    """A run with all inputs of its report; `stage` is the record of the last finished stage.

    `trainings`, `reignitions` and `benchmarks` by the digest of their artifact; `evaluations` of the nets trained to the end. `seconds`:
    from start to end of each stage, if the store tells. `outputs` of the nets trained to the end by net and
    split: detections, COCO results, or those of `jobs/segmentation.py`. `val` is None if the data cannot be read, and `no_data` gives the
    reason; `test` is None then too, or where there is none.
    """

    plan: Plan
    stage: StageRecord
    trainings: dict[str, Training]
    reignitions: dict[str, Training]
    evaluations: tuple[Manifest, ...]
    benchmarks: dict[str, Manifest]
    seconds: dict[str, float]
    outputs: Mapping[tuple[str, ScoredSplit], Any] = field(default_factory=dict)
    val: AnySplit | None = None
    no_data: str = ""
    test: AnySplit | None = None

    @property
    def of_final(self) -> Any:
        """Outputs of the final net on val; None where the store has none."""
        return self.outputs.get(("final", "val"))

    def outputs_of(self, digest: str) -> Any:
        """Read the outputs of a training on val; None where the store has none any more."""
        training = self.trainings.get(digest)
        return outputs_in(self.plan.store, training.manifest if training else None)

    @property
    def measured(self) -> bool:
        """Whether latency and memory of the nets are measured; those of the start net are at the start of the serial search."""
        return self.plan.settings.measures and self.stage.name != "fine_tune"

    @property
    def settings(self) -> Run:
        """Settings of the run; until its start net is measured, with objectives that need no measurement."""
        objectives = counted(self.plan.settings.work) if self.stage.name == "fine_tune" else self.plan.settings.objectives
        return self.plan.settings.model_copy(update={"objectives": objectives})

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return "final" in self.stage.results


def collect(plan: Plan, stage: StageRecord) -> ReportInputs:
    """Read all inputs of the report of `plan`, finished up to `stage`."""
    store, results = plan.store, stage.results
    digests = [digest for trial in stage.ledger for digest in trial.trainings] + [result.digest for result in results.values()]
    digests += trained_before(stage)
    wanted = [("train", digest) for digest in dict.fromkeys(digests)] + [("reignite", w.digest) for w in stage.reignited.values()]
    with ThreadPoolExecutor(READERS, thread_name_prefix="spnas-report") as pool:
        found = dict(zip(wanted, pool.map(lambda one: _training(store, *one), wanted), strict=True))
    trained, reignited = ({name: one for (k, name), one in found.items() if k == kind} for kind in ("train", "reignite"))
    val, no_data = readable_split(plan.settings.work, plan.data, plan.data.val)
    evaluations = _evaluations(plan, stage, trained)
    return ReportInputs(
        plan=plan,
        stage=stage,
        trainings=trained,
        reignitions=reignited,
        evaluations=tuple(evaluations.values()),
        benchmarks=_benchmarks(plan, stage),
        seconds=_seconds(plan),
        outputs=_outputs(store, stage, trained, evaluations),
        val=val,
        no_data=no_data,
        test=readable_split(plan.settings.work, plan.test, None)[0] if plan.test else None,
    )


def reopen(store: Store, name: str, data_url: str | None = None) -> ReportInputs:
    """Read the inputs of the report of run `name` of a store, see `reopen_stage`."""
    return collect(*reopen_stage(store, name, data_url))


def reopen_stage(store: Store, name: str, data_url: str | None = None) -> tuple[Plan, StageRecord]:
    """Read the plan of run `name` of a store, and the record up to which it is finished; its data may have moved to `data_url`.

    UserError: no such run, none of its stages is finished, or `data_url` holds other data.
    """
    record = read_run(store, name)
    if data_url is not None:
        place = data_url if "://" in data_url else str(Path(data_url).expanduser().absolute())
        record = record.model_copy(update={"data": record.data.model_copy(update={"url": place})})
        _check_data(record)
    plan = plan_of(record, store)
    done = [stage for stage in plan.settings.stages if store.find("stage", plan.keys[stage])]
    if not done:
        raise UserError(f"run {name!r} of {store.url}: expected at least one finished stage to report, found none")
    stage = read_stage(store, plan.keys[done[-1]])
    following = next((later for earlier, later in pairwise(plan.settings.stages) if earlier == stage.name), None)
    if following == "structures" or following == "serial":  # each spelt out for the type checker
        stage = newest_round(plan, stage, following)[1]
    return plan, stage


def _check_data(record: Record) -> None:
    data, settings = record.data, record.settings
    opened = open_set(settings.work, data.url, data.reading, data.strict)
    splits = [opened.split(name) for name in (data.train, data.val)]
    if (found := fingerprint_splits(splits, settings.fingerprint == "full", settings.threads)) != data.fingerprint:
        raise UserError(
            f"--data {data.url}: expected the data of the run (fingerprint {data.fingerprint[:12]}), got other data ({found[:12]})"
        )


def readable_split(task: Task, data: Data, name: str | None) -> tuple[AnySplit | None, str]:
    """Open a split, without a name the test split; None, and the reason, where the data cannot be read."""
    try:
        opened = open_set(task, data.url, data.reading, data.strict)
        return (opened.split(name) if name else opened.test()), ""
    except (UserError, StoreError) as error:
        return None, str(error.args[0])


def _training(store: Store, kind: str, digest: str) -> Training:
    manifest = store.manifest(f"{kind}/{digest}")
    if isinstance(manifest, Manifest):
        return Training(
            manifest, tuple(artifact_document(store, manifest, HISTORY_FILE) or ()), artifact_document(store, manifest, AUDIT_FILE) or {}
        )
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        lines = store.read(f"logs/{kind}/{digest}.txt").decode(errors="replace").strip().splitlines()
        return Training(log="\n".join(lines[-_LOG_LINES:]))
    return Training()


def artifact_document(store: Store, manifest: Manifest | None, name: str) -> Any:
    """Content of a JSON file of an artifact; None if it does not exist."""
    if manifest is None or name not in manifest.files:
        return None
    with contextlib.suppress(MissingArtifactError):
        return json.loads(store.fetch(manifest.kind, manifest.digest, name).read_bytes())
    return None


def outputs_in(store: Store, manifest: Manifest | None) -> Any:
    """Read the outputs in an artifact, of whichever task; None if it has none."""
    found = artifact_document(store, manifest, DETECTIONS_FILE)
    return artifact_document(store, manifest, SEGMENTATION_FILE) if found is None else found


def trained_before(stage: StageRecord) -> list[str]:
    """Digests of the trainings that a search made before its rounds."""
    return [name.split("/")[1] for name in stage.searched if name.startswith("train/")]


def _evaluations(plan: Plan, stage: StageRecord, trainings: dict[str, Training]) -> dict[tuple[str, ScoredSplit], Manifest]:
    """Find the evaluations of full_train by net and split: of the final net on val, and of all on test."""
    found: dict[tuple[str, ScoredSplit], Manifest | str | None] = {}
    for name, result in stage.results.items():
        if manifest := trainings[result.digest].manifest:
            job = TrainJob.model_validate(manifest.job)
            splits: tuple[ScoredSplit, ...] = ("val", "test")
            scored = {split: digest(plan.evaluate(job, result.digest, split)) for split in splits if split in result.scores}
            found |= {(name, split): plan.store.manifest(f"evaluate/{key}") for split, key in scored.items()}
    return {place: one for place, one in found.items() if isinstance(one, Manifest)}


def _outputs(
    store: Store, stage: StageRecord, trainings: dict[str, Training], evaluations: Mapping[tuple[str, ScoredSplit], Manifest]
) -> dict[tuple[str, ScoredSplit], Any]:
    """Read the outputs of the nets trained to the end: on val those of their training, on test those of their evaluation."""
    artifacts: dict[tuple[str, ScoredSplit], Manifest | None] = {
        (name, "val"): trainings[result.digest].manifest for name, result in stage.results.items()
    }
    artifacts |= {place: one for place, one in evaluations.items() if place[1] == "test"}
    found = {place: outputs_in(store, one) for place, one in artifacts.items()}
    return {place: results for place, results in found.items() if results is not None}


def _benchmarks(plan: Plan, stage: StageRecord) -> dict[str, Manifest]:
    """Find the benchmarks of the trials, if the settings require any."""
    found = {digest: plan.store.manifest(f"benchmark/{digest}") for digest in stage.benchmarks}
    return {digest: manifest for digest, manifest in found.items() if isinstance(manifest, Manifest)}


def _seconds(plan: Plan) -> dict[str, float]:
    """Seconds of the finished stages; every round of the serial search has a separate record."""
    records = {name: [plan.keys[name]] for name in plan.settings.stages}
    for stage in set(get_args(RoundStage)) & records.keys():
        records[stage] = [plan.after(number, stage).keys[stage] for number in range(1, plan.rounds(stage) + 1)]
    found = {name: [plan.store.manifest(f"stage/{key}") for key in keys] for name, keys in records.items()}
    return {name: sum(one.seconds for one in ones if isinstance(one, Manifest)) for name, ones in found.items()}
