"""Files as torch.save writes them, made without torch: pickles put together by hand, in both formats."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spnas_core.weights.torch_file import LEGACY_START

TYPES = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char", "u1": "Byte", "b1": "Bool"}
EMPTY = b"ccollections\nOrderedDict\n)R"


def value(thing: Any) -> bytes:
    """Opcodes of a plain value."""
    return pickle.dumps(thing, 2)[2:-1]


def call(name: str, *arguments: bytes) -> bytes:
    """Opcodes that call ``module.name``."""
    module, function = name.rsplit(".", 1)
    return b"c" + f"{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def dictionary(items: Mapping[str, bytes], start: bytes = EMPTY) -> bytes:
    """Opcodes of a dictionary whose values are opcodes."""
    return start + b"(" + b"".join(value(key) + item for key, item in items.items()) + b"u"


def storage(kind: str, key: str, count: int, *view: bytes) -> bytes:
    """Opcodes of a storage."""
    return b"(" + value("storage") + f"ctorch\n{kind}Storage\n".encode() + value(key) + value("cpu") + value(count) + b"".join(view) + b"tQ"


def tensor(place: bytes, offset: Any, shape: Any, strides: Any) -> bytes:
    """Opcodes of a tensor."""
    return call("torch._utils._rebuild_tensor_v2", place, value(offset), value(shape), value(strides), value(False), EMPTY)


def state(arrays: Mapping[str, np.ndarray], view: tuple[bytes, ...] = ()) -> tuple[bytes, dict[str, bytes]]:
    """Opcodes of a state_dict with its versions, and the bytes of its storages by key."""
    items, data = {}, {}
    for number, (name, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in np.empty(array.shape, array.dtype).strides)
        place = storage(TYPES[array.dtype.str[1:]], str(number), array.size, *view)
        items[name] = tensor(place, 0, array.shape, strides)
        data[str(number)] = array.tobytes()
    return dictionary(items) + value({"_metadata": {"version": 1}}) + b"b", data


def write_zip(path: Path, code: bytes, data: Mapping[str, bytes], **options: Any) -> Path:
    """Write a file of the zip format."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + code + b".")
        for key, raw in data.items():
            archive.writestr(f"x/data/{key}", raw)
    return path


def write_legacy(path: Path, code: bytes, data: Mapping[str, bytes], sizes: Mapping[str, int]) -> Path:
    """Write a file of the format before torch 1.6; `sizes` are the numbers of elements."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    pickles = pickle.dumps(1001, 2) + pickle.dumps(system, 2) + b"\x80\x02" + code + b"." + pickle.dumps(list(data), 2)
    path.write_bytes(LEGACY_START + pickles + b"".join(sizes[key].to_bytes(8, "little") + raw for key, raw in data.items()))
    return path


def save(path: Path, arrays: Mapping[str, np.ndarray], legacy: bool = False) -> Path:
    """Write arrays as torch.save writes a state_dict."""
    code, data = state(arrays, (b"N",) if legacy else ())
    if not legacy:
        return write_zip(path, code, data)
    return write_legacy(path, code, data, {str(number): array.size for number, array in enumerate(arrays.values())})
