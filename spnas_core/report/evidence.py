"""What the report of a run is made of, read once: its ledger, what its trainings left in the store, and its data where that still is.

A run that has not ended is reported as far as its stages are finished. What the store or the data no longer has is left out, not guessed.
"""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spnas_core.config import STAGE_NAMES
from spnas_core.data import coco
from spnas_core.errors import MissingArtifactError, StoreError, UserError
from spnas_core.plan import Plan
from spnas_core.runs import Record, read_run
from spnas_core.stages import KEYS, Stage, newest_round, read_stage
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest

LOG_LINES = 12  # of the log of a training that failed
READERS = 8  # threads that read from the store


@dataclass(frozen=True)
class Training:
    """What the store has of one training: one record per epoch, where its weights came from; of one that failed, the end of its log."""

    manifest: Manifest | None = None
    history: tuple[dict[str, Any], ...] = ()
    audit: dict[str, Any] = field(default_factory=dict)
    log: str = ""


@dataclass(frozen=True)
class Evidence:
    """A run with all that its report needs; `keys` are those of its stages, `stage` is the last that is finished.

    `trainings` and `reignitions` by the digest of their artifact. `seconds`: from begin to end of each stage, where the store tells.
    `detections` of the final net on val, COCO results; `val` is None where the data cannot be read, and `no_data` then says why.
    """

    plan: Plan
    stage: Stage
    keys: dict[str, str]
    trainings: dict[str, Training]
    reignitions: dict[str, Training]
    seconds: dict[str, float]
    detections: list[dict[str, Any]] | None = None
    val: coco.Split | None = None
    no_data: str = ""

    @property
    def finished(self) -> bool:
        """Whether the run is at its end."""
        return "final" in self.stage.results


def collect(plan: Plan, stage: Stage, keys: dict[str, str] | None = None) -> Evidence:
    """Read all that the report of `plan`, finished up to `stage`, needs; `keys` of its stages, by default the plan's."""
    store, known = plan.store, keys or plan.keys
    digests = [trial.digest for trial in stage.ledger] + [result.digest for result in stage.results.values()]
    wanted = [("train", digest) for digest in dict.fromkeys(digests)] + [("reignite", w.digest) for w in stage.reignited.values()]
    with ThreadPoolExecutor(READERS, thread_name_prefix="spnas-report") as pool:
        found = dict(zip(wanted, pool.map(lambda one: _training(store, *one), wanted), strict=True))
    by_kind = {kind: {name: one for (k, name), one in found.items() if k == kind} for kind in ("train", "reignite")}
    final = stage.results.get("final")
    detections = _document(store, found["train", final.digest].manifest, "detections.json") if final else None
    val, no_data = _open_val(plan)
    return Evidence(plan, stage, known, by_kind["train"], by_kind["reignite"], _seconds(plan, known), detections, val, no_data)


def reopen(store: Store, name: str, data_url: str | None = None) -> Evidence:
    """Read what is needed to report the run `name` of a store, as far as it is finished; its data may have moved to `data_url`.

    UserError: no such run, none of its stages is finished, or `data_url` holds other data.
    """
    record = read_run(store, name)
    if data_url is not None:
        place = data_url if "://" in data_url else str(Path(data_url).expanduser().absolute())
        record = record.model_copy(update={"data": record.data.model_copy(update={"url": place})})
        _check_data(record)
    keys = json.loads(store.read(f"runs/{name}/{KEYS}"))
    done = [one for one in STAGE_NAMES if one in keys and store.find("stage", keys[one])]
    if not done:
        raise UserError(f"run {name!r} of {store.url}: expected at least one finished stage to report, found none")
    stage = read_stage(store, keys[done[-1]])
    plan = _plan(store, record, stage)
    if done[-1] == "fine_tune" and plan.keys["serial"] == keys.get("serial"):
        stage = newest_round(plan, stage)[1]
    return collect(plan, stage, keys)


def _plan(store: Store, record: Record, stage: Stage) -> Plan:
    """Plan of the run without its data being there: what its keys depend on is in its artifacts."""
    start = stage.ledger[0]
    trained = store.manifest(f"train/{start.digest}")
    sha256 = trained.job.get("checkpoint_sha256") if isinstance(trained, Manifest) else None
    backbones = [store.manifest(f"reignite/{weights.digest}") for weights in stage.reignited.values()]
    images = next((one.job.get("images") for one in backbones if isinstance(one, Manifest)), None)
    classes = len((start.metrics or {}).get("per_class", {}))
    return Plan(record.settings, store, record.data, classes, checkpoint_sha256=sha256, images=images)


def _check_data(record: Record) -> None:
    data, settings = record.data, record.settings
    splits = [coco.open_split(data.url, name, data.strict) for name in (data.train, data.val)]
    if (found := coco.fingerprint(splits, settings.fingerprint == "full", settings.threads)) != data.fingerprint:
        raise UserError(f"--data {data.url}: expected the data of the run (fingerprint {data.fingerprint[:12]}), got other data ({found[:12]})")


def _open_val(plan: Plan) -> tuple[coco.Split | None, str]:
    try:
        return coco.open_split(plan.data.url, plan.data.val, plan.data.strict), ""
    except (UserError, StoreError) as error:
        return None, str(error.args[0])


def _training(store: Store, kind: str, digest: str) -> Training:
    manifest = store.manifest(f"{kind}/{digest}")
    if isinstance(manifest, Manifest):
        return Training(manifest, tuple(_document(store, manifest, "history.json") or ()), _document(store, manifest, "audit.json") or {})
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        lines = store.read(f"logs/{kind}/{digest}.txt").decode(errors="replace").strip().splitlines()
        return Training(log="\n".join(lines[-LOG_LINES:]))
    return Training()


def _document(store: Store, manifest: Manifest | None, name: str) -> Any:
    """Content of a JSON file of an artifact; None where it is not there."""
    if manifest is None or name not in manifest.files:
        return None
    with contextlib.suppress(MissingArtifactError):
        return json.loads(store.fetch(manifest.kind, manifest.digest, name).read_bytes())
    return None


def _seconds(plan: Plan, keys: dict[str, str]) -> dict[str, float]:
    """Seconds of the finished stages; every round of the serial search has a record of its own."""
    records = {name: [keys[name]] for name in STAGE_NAMES if name in keys}
    if plan.keys["serial"] == keys.get("serial"):
        records["serial"] = [plan.after(number).keys["serial"] for number in range(1, plan.settings.serial.rounds + 1)]
    found = {name: [plan.store.manifest(f"stage/{key}") for key in stage] for name, stage in records.items()}
    return {name: sum(one.seconds for one in ones if isinstance(one, Manifest)) for name, ones in found.items()}
