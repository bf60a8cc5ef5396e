"""Meaning of the names in a pickle of torch.save: storages, tensors and plain containers; any other name is rejected.

Nothing is imported or called: "calling" a name creates a plain value, whose sizes are checked before it becomes an array.
Source: torch `_utils.py`, `serialization.py`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from spnas_core.errors import UserError

STORAGES = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "bf16",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}
_CALLED = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
    "torch.Size",
    "collections.OrderedDict",
    "collections.Counter",  # of a learning rate's milestones
    "argparse.Namespace",  # the arguments that torchvision's training scripts save beside the model
}
_DIMENSIONS, _LARGEST, _SHOWN = 32, 1 << 48, 200  # of a tensor; of a size, offset or stride; characters of a name in an error


class GlobalName(NamedTuple):
    """Known name in a pickle, ``module.name``."""

    text: str


class TensorStorage(NamedTuple):
    """Storage of the bytes of tensors: element type, key in the file, number of elements."""

    dtype: str
    key: str
    elements: int


class StoredTensor(NamedTuple):
    """Tensor as a view of a storage, offset and strides in elements; checked to be inside the storage and no larger than it."""

    storage: TensorStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def known(name: str) -> GlobalName:
    """Return ``module.name`` if it is a known name; else UserError."""
    if name not in _CALLED and name not in STORAGES:
        shown = repr(name[:_SHOWN])[1:-1]  # a name may contain any characters
        raise UserError(f"it wants to call {shown}, which weights do not need; nothing of it was run")
    return GlobalName(name)


def called(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return the value that calling `name` with `arguments` stands for; ValueError or TypeError for invalid arguments."""
    match name, arguments:
        case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", _:
            return _tensor(arguments)
        case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" | "torch.nn.parameter.Parameter", (
            StoredTensor() as tensor,
            *_,
        ):
            return tensor
        case "torch.Size", (list() | tuple() as sizes,) if len(sizes) <= _DIMENSIONS:
            return tuple(sizes)
        case "argparse.Namespace" | "collections.OrderedDict" | "collections.Counter", ():
            return {}
        case "collections.OrderedDict" | "collections.Counter", (dict() as items,):
            return items
        case "collections.OrderedDict", (list() as pairs,):  # as Python 2 wrote it
            found = put({}, [part for pair in pairs for part in _pair(pair)])
            pairs.clear()  # moved, not copied, so that a pickle cannot multiply them
            return found
    raise ValueError(f"{name} of other arguments")


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    match arguments:
        case (TensorStorage() as storage, offset, tuple() as shape, tuple() as strides, *_) if len(shape) == len(strides) <= _DIMENSIONS:
            if not all(isinstance(number, int) and 0 <= number < _LARGEST for number in (offset, *shape, *strides)):
                raise ValueError("a tensor with an offset, size or stride that is none")
            last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            if 0 not in shape and (last >= storage.elements or math.prod(shape) > storage.elements):
                raise ValueError(f"a tensor of shape {shape} and strides {strides} at {offset} in a storage of {storage.elements} elements")
            return StoredTensor(storage, offset, shape, strides)
    raise ValueError("a tensor that is none")


def put(target: dict[Any, Any], items: Sequence[Any]) -> dict[Any, Any]:
    """Put key, value, key, value, ... into a dictionary; keys are scalars, whose hash costs nothing."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | int | float | bytes | None):
            raise TypeError(f"a {type(key).__name__} as a key")
        target[key] = value
    return target


def _pair(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise TypeError("a pair that is none")
    return value


def storage_of(identity: Any) -> TensorStorage:
    """Storage of the persistent id ("storage", type, key, device, count[, None])."""
    match identity:
        case ("storage", GlobalName(kind), str(key), _, int(count), *view) if kind in STORAGES and count >= 0 and view in ([], [None]):
            return TensorStorage(STORAGES[kind], key, count)
    raise ValueError("a storage that is none")
