"""The pickle inside a PyTorch file, read without PyTorch and without calling anything that it names.

Names that tensors need stand for functions of this module; any other name is refused. Nothing is looked up in other modules.
Source: PyTorch `torch/_utils.py` (_rebuild_tensor_v2) and `torch/serialization.py`.
"""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from spnas_core.errors import UserError

Array = npt.NDArray[Any]
# storage type -> dtype of its elements; bfloat16 is the upper half of a float32
DTYPES = {
    **{"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "<u2", "LongStorage": "<i8"},
    **{"IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1"},
}
WIDENED = ("HalfStorage", "BFloat16Storage")  # become float32


@dataclass
class Storage:
    """The numbers of one or more tensors: type, place in the file and count; `data` is filled in when they are read."""

    kind: str
    key: str
    count: int
    data: Array | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one element in the file."""
        return np.dtype(DTYPES[self.kind])

    def fill(self, content: bytes) -> None:
        """Take the elements from the file's bytes; ValueError where these are too few."""
        if len(content) < self.count * self.dtype.itemsize:
            raise ValueError(f"storage {self.key} has {len(content)} bytes, expected {self.count} elements of {self.dtype}")
        data: Array = np.frombuffer(content, self.dtype, self.count)
        if self.kind == "BFloat16Storage":
            data = (data.astype(np.uint32) << 16).view(np.float32)
        self.data = data.astype(np.float32) if self.kind in WIDENED else data


@dataclass
class StoredTensor:
    """A view of a storage: shape, strides and offset in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def check(self) -> None:
        """ValueError unless every element lies inside the storage, and none of them twice as often as there are elements."""
        numbers = (self.offset, *self.shape, *self.strides)
        whole = all(isinstance(number, int) and number >= 0 for number in numbers) and len(self.shape) == len(self.strides)
        if not (isinstance(self.storage, Storage) and whole):
            raise ValueError(f"tensor of shape {self.shape}, strides {self.strides}, offset {self.offset}")
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) and (last >= self.storage.count or math.prod(self.shape) > self.storage.count):
            raise ValueError(f"tensor of shape {self.shape} at {self.offset} is larger than its storage of {self.storage.count} elements")

    def array(self) -> Array:
        """Copy of the elements, in C order."""
        if not math.prod(self.shape) or self.storage.data is None:
            return np.zeros(self.shape, np.float32 if self.storage.kind in WIDENED else self.storage.dtype)
        data = self.storage.data
        strides = tuple(stride * data.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides).copy()


class Inert(dict[Any, Any]):
    """Any dictionary or record of the file; it keeps what it is given and does nothing."""


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_rest: Any) -> StoredTensor:
    tensor = StoredTensor(storage, offset, tuple(shape), tuple(strides))
    tensor.check()
    return tensor


def _parameter(tensor: Any, *_rest: Any) -> Any:
    return tensor


def _size(shape: Any = ()) -> tuple[Any, ...]:
    return tuple(shape)


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): Inert,
    ("argparse", "Namespace"): Inert,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}


class Unpickler(pickle._Unpickler):
    """Reads one pickle, and collects the storages that it speaks of, by key.

    It is Python's own unpickler written in Python: the one in C can be made to take all memory by a few bytes.
    """

    def __init__(self, file: IO[bytes], storages: dict[str, Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """Give this module's stand-in for a name; UserError where it has none."""
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise UserError(f"it wants to call {module}.{name}, which weights do not need; nothing of it was run")

    def persistent_load(self, pid: Any) -> Storage:
        """Give the storage that ("storage", type, key, device, count, ...) speaks of."""
        mark, kind, key, _device, count, *view = tuple(pid)
        if mark != "storage" or kind not in DTYPES or not isinstance(count, int) or count < 0 or any(view):
            raise ValueError(f"storage {key} of type {kind} with {count} elements, view {view}")
        return self.storages.setdefault(str(key), Storage(kind, str(key), count))
