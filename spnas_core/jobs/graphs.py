"""Cache of compiled graphs on this machine, shared by jobs that compile the same graphs.

MindSpore can cache the graphs that a process compiles in a folder, but it numbers them in compile order and does not check their content:
a folder must serve only jobs that compile the same graphs in the same order. So the folder's name is a digest of everything that may
change a graph: the job without the settings that affect numbers only, this program's source, the versions, the device.
Source: https://www.mindspore.cn, environment variables MS_COMPILER_CACHE_ENABLE and MS_COMPILER_CACHE_PATH.
"""

import contextlib
import hashlib
import logging
import shutil
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from spnas_core.job import Job, TrainJob, canonical_json
from spnas_core.store.manifest import versions
from spnas_core.store.storage import cache_folder

_log = logging.getLogger(__name__)
SOURCE = Path(__file__).parents[1]  # all of spnas_core
MOST_KEPT = 32  # folders; the most recently used stay
NUMBERS_ONLY: dict[str, Any] = {
    "seed": True,
    "checkpoint": True,
    "checkpoint_sha256": True,
    "checkpoint_coverage": True,
    "split": True,
    "stop_after_epochs": True,
    "resume_from": True,
    "data": {"url", "fold"},
    "recipe": {
        "epochs",
        "lr",
        "warmup_steps",
        "schedule",
        "milestones",
        "flip",
        "scales",
        "eval_epochs",
        "ema",
        "scored_epochs",
        "keep_best",
        "patience",
        "inherited_batches",
        "data",
        "mixup",
        "label_smoothing",
    },
    "weights": {"__all__": {"digest"}},
    "paths": True,
    "members": True,
    "calibration": True,
}  # fields of a job that affect no graph


def cache_variables(folder: Path) -> dict[str, str]:
    """Environment variables that make MindSpore cache its graphs in `folder`; it reads them when a process compiles its first graph."""
    return {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(folder)}


def key(job: Job, ranks: int = 1) -> str:
    """Name of the cache folder for the graphs of `job` on `ranks` devices."""
    document = job.model_dump(mode="json", exclude=NUMBERS_ONLY)
    origin = None
    if isinstance(job, TrainJob) and chooses_by_origin(job):
        origin = {"weights": document["weights"], "all_new": not job.weights and not job.checkpoint}
    document.pop("weights", None)
    parts = {"job": document, "origin": origin, "ranks": ranks, "source": _source(), "versions": versions()}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def chooses_by_origin(job: TrainJob) -> bool:
    """Whether the weights that `job` starts from decide which parameters it trains (`initial_weights.choose_trained`).

    New tensors are trained even where norms and stages are frozen; where nothing is frozen, all are.
    """
    settings = job.detector
    return settings.norm == "frozen" or settings.frozen_stages > 0 or job.recipe.freeze_inherited


def is_kept(name: str) -> bool:
    """Whether graphs are cached under `name`."""
    return (cache_folder("graphs") / name).exists()


def borrow(name: str, folder: Path) -> None:
    """Copy the graphs cached under `name`, if any, to the new `folder`, where the job may change them.

    A failure is only logged: the job can run without them.
    """
    kept = cache_folder("graphs") / name
    try:
        shutil.copytree(kept, folder)
        with contextlib.suppress(OSError):  # it may belong to another user
            kept.touch()
        return
    except FileNotFoundError:  # none are cached
        pass
    except OSError as error:  # among others, another process replaces them at this moment
        _log.warning("compiled graphs are not taken from %s: %s", kept, error)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def keep(name: str, folder: Path) -> None:
    """Cache the graphs in `folder` under `name`, unless as many are cached already, and evict the least recently used folders.

    A failure (a full or read-only disk, another process that evicts at the same time) is only logged.
    """
    try:
        _keep(name, folder)
    except OSError as error:
        _log.warning("compiled graphs are not kept in %s: %s", cache_folder("graphs"), error)


def _keep(name: str, folder: Path) -> None:
    place = cache_folder("graphs")
    place.mkdir(parents=True, exist_ok=True)
    if _count(folder) > _count(place / name):
        partial, old = (place / f".{uuid.uuid4().hex}" for _ in range(2))
        try:
            shutil.copytree(folder, partial)
            with contextlib.suppress(OSError):  # the folder does not exist, or another job moves it at this moment
                (place / name).rename(old)
            with contextlib.suppress(OSError):  # another job was first
                partial.rename(place / name)
        finally:
            for rest in (partial, old):
                shutil.rmtree(rest, ignore_errors=True)
    used = sorted((path for path in place.iterdir() if not path.name.startswith(".")), key=lambda path: path.stat().st_mtime)
    for unused in used[:-MOST_KEPT]:
        shutil.rmtree(unused, ignore_errors=True)


def _count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


@cache
def _source() -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
