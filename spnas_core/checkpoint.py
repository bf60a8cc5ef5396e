"""A file of weights that a training may start from: torchvision's (`.pth`, `.safetensors`) or this program's."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from spnas_core.arch import Arch
from spnas_core.data.files import local_file
from spnas_core.errors import UserError
from spnas_core.torch_file import is_torch_file, read_torch
from spnas_core.torchvision_names import from_torchvision, to_spnas

FILE = "weights.safetensors"
_PARALLEL = "module."  # before every name of a net that was wrapped for several devices


def open_checkpoint(url: str) -> Path:
    """Path of the file's bytes on this machine; UserError where there is none."""
    path = local_file(url)
    if not path.is_file():
        raise UserError(f"checkpoint {url}: expected a file, found none")
    return path


def read_checkpoint(path: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """Arrays by the names that the file gives them; UserError, by the file's `name`, where it is neither kind of file."""
    if is_torch_file(path):
        arrays = read_torch(path, name)
    else:
        try:
            arrays = load_file(path)
        except SafetensorError as error:
            raise UserError(f"checkpoint {name}: expected a file of torch.save or a .safetensors file, got: {error}") from error
    wrapped = all(one.startswith(_PARALLEL) for one in arrays)
    return {one.removeprefix(_PARALLEL): array for one, array in arrays.items()} if wrapped else arrays


def our_weights(arch: Arch, arrays: dict[str, npt.NDArray[Any]], name: str) -> dict[str, npt.NDArray[np.float32]]:
    """Give the arrays this program's names, and leave out counters of batches; UserError where `arch` has no place for one."""
    if not from_torchvision(arrays):
        return arrays
    try:
        names = to_spnas(arch, arrays)
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from error
    return {ours: arrays[theirs] for theirs, ours in names.items()}
