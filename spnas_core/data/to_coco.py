"""A data set written in COCO layout."""

import json
import posixpath
import shutil
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from spnas_core.data import files
from spnas_core.errors import UserError

_CocoSplit = tuple[dict[str, Any], dict[str, str]]  # COCO document, and the URL of each of its images by file name


def flat_names(names: Iterable[str]) -> dict[str, str]:
    """Name of each of `names` (paths) in one folder: its last part, with the folders above it (sub_1.jpg) where another has that one."""
    flat: dict[str, str] = {}  # path by name
    for name in names:
        above, short = posixpath.split(name.replace("\\", "/"))
        while flat.get(short, name) != name:
            above, last = posixpath.split(above)
            short = f"{last}_{short}"
        flat[short] = name
    return {name: short for short, name in flat.items()}


def write_coco(splits: Mapping[str, _CocoSplit], url: str) -> None:
    """Write annotations/instances_SPLIT.json and images/SPLIT/ to a new folder at `url`, a path or any fsspec URL.

    A local folder appears as a whole or not at all; elsewhere the annotations come last, so that a partial copy is no data set.
    UserError for a place that is not empty.
    """
    system, root = files.open_url(url)
    if system.exists(root) and (not system.isdir(root) or files.list_folder(system, root)):
        raise UserError(f"--to-coco: expected a new or empty folder, got {url}, where there is something already")
    if not isinstance(system, LocalFileSystem):
        _write(splits, system, root)
        return
    target = Path(root)
    partial = target.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        _write(splits, system, str(partial))
        partial.replace(target)  # an empty folder gives way, one that was filled meanwhile does not
    except OSError as error:
        raise UserError(f"--to-coco: expected a place for a folder, got {url}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(splits: Mapping[str, _CocoSplit], system: Any, root: str) -> None:
    for split, (_, sources) in splits.items():
        folder = files.join_path(root, "images", split)
        system.makedirs(folder, exist_ok=True)
        with ThreadPoolExecutor(8, thread_name_prefix="spnas-copy") as pool:
            targets = [files.join_path(folder, name) for name in sources]
            list(pool.map(lambda source, target: system.put_file(str(files.local_file(source)), target), sources.values(), targets))
    system.makedirs(files.join_path(root, "annotations"), exist_ok=True)
    for split, (document, _) in splits.items():
        system.pipe_file(files.join_path(root, "annotations", f"instances_{split}.json"), json.dumps(document).encode())
