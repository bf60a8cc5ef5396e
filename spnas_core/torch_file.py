"""Files of `torch.save`, zip and legacy format (before PyTorch 1.6), as arrays; PyTorch is not needed and nothing in the file is run.

Source: PyTorch `torch/serialization.py` (_load and _legacy_load).
"""

import io
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

from spnas_core.errors import UserError
from spnas_core.torch_pickle import Array, Inert, Storage, StoredTensor, Unpickler

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the legacy format
ZIP_START = b"PK\x03\x04"
LEGACY_START = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
NESTED = ("model", "state_dict")


def is_torch_file(path: Path) -> bool:
    """Whether the file begins as one of `torch.save`."""
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
    return start.startswith((ZIP_START, LEGACY_START))


def read_torch(path: Path, name: str) -> dict[str, Array]:
    """Tensors of a state dict by name, also of one nested under ``model`` or ``state_dict``; half and bfloat16 become float32.

    UserError, by the file's `name`, for a file that is cut off or is none, for a tensor outside of its storage, and for a pickle that
    names anything but tensors.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(len(ZIP_START)) == ZIP_START
        found = _read_zip(path) if zipped else _read_legacy(path)
        return {key: tensor.array() for key, tensor in _state_dict(found).items()}
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"checkpoint {name}: expected a whole file of torch.save, got one that is cut off or damaged: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"checkpoint {name}: expected a whole file of torch.save, got: {reason[:200]}") from error


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        (main,) = (one for one in members if one.endswith("data.pkl") and one.count("/") <= 1)
        root = main.removesuffix("data.pkl")
        packed = [one for one, member in members.items() if member.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"{packed[0]} is compressed")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("numbers that are not little-endian")
        storages: dict[str, Storage] = {}
        found = Unpickler(io.BytesIO(archive.read(main)), storages).load()
        for key, storage in storages.items():
            storage.fill(archive.read(f"{root}data/{key}"))
        return found


def _read_legacy(path: Path) -> Any:
    storages: dict[str, Storage] = {}
    with path.open("rb") as file:
        magic, protocol, system = (Unpickler(file, {}).load() for _ in range(3))
        if magic != MAGIC or protocol != PROTOCOL or not system["little_endian"]:
            raise ValueError(f"magic number {magic}, protocol {protocol}")
        found = Unpickler(file, storages).load()
        for key in Unpickler(file, {}).load():
            storage = storages[key]
            (count,) = struct.unpack("<q", _exactly(file, 8))
            if count != storage.count:
                raise ValueError(f"storage {key} of {count} elements, expected {storage.count}")
            storage.fill(_exactly(file, count * storage.dtype.itemsize))
    return found


def _exactly(file: IO[bytes], count: int) -> bytes:
    left = Path(file.name).stat().st_size - file.tell()
    if count > left:
        raise ValueError(f"the file ends {count - left} bytes too early")
    return file.read(count)


def _state_dict(found: Any) -> dict[str, StoredTensor]:
    for key in NESTED:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found:
        raise UserError(f"expected a dictionary of tensors, got {type(found).__name__ if not isinstance(found, Inert) else 'an empty one'}")
    for key, value in found.items():
        if not (isinstance(key, str) and isinstance(value, StoredTensor)):
            raise UserError(f"expected tensors by name, got {key!r}: {type(value).__name__}")
    return dict(found)
