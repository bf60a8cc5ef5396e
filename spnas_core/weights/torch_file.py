"""Reader of torch.save files, in the zip format and the one before torch 1.6, without torch and without executing their pickles.

    zip      NAME/data.pkl (the object), NAME/data/KEY (bytes of a storage), NAME/byteorder
    legacy   pickles of a magic number, a version, the system, the object and the keys; then for each key its count (int64) and its bytes

Source: torch `serialization.py`, `_save` and `_legacy_save`.
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from spnas_core.errors import UserError
from spnas_core.weights import torch_pickle
from spnas_core.weights.peeling import TensorShapes, find_net
from spnas_core.weights.tensor_names import Arrays
from spnas_core.weights.torch_values import StoredTensor, TensorStorage

ZIP_START = b"PK\x03\x04"
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # the pickled magic number
DEEPEST, LONGEST = 4, 1000  # dictionaries in each other, and characters of a key, that tensors are taken from
Choice = Callable[[TensorShapes], Mapping[str, str]]  # names in a file of the tensors to read, by the names that they get
_DAMAGES = (EOFError, OSError, RuntimeError, ValueError, LookupError, TypeError, OverflowError, struct.error, zlib.error)


def is_torch_file(path: Path) -> bool:
    """Whether the file starts like one of `torch.save`."""
    with path.open("rb") as file:
        return file.read(len(LEGACY_START)).startswith((ZIP_START, LEGACY_START))


def whole_net(shapes: TensorShapes) -> dict[str, str]:
    """Choose the net of a file (see `peeling`)."""
    return find_net(shapes).names


def read_torch(path: Path, name: str, choose: Choice = whole_net) -> Arrays:
    """Tensors of a state dict, also of a nested one, by the names that `choose` gives them; half and bfloat16 become float32.

    Arrays are read-only and may share memory where the tensors did. UserError, with the file's `name`, for a truncated file or another
    format, for a tensor outside of its storage, and for a pickle that names anything but tensors and plain containers.
    """
    try:
        with path.open("rb") as file:
            return _read_zip(file, choose) if file.read(len(ZIP_START)) == ZIP_START else _read_legacy(file, choose)
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"checkpoint {name}: expected a whole file of torch.save, got one that is cut off or damaged: {error}") from error
    except _DAMAGES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"checkpoint {name}: expected a whole file of torch.save, got: {reason[:200]}") from error


def _read_zip(file: IO[bytes], choose: Choice) -> Arrays:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"a zip with {len(pickles)} files NAME/data.pkl, expected one")
        top = pickles[0].removesuffix("data.pkl")

        def read(name: str) -> bytes:
            if entries[name].compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name!r}, which is compressed")
            return archive.read(name)

        order = ">" if f"{top}byteorder" in entries and read(f"{top}byteorder") == b"big" else "<"
        value, _ = torch_pickle.unpickle(io.BytesIO(read(pickles[0])))

        def fetch(storage: TensorStorage) -> bytes:
            return read(f"{top}data/{storage.key}")

        return _arrays(_state(value, choose), fetch, order, _length(file))


def _read_legacy(file: IO[bytes], choose: Choice) -> Arrays:
    file.seek(0)
    stream = io.BytesIO(file.read())
    if stream.read(len(LEGACY_START)) != LEGACY_START:
        raise ValueError("a file that does not begin as one")
    for _ in ("version", "system"):
        torch_pickle.unpickle(stream)
    value, storages = torch_pickle.unpickle(stream)
    keys, _ = torch_pickle.unpickle(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("keys of storages that no tensor has")
    places = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        if count != storages[key].elements:
            raise ValueError(f"storage {key!r} of {count} elements, expected {storages[key].elements}")
        places[key] = stream.tell()
        stream.seek(count * _size(storages[key].dtype), os.SEEK_CUR)

    def fetch(storage: TensorStorage) -> bytes:
        stream.seek(places[storage.key])
        return stream.read(storage.elements * _size(storage.dtype))

    return _arrays(_state(value, choose), fetch, "<", _length(file))


def _state(value: Any, choose: Choice) -> dict[str, StoredTensor]:
    """Return the chosen ones of the tensors that `value` contains, with the keys of nested dictionaries before their names."""
    if not isinstance(value, dict) or not value:
        raise UserError(f"expected a dictionary of tensors, got {type(value).__name__}, empty or none")
    found = _tensors_below(value)
    if not found:
        key, other = next(iter(value.items()))
        raise UserError(f"expected tensors by name, got {key!r:.100}: {type(other).__name__}")
    names = choose({name: tensor.shape for name, tensor in found.items()})
    return {own: found[name] for own, name in names.items()}


def _tensors_below(value: dict[Any, Any]) -> dict[str, StoredTensor]:
    """Tensors by their paths of text keys; each dictionary is looked at once, so that one that shares its parts costs no more."""
    found: dict[str, StoredTensor] = {}
    seen, level = {id(value)}, [("", value)]
    for _ in range(DEEPEST):
        inner: list[tuple[str, dict[Any, Any]]] = []
        for path, state in level:
            for key, one in state.items():
                if not isinstance(key, str) or len(key) > LONGEST:
                    continue
                if isinstance(one, StoredTensor):
                    found.setdefault(path + key, one)
                elif isinstance(one, dict) and id(one) not in seen:
                    seen.add(id(one))
                    inner.append((f"{path}{key}.", one))
        level = inner
    return found


def _arrays(tensors: dict[str, StoredTensor], fetch: Callable[[TensorStorage], bytes], order: str, length: int) -> Arrays:
    """Arrays as views of the tensors' storages, each read once; together the storages may not exceed the file's `length`, bytes."""
    memory: dict[str, npt.NDArray[Any]] = {}
    left = length
    for tensor in tensors.values():
        storage = tensor.storage
        if storage.key in memory or not storage.elements:
            continue
        expected = storage.elements * _size(storage.dtype)
        left -= expected
        if left < 0:
            raise ValueError(f"storages longer than the file, which has {length} bytes")
        raw = fetch(storage)
        if len(raw) != expected:
            raise ValueError(f"storage {storage.key!r} of {len(raw)} bytes, expected {expected}")
        memory[storage.key] = decode_state(raw, storage.dtype, order)
    return {name: _view(tensor, memory.get(tensor.storage.key)) for name, tensor in tensors.items()}


def _view(tensor: StoredTensor, memory: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if memory is None or 0 in tensor.shape:
        return np.empty(tensor.shape, decode_state(b"", tensor.storage.dtype, "<").dtype)
    size = memory.itemsize
    strides = tuple(stride * size for stride in tensor.strides)
    return np.ndarray(tensor.shape, memory.dtype, memory, tensor.offset * size, strides)


def decode_state(raw: bytes, dtype: str, order: str) -> npt.NDArray[Any]:
    """Elements in the machine's own byte order; bfloat16 is the upper half of a float32."""
    if dtype == "bf16":
        return (np.frombuffer(raw, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    array = np.frombuffer(raw, order + dtype)
    return array.astype(np.float32 if dtype == "f2" else array.dtype.newbyteorder("="), copy=False)


def _size(dtype: str) -> int:
    return 2 if dtype == "bf16" else np.dtype(dtype).itemsize


def _length(file: IO[bytes]) -> int:
    return file.seek(0, os.SEEK_END)
