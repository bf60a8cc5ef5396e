"""Checkpoint files, from which a training can start: torchvision's (`.pth`, `.safetensors`) or this program's."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from spnas_core.arch import Arch
from spnas_core.data.files import local_file
from spnas_core.errors import UserError
from spnas_core.weights.torch_file import decode_state, is_torch_file, read_torch
from spnas_core.weights.torchvision_names import from_torchvision, to_spnas

_TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bf16", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
_PARALLEL = "module."  # prefix of every name in a net wrapped for several devices (torch's DataParallel)


def open_checkpoint(url: str) -> Path:
    """Local path of the file; UserError if it does not exist."""
    path = local_file(url)
    if not path.is_file():
        raise UserError(f"checkpoint {url}: expected a file, found none")
    return path


def read_checkpoint(path: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """Arrays by their names in the file, half and bfloat16 as float32; UserError, which names the file `name`, for any other file."""
    if is_torch_file(path):
        arrays = read_torch(path, name)
    else:
        try:
            arrays = _read_safetensors(path, name)
        except SafetensorError as error:
            raise UserError(f"checkpoint {name}: expected a file of torch.save or a .safetensors file, got: {error}") from error
    wrapped = all(one.startswith(_PARALLEL) for one in arrays)
    return {one.removeprefix(_PARALLEL): array for one, array in arrays.items()} if wrapped else arrays


def _read_safetensors(path: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    for key, tensor in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
        if tensor["dtype"] not in _TYPES:
            raise UserError(f"checkpoint {name}: expected tensors of {', '.join(_TYPES)}, got {tensor['dtype']} in {key!r}")
        arrays[key] = decode_state(tensor["data"], _TYPES[tensor["dtype"]], "<").reshape(tensor["shape"])
    return arrays


def our_weights(arch: Arch, arrays: dict[str, npt.NDArray[Any]], name: str) -> dict[str, npt.NDArray[np.float32]]:
    """Rename arrays to this program's names, without counters of batches; UserError if `arch` has no place for one."""
    if not from_torchvision(arrays):
        return arrays
    try:
        names = to_spnas(arch, arrays)
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from error
    return {ours: arrays[theirs] for theirs, ours in names.items()}
