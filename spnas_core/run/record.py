"""Record of a finished stage: the ledger so far, reignited weights, final results; an artifact of kind `stage`."""

import json
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from spnas_core.cost import Stem
from spnas_core.errors import JobError, UserError
from spnas_core.job import TrainJob, Weights, digest
from spnas_core.names import STAGE_FILE
from spnas_core.run.plan import EQUAL, START, FinalNet, Plan, RoundStage
from spnas_core.search.ledger import SearchStage, Trial, pareto_front
from spnas_core.search.net import net_of
from spnas_core.search.opinions import BLOCK_GAMMAS
from spnas_core.settings.base import Settings
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import StageName
from spnas_core.settings.search import counted
from spnas_core.settings.task import DETECTION
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest

_DOCUMENT = TypeAdapter(dict[str, Any])
PATH = "path_"  # with a score's name: metric of a trial, its score as a path of a supernet
KEYS = "stages.json"  # below runs/NAME/: the keys of its stages


class Result(Settings):
    """Fully trained net, with its scores per split."""

    arch: str
    digest: str
    scores: dict[str, dict[str, Any]]
    genes: str = Field("", description="what else it has other than the start net, in words: base width, input, pyramid")
    trial: str = Field("", description="digest of the trial whose training it goes on from, where the search before was a structural one")
    costs: dict[str, float] = Field(default={}, description="latency_ms and memory_mb, where they were measured in this stage")


class StageRecord(Settings):
    """Record of one finished stage; `ledger` holds the trials of this stage and of all before it."""

    name: StageName
    key: str
    ledger: tuple[Trial, ...]
    reignited: dict[str, Weights] = Field(default={}, description="reignited backbone by the digest of the trial that it came from")
    top1: dict[str, float] = Field(default={}, description="accuracy of the reignited backbones, a fraction, by the same digests")
    benchmarks: tuple[str, ...] = Field(default=(), description="digests of the benchmarks of these trials, where the settings ask for any")
    searched: tuple[str, ...] = Field(
        default=(), description="KIND/DIGEST of what the search made before these trials: a pilot, a supernet, its paths"
    )
    results: dict[str, Result] = Field(default={}, description="of full_train, by the names of `Plan.full_trainings`")
    notes: tuple[str, ...] = ()

    @property
    def start_net(self) -> FinalNet:
        """Name of the start net among the results: trained by the final net's recipe, or else at equal epochs."""
        return START if START in self.results else EQUAL

    def parent(self, trial: Trial, stem: Stem | None) -> Trial:
        """Return a trial as a parent of new children: a reignited net has the `stem` of the reignition, where that sets one."""
        return replace(trial, net=replace(trial.net, stem=stem)) if stem and trial.digest in self.reignited else trial

    def parents(self, stem: Stem | None) -> tuple[Trial, ...]:
        """Return the ledger as parents of new children."""
        return tuple(self.parent(trial, stem) for trial in self.ledger)


def ended_trial(
    plan: Plan,
    stage: SearchStage,
    number: int,
    index: int,
    parent: str | None,
    job: TrainJob,
    ended: Manifest | JobError,
    measured: Mapping[str, float] = MappingProxyType({}),
) -> Trial:
    """Make the trial of an ended training; `measured` are latency and memory of its net."""
    key, rung = digest(job), job.stop_after_epochs
    place = (net_of(job.arch, job.detector, plan.settings.detector), stage, number, index, parent, key)
    if isinstance(ended, JobError):
        return Trial(*place, failure=ended.reason, rung=rung)
    weights, metrics = Weights(kind="train", digest=key, arch=job.arch), scores_of(ended) | dict(measured)
    return Trial(*place, metrics, rung=rung, weights=weights, score=float(metrics[plan.settings.work.score]))


def scores_of(manifest: Manifest) -> dict[str, Any]:
    """Metrics without times, so that a repeated search leaves equal records; figures of single blocks stay in the artifact."""
    return {name: value for name, value in manifest.metrics.items() if name not in ("seconds", "timing", BLOCK_GAMMAS)}


def publish_stage(plan: Plan, stage: StageRecord, seconds: float) -> Manifest:
    """Publish the record of a stage and the Pareto front of its ledger."""
    front = pareto_front(stage.ledger, counted(plan.settings.work) if stage.name == "fine_tune" else plan.settings.objectives)
    metrics = {
        "trials": len(stage.ledger),
        "failed": sum(1 for one in stage.ledger if one.failure),
        plan.settings.work.score: max((one.score for one in front if one.score is not None), default=None),
    }
    with tempfile.TemporaryDirectory(prefix="spnas-stage-") as scratch:
        folder = Path(scratch)
        (folder / STAGE_FILE).write_text(stage.model_dump_json(indent=1))
        (folder / "pareto.json").write_text(json.dumps([one.digest for one in front]))
        document = {"kind": "stage", "name": stage.name, "settings": plan.settings.model_dump(mode="json")}
        with plan.store.claim("stage", stage.key) as claim:  # two runs come to the same stage together when they share its last job
            found = claim.acquire(lambda: plan.store.find("stage", stage.key), threading.Event(), lambda: None)
            return found or plan.store.publish_record("stage", stage.key, document, folder, metrics, seconds)


def read_stage(store: Store, key: str) -> StageRecord:
    """Read the record of a finished stage; MissingArtifactError where there is none, UserError for a malformed one."""
    content, manifest = store.fetch("stage", key, STAGE_FILE).read_bytes(), store.manifest(f"stage/{key}")
    try:
        return parse_record(content, manifest.job if isinstance(manifest, Manifest) else {})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{store.url}: stage/{key}: expected the record of a stage, got: {first['loc']}: {first['msg']}") from error


def parse_record(content: bytes, document: Mapping[str, Any]) -> StageRecord:
    """Parse the record of a stage; `document` is the job in its manifest. ValidationError for a malformed one.

    The trials of earlier versions name no net, but an architecture, taps and a stem, and neither weights nor score.
    """
    found = _DOCUMENT.validate_json(content)
    trials = found.get("ledger")
    for trial in trials if isinstance(trials, list) else ():
        if isinstance(trial, dict) and "net" not in trial and {"arch", "digest"} <= trial.keys():
            _complete(trial, Detector.model_validate(document.get("settings", {}).get("detector", {})))
    return StageRecord.model_validate(found)


def _complete(trial: dict[str, Any], detector: Detector) -> None:
    """Add net, weights and score to a trial of an earlier version."""
    arch, taps, stem = trial.pop("arch"), trial.pop("taps", None), trial.pop("stem", None)
    settings = detector.model_copy(update={"taps": taps, "stem": stem or detector.stem})
    trial["net"] = "+".join((str(arch), settings.neck.text, settings.stem, settings.head.kind))
    if isinstance(metrics := trial.get("metrics"), dict):
        trial["weights"] = {"kind": "train", "digest": trial["digest"], "arch": arch}
        trial["score"] = metrics.get(DETECTION.score)


def newest_round(plan: Plan, start: StageRecord, stage: RoundStage = "serial") -> tuple[int, StageRecord]:
    """Last finished round of a stage, of this run or a shorter one with equal settings, and its record; else 0 and `start`.

    A search that continues, or gets more rounds, thus keeps the trials of its finished rounds, failed ones included.
    """
    for number in range(plan.rounds(stage), 0, -1):
        key = plan.after(number, stage).keys[stage]
        if plan.store.find("stage", key):
            return number, read_stage(plan.store, key)
    return 0, start
