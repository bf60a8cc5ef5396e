"""Checkpoint files, from which a training can start: torchvision's (`.pth`, `.safetensors`) or this program's."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from spnas_core.arch import Arch
from spnas_core.data.files import local_file
from spnas_core.errors import UserError
from spnas_core.settings.detector import Detector
from spnas_core.weights.adopt import Audit, match_weights
from spnas_core.weights.model_folder import norm_epsilon
from spnas_core.weights.peeling import NetNames, TensorShapes, find_net
from spnas_core.weights.tensor_names import Arrays, part_of
from spnas_core.weights.torch_file import decode_state, is_torch_file, read_torch
from spnas_core.weights.torchvision_names import from_torchvision, to_spnas

_TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bf16", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


class FileNet(NamedTuple):
    """Tensors of the net in a file, under its own names; `peeled` says what was taken off the names, or left out (see `peeling`)."""

    arrays: Arrays
    peeled: str = ""


class Start(NamedTuple):
    """Start of a net: weights of a checkpoint under this program's names, those of them that each tensor takes, and the audit."""

    weights: Arrays
    copied: dict[str, str]
    audit: Audit


def open_checkpoint(url: str) -> Path:
    """Local path of the file; UserError if it does not exist."""
    path = local_file(url)
    if not path.is_file():
        raise UserError(f"checkpoint {url}: expected a file, found none")
    return path


def read_checkpoint(path: Path, name: str, arch: Arch | None = None) -> FileNet:
    """Read the net in a file, half and bfloat16 as float32; of several nets one that is `arch`, where any is.

    UserError, which names the file `name`, for any other file, and for nets that nothing tells apart.
    """
    told: list[str] = []

    def choose(shapes: TensorShapes) -> dict[str, str]:
        net: NetNames = find_net(shapes, arch)
        told.append(net.peeled)
        return net.names

    if is_torch_file(path):
        arrays = read_torch(path, name, choose)
        return FileNet(arrays, told[0])
    try:
        tensors = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise UserError(f"checkpoint {name}: expected a file of torch.save or a .safetensors file, got: {error}") from error
    try:
        names = choose({key: tuple(tensor["shape"]) for key, tensor in tensors.items()})
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from error
    return FileNet({own: _array(tensors[key], key, name) for own, key in names.items()}, told[0])


def _array(tensor: Any, key: str, name: str) -> npt.NDArray[Any]:
    if tensor["dtype"] not in _TYPES:
        raise UserError(f"checkpoint {name}: expected tensors of {', '.join(_TYPES)}, got {tensor['dtype']} in {key!r}")
    return decode_state(tensor["data"], _TYPES[tensor["dtype"]], "<").reshape(tensor["shape"])


def our_weights(arch: Arch, arrays: Arrays, name: str) -> dict[str, npt.NDArray[np.float32]]:
    """Rename arrays to this program's names, without counters of batches; UserError for one without a place in `arch`, or for no net."""
    if not from_torchvision(arrays):
        check_names(arrays, name)
        return arrays
    try:
        names = to_spnas(arch, arrays)
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from error
    return {ours: arrays[theirs] for theirs, ours in names.items()}


def check_names(arrays: Arrays, name: str) -> None:
    """Raise UserError for tensors of a net that is neither torchvision's nor this program's."""
    if not from_torchvision(arrays) and not any(map(part_of, arrays)):
        first = f", such as {min(arrays)!r}" if arrays else ""
        expected = "a ResNet or Faster R-CNN with torchvision's names, or weights of spnas, below any prefix"
        raise UserError(f"checkpoint {name}: expected {expected}, got {len(arrays)} other tensors{first}")


def start_from_file(url: str, arch: Arch, detector: Detector, fresh: Arrays, coverage: float) -> Start:
    """Compare the checkpoint at `url` with the net that has the tensors `fresh`, as a training does that starts from it.

    UserError, one line, for a file that is no checkpoint, for tensors that do not fit the net, for frozen norms that were trained with
    another epsilon, and for less than the share `coverage` of the net's parameters. Of `fresh`, only shapes and types are read.
    """
    arrays, peeled = read_checkpoint(open_checkpoint(url), url, arch)
    epsilon = norm_epsilon(url, arrays)
    if detector.norm == "frozen" and epsilon not in (None, detector.norm_epsilon):
        expected = f"expected detector.norm_epsilon={epsilon}, with which its norms were trained"
        raise UserError(f"checkpoint {url}: {expected}, got {detector.norm_epsilon}")
    weights = our_weights(arch, arrays, url)
    try:
        copied, audit = match_weights(fresh, weights)
    except UserError as error:
        raise UserError(f"checkpoint {url}: {error}") from error
    if audit.share < coverage:
        least = f"expected at least {coverage:.0%} (checkpoint_coverage)"
        raise UserError(f"checkpoint {url}: {least} of the net's parameters, got {audit.share:.1%}: {audit.copied_params:,}")
    return Start(weights, copied, replace(audit, peeled=peeled))
