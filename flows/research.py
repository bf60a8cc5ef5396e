"""Repeated search on changing data: it checks data sets and starts `spnas/full` for each one that is new or has changed.

The store keeps one record per data set, with its last fingerprint: `watch/NAME.json`.
"""

import hashlib
import json
import re
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from pydantic import Field, ValidationError

from flows import presets
from flows.parameters import DataUrl, Preset, StoreUrl
from flows.presets.places import check_places
from spnas_core.data import files
from spnas_core.data.any_set import open_set
from spnas_core.data.fingerprints import fingerprint_splits
from spnas_core.data.masks.mask_layouts import has_masks
from spnas_core.data.masks.mask_set import MaskSet
from spnas_core.data.splits import DataSet
from spnas_core.errors import MissingArtifactError, StoreError, UserError
from spnas_core.jobs.progress import log_line
from spnas_core.names import WEIGHTS_FILE
from spnas_core.run.record import KEYS, read_stage
from spnas_core.search.ledger import winner
from spnas_core.settings.base import Settings
from spnas_core.settings.run import STAGE_NAMES, Run
from spnas_core.store.artifacts import Store

SEARCH, TROUBLE = "spnas/full", "not looked at"


class WatchedData(Settings):
    """Watched data set."""

    url: DataUrl = Field(description="data set in any layout that spnas check knows: an absolute path or any fsspec URL")
    settings: Preset | Run | None = Field(None, description="preset or settings of its searches; those of the watch where there are none")


class _Seen(Settings):
    """Stored record of a data set: the fingerprint of the last search, its run, and the earlier runs."""

    url: str
    fingerprint: str
    run: str
    before: tuple[str, ...] = ()


@flow(name="spnas-watch", flow_run_name="watch")
def watch(
    store: StoreUrl,
    prefix: DataUrl | Literal[""] = "",
    data: tuple[WatchedData, ...] = (),
    settings: Preset | Run = "coco",
    warm: bool = False,
) -> dict[str, str]:
    """Start one search on every data set that is new or has changed, and return a finding for each.

    Args:
        store: Store of the searches and of the records of data sets: any fsspec URL.
        prefix: Path or fsspec URL of a folder whose direct subfolders with train and val, in any layout, are watched; may be empty.
        data: Additional data sets to watch, each with its own settings if needed.
        settings: Name of a preset, or all settings of the searches.
        warm: Whether a search on changed data starts from the best serial net of the last search, with its weights, not from the start net.
    """
    place = Store(store)
    place.writable()
    watched = [*(WatchedData(url=url) for url in (data_sets(prefix) if prefix else [])), *data]
    if not watched:
        raise UserError(f"watch: expected at least one data set, got none under {prefix!r} and none in `data`")
    found, troubles = {}, []
    for one in watched:
        try:
            found[one.url] = _look(place, one, settings, warm)
        except Exception as error:  # noqa: BLE001 - an error of one data set does not delay the others, and is raised at the end
            what = error if isinstance(error, UserError | StoreError) else " ".join(repr(error).split())
            found[one.url] = f"{TROUBLE}: {what}"
            troubles.append(error)
        log_line(f"{one.url}: {found[one.url]}")
    if len(troubles) > 1:
        raise ExceptionGroup("\n".join(f"{url}: {text}" for url, text in found.items() if text.startswith(TROUBLE)), troubles)
    if troubles:
        raise troubles[0]
    return found


def data_sets(prefix: str) -> list[str]:
    """URLs of the direct subfolders of `prefix` that are data sets with train and val, in any layout, sorted."""
    system, root = files.open_url(prefix)
    urls = [files.url_of(system, files.join_path(root, name)) for name in sorted(files.list_folder(system, root)) if name[0] != "."]
    return [url for url in urls if _is_split(url)]


def _is_split(url: str) -> bool:
    try:
        return {"train", "val"} <= set((MaskSet if has_masks(url) else DataSet)(url).names)
    except UserError:  # no data set
        return False


def _look(store: Store, one: WatchedData, settings: Run | str, warm: bool) -> str:
    """Start a search on a data set if its fingerprint differs from that of the last search; returns the finding as text."""
    given = one.settings or settings
    run = presets.load_preset(given) if isinstance(given, str) else check_places(given)
    opened = open_set(run.work, one.url, run.data)
    splits = [split for split in (opened.split("train"), opened.split("val"), opened.test()) if split]
    fingerprint = fingerprint_splits(splits, run.fingerprint == "full", run.threads)
    slug = re.sub(r"[^a-z0-9]+", "-", one.url.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-") or "data"
    path = f"watch/{slug}-{hashlib.sha256(one.url.encode()).hexdigest()[:8]}.json"
    try:
        seen = _Seen.model_validate_json(store.read(path))
    except FileNotFoundError:
        seen = None
    if seen and seen.fingerprint == fingerprint:
        return f"unchanged since run {seen.run}"
    name, origin = f"{slug}-{fingerprint[:8]}", ""
    runs = (seen.run, *seen.before) if seen else ()
    if warm:
        run, origin = _warm(store, run, runs)
    started = _start(run, one.url, store.url, name, runs.count(name))
    store.write(path, _Seen(url=one.url, fingerprint=fingerprint, run=name, before=runs).model_dump_json(indent=1).encode())
    return f"{'changed' if seen else 'new'}: run {name} is started{origin} ({started.id})"


def _start(run: Run, data: str, store: str, name: str, before: int) -> FlowRun:
    """Start a search, or find the run that was started on the same data before its record was written.

    `before` counts the recorded searches on the same data: data that returns to an earlier state is searched again.
    """
    key = f"{store} {name} {before}" if before else f"{store} {name}"
    parameters = {"settings": run.model_dump(mode="json"), "data": data, "store": store, "name": name}
    try:
        return run_deployment(SEARCH, parameters=parameters, idempotency_key=key, tags=["spnas", "watch"], timeout=0, as_subflow=False)
    except ObjectNotFound as error:
        raise UserError(f"watch: expected the deployment {SEARCH} on the Prefect server, found none; make prefect-up") from error


def _warm(store: Store, run: Run, names: tuple[str, ...]) -> tuple[Run, str]:
    """Start from the best serial net of the newest run of `names` that has one; returns the settings, and a note, such as why not."""
    for name in names:
        for key in _newest_stages(store, name):
            try:
                ledger = read_stage(store, key).ledger
                best = winner([trial for trial in ledger if trial.stage != "parallel"], run.objectives)
                weights = f"{store.url}/train/{best.digest}/{WEIGHTS_FILE}"
                changes = {"arch": best.arch, "checkpoint": weights, "detector": best.net.detector(run.detector)}
                return Run.model_validate({**run.model_dump(), **changes}), f" from the best net of {name}"
            except MissingArtifactError:
                continue
            except KeyError as error:
                return run, f" from the start net, since the ledger of {name} has no {error.args[0]}"
            except ValidationError as error:
                return run, f" from the start net, since the best of {name} does not fit: {error.errors()[0]['msg']}"
            except UserError as error:
                return run, f" from the start net: {error}"
    return run, ""


def _newest_stages(store: Store, name: str) -> list[str]:
    """Keys of a run's search stages, last first; empty for a run that never began."""
    try:
        keys: dict[str, Any] = json.loads(store.read(f"runs/{name}/{KEYS}"))
    except FileNotFoundError:
        return []
    return [str(keys[stage]) for stage in reversed(("structures", *STAGE_NAMES[1:-1])) if stage in keys]
