"""Model folder: `model.json` and `weights.safetensors`, written by a run, a training or a conversion, and verified when it is opened."""

import posixpath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, PositiveInt, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file

from spnas_core.data import files
from spnas_core.errors import UserError
from spnas_core.names import MANIFEST_FILE, MODEL_FILE, WEIGHTS_FILE
from spnas_core.settings.base import ArchText, Settings
from spnas_core.settings.detector import Detector
from spnas_core.store.manifest import Manifest
from spnas_core.store.storage import sha256_file
from spnas_core.weights.torchvision_names import from_torchvision, trained_epsilon


class ClassLabel(Settings):
    """Meaning of one label of the net: a category's id in the annotations, and its name."""

    label: PositiveInt
    id: int
    name: str


class Model(Settings):
    """Required content of `model.json`; a model card may have more."""

    model_config = ConfigDict(extra="allow")
    arch: ArchText
    detector: Detector
    classes: tuple[ClassLabel, ...] = Field(min_length=1)
    bits: int = Field(16, ge=8, le=16, description="that 16-bit pictures use")
    weights_sha256: str | None = None

    @field_validator("classes")
    @classmethod
    def _are_counted(cls, classes: tuple[ClassLabel, ...]) -> tuple[ClassLabel, ...]:
        if [one.label for one in classes] != list(range(1, len(classes) + 1)) or len({one.id for one in classes}) < len(classes):
            raise ValueError("expected labels 1, 2, ... in this order, each of another id")
        return classes


def read_model(url: str) -> Model:
    """Read the `model.json` at `url`; UserError, one line, if it is invalid."""
    try:
        return Model.model_validate_json(files.local_file(url).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or MODEL_FILE
        raise UserError(f"{url}: {place}: {first['msg'].removeprefix('Value error, ')}") from error


def norm_epsilon(url: str, arrays: dict[str, npt.NDArray[Any]]) -> float | None:
    """Epsilon of the norms in the training of the checkpoint at `url`, which holds `arrays`; None if unknown.

    Torchvision's tensors may show it (`trained_epsilon`); for this program's, it is in a `model.json` beside the file.
    """
    if from_torchvision(arrays):
        return trained_epsilon({name: array.shape for name, array in arrays.items()})
    system, path = files.open_url(url)
    folder, name = posixpath.split(path)
    if name != WEIGHTS_FILE or MODEL_FILE not in files.list_folder(system, folder):
        return None
    return read_model(files.url_of(system, f"{folder}/{MODEL_FILE}")).detector.norm_epsilon


def open_model_folder(model: str) -> tuple[Model, dict[str, npt.NDArray[np.float32]]]:
    """Read the model folder at a path or URL: its `model.json`, and its weights by name.

    UserError, one line, if it is no model folder, or if a file does not match the manifest beside it or `model.json` itself.
    """
    system, root = files.open_url(model)
    where, there = files.url_of(system, root), files.list_folder(system, root)
    if missing := {MODEL_FILE, WEIGHTS_FILE} - there.keys():
        raise UserError(f"model {model}: expected a folder with {MODEL_FILE} and {WEIGHTS_FILE}, got none with {min(missing)}")
    paths = {name: files.local_file(f"{where}/{name}") for name in (MODEL_FILE, WEIGHTS_FILE)}
    if MANIFEST_FILE in there:
        manifest = _read_manifest(f"{where}/{MANIFEST_FILE}")
        for name, path in paths.items():
            _check_sha256(path, f"{where}/{name}", manifest.files[name].sha256 if name in manifest.files else None, MANIFEST_FILE)
    found = read_model(f"{where}/{MODEL_FILE}")
    if found.weights_sha256:
        _check_sha256(paths[WEIGHTS_FILE], f"{where}/{WEIGHTS_FILE}", found.weights_sha256, MODEL_FILE)
    try:
        return found, load_file(paths[WEIGHTS_FILE])
    except SafetensorError as error:
        raise UserError(f"{where}/{WEIGHTS_FILE}: expected a .safetensors file, got: {error}") from error


def read_scores(model: str) -> dict[str, Any]:
    """Metrics by split, from a training's manifest beside the model; empty without a manifest."""
    system, root = files.open_url(model)
    if MANIFEST_FILE not in files.list_folder(system, root):
        return {}
    manifest = _read_manifest(f"{files.url_of(system, root)}/{MANIFEST_FILE}")
    return {manifest.job["data"]["val"]: manifest.metrics} if manifest.kind == "train" else {}


def _read_manifest(url: str) -> Manifest:
    try:
        return Manifest.model_validate_json(files.local_file(url).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{url}: expected the manifest of an artifact, got: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _check_sha256(path: Path, url: str, expected: str | None, by: str) -> None:
    if (got := sha256_file(path)) != expected:
        raise UserError(f"{url}: expected the sha256 that {by} says, {expected or 'none'}, got {got}")
