"""Inventory of a store: files, artifacts with their sources, and the artifacts that each stage of each run names."""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from spnas_core.errors import UserError
from spnas_core.names import MANIFEST_FILE, STAGE_FILE
from spnas_core.run.record import KEYS, parse_record
from spnas_core.run.register import FRONT_FILE
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest
from spnas_core.store.storage import full_url

ARTIFACT_KINDS = ("train", "reignite", "evaluate", "benchmark", "stage", "study", "index")


@dataclass(frozen=True)
class Artifact:
    """One artifact: size in bytes, manifest, sources, and its fault, if it has one."""

    name: str
    size: int
    files: int
    manifest: Manifest | None
    fault: str = ""
    sources: tuple[str, ...] = ()  # artifacts whose weights it started from

    @property
    def what(self) -> str:
        """Subject of the artifact: an architecture, or the name of a stage."""
        job = self.manifest.job if self.manifest else {}
        return str(job.get("arch") or job.get("name") or "")


@dataclass(frozen=True)
class Inventory:
    """Sizes of all files by path, artifacts by name, and by run and stage (or study) the artifacts that they name, if finished."""

    files: dict[str, int]
    artifacts: dict[str, Artifact]
    runs: dict[str, dict[str, frozenset[str]]]
    finished: frozenset[str]
    dependants: dict[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        """Derive the dependants from the sources."""
        found = defaultdict(list)
        for artifact in self.artifacts.values():
            for source in dict.fromkeys(artifact.sources):
                found[source].append(artifact.name)
        object.__setattr__(self, "dependants", {name: tuple(sorted(names)) for name, names in found.items()})

    def is_whole(self, name: str) -> bool:
        """Whether an artifact is there and complete, as far as one sees without reading its files."""
        return name in self.artifacts and not self.artifacts[name].fault

    def size(self, path: str) -> int:
        """Bytes of a file, or of all files below a folder."""
        return sum(size for name, size in self.files.items() if name == path or name.startswith(f"{path}/"))


def take_inventory(store: Store) -> Inventory:
    """Take the inventory of a store; UserError where it is empty."""
    files = store.files()
    if not files:
        raise UserError(f"store {store.url}: expected a store with something in it, found nothing")
    folders: dict[str, dict[str, int]] = defaultdict(dict)
    for path, size in files.items():
        kind, *rest = path.split("/")
        if kind in ARTIFACT_KINDS and len(rest) == 2 and not rest[0].startswith("."):
            folders[f"{kind}/{rest[0]}"][rest[1]] = size
    artifacts = {name: _artifact(store, name, sizes) for name, sizes in sorted(folders.items())}
    keys = {
        path.split("/")[1]: _keys(store.read(path))
        for path in files
        if path.startswith("runs/") and path.endswith(f"/{KEYS}") and path.count("/") == 2
    }
    runs = {name: _stages(store, found, artifacts) for name, found in sorted(keys.items())}
    names = {path.split("/")[1] for path in files if path.startswith("runs/") and path.count("/") > 1}
    finished = frozenset(name for name, stages in runs.items() if stages and stages.keys() == keys[name].keys())
    for name in names:
        if trained := _front(store.read(path)) if (path := f"runs/{name}/{FRONT_FILE}") in files else frozenset[str]():
            runs[name] = {**runs.get(name, {}), "front": trained}
    return Inventory(files, artifacts, {name: runs.get(name, {}) for name in sorted(names)}, finished)


def _artifact(store: Store, name: str, sizes: dict[str, int]) -> Artifact:
    found = store.manifest(name) if MANIFEST_FILE in sizes else None
    fault = "half-written: no manifest" if found is None else f"corrupt: {found}" if isinstance(found, str) else ""
    manifest = found if isinstance(found, Manifest) else None
    if manifest and f"{manifest.kind}/{manifest.digest}" != name:
        fault = f"corrupt: it has the manifest of {manifest.kind}/{manifest.digest}"
    return Artifact(name, sum(sizes.values()), len(sizes), manifest, fault, _sources(store, manifest.job) if manifest else ())


def _sources(store: Store, job: dict[str, Any]) -> tuple[str, ...]:
    """Artifacts that a job names: those of its weights, and that (or the run) of its checkpoint, if this lies in the same store."""
    weights, checkpoint = job.get("weights"), job.get("checkpoint")
    found = [one for one in weights if isinstance(one, dict)] if isinstance(weights, list) else []
    names = [f"{one['kind']}/{one['digest']}" for one in found if {"kind", "digest"} <= one.keys()]
    if isinstance(checkpoint, str) and (place := full_url(checkpoint)).startswith(f"{store.url}/"):
        names.append("/".join(place.removeprefix(f"{store.url}/").split("/")[:2]))
    return tuple(names)


def _front(content: bytes) -> frozenset[str]:
    """Trainings to the end of nets of a run's front."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(f"train/{one}" for one in found) if isinstance(found, list) else frozenset()


def _keys(content: bytes) -> dict[str, str]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return {str(name): str(key) for name, key in found.items()} if isinstance(found, dict) else {}


def _stages(store: Store, keys: dict[str, str], artifacts: dict[str, Artifact]) -> dict[str, frozenset[str]]:
    """Artifacts that the record of each finished stage or study names, failed trials included."""
    found = {}
    for stage, key in keys.items():
        if f"study/{key}" in artifacts:
            found[stage] = frozenset([f"study/{key}"])  # its sources are all that it needs
        name = f"stage/{key}"
        manifest = artifacts[name].manifest if name in artifacts and not artifacts[name].fault else None
        if manifest is None or STAGE_FILE not in manifest.files:
            continue
        try:
            content = store.read(f"{name}/{STAGE_FILE}")
            if hashlib.sha256(content).hexdigest() != manifest.files[STAGE_FILE].sha256:  # what it named is unknown: the stage is not done
                continue
            record = parse_record(content, manifest.job)
        except (ValidationError, FileNotFoundError):
            continue
        trained = [digest for trial in record.ledger for digest in trial.trainings] + [result.digest for result in record.results.values()]
        reignited = [f"reignite/{weights.digest}" for weights in record.reignited.values()]
        measured = [f"benchmark/{digest}" for digest in record.benchmarks]
        found[stage] = frozenset([name, *(f"train/{digest}" for digest in trained), *reignited, *measured, *record.searched])
    return found
