"""Files of torch.save: real ones, hand-made ones, hostile ones."""

import contextlib
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_core.errors import UserError
from spnas_core.weights.torch_file import LEGACY_START, is_torch_file, read_torch

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
golden = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no golden values at {GOLDEN}")
LENGTH = {"FloatStorage": 4, "LongStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2}


class Name:
    """A name in a pickle, written as the global that it names."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """A call in a pickle."""

    def __init__(self, function: Name, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


class Stored:
    """A storage in a pickle."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        self.pid = ("storage", Name("torch", kind), key, "cpu", count)


class Writer(pickle._Pickler):
    """Writes what torch.save writes, without torch."""

    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, Stored) else None

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(b"R")
        else:
            super().save(obj, save_persistent_id)


def pickled(value: Any) -> bytes:
    file = io.BytesIO()
    Writer(file, 2).dump(value)
    return file.getvalue()


def tensor(kind: str, key: str, count: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Call:
    hooks = Call(Name("collections", "OrderedDict"))
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), Stored(kind, key, count), offset, shape, strides, False, hooks)


def write_zip(path: Path, value: Any, storages: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", pickled(value))
        archive.writestr("net/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"net/data/{key}", content)
    return path


def write_legacy(path: Path, value: Any, storages: dict[str, tuple[str, bytes]]) -> Path:
    with path.open("wb") as file:
        file.write(LEGACY_START + pickled(1001) + pickled({"protocol_version": 1001, "little_endian": True}) + pickled(value))
        file.write(pickled(sorted(storages)))
        for key in sorted(storages):
            kind, content = storages[key]
            file.write(struct.pack("<q", len(content) // LENGTH[kind]) + content)
    return path


VALUES = np.arange(12, dtype="<f4")
NET = {
    "whole": tensor("FloatStorage", "0", 12, (3, 4), (4, 1)),
    "transposed": tensor("FloatStorage", "0", 12, (4, 3), (1, 4)),
    "part": tensor("FloatStorage", "0", 12, (2,), (5,), 3),
    "scalar": tensor("LongStorage", "1", 1, (), ()),
    "empty": tensor("FloatStorage", "0", 12, (0, 7), (7, 1)),
    "half": tensor("HalfStorage", "2", 2, (2,), (1,)),
    "brain": tensor("BFloat16Storage", "3", 2, (2,), (1,)),
    "parameter": Call(Name("torch._utils", "_rebuild_parameter"), tensor("FloatStorage", "0", 12, (2,), (1,)), True, None),
}
STORED = {
    "0": ("FloatStorage", VALUES.tobytes()),
    "1": ("LongStorage", np.array([1 << 40], "<i8").tobytes()),
    "2": ("HalfStorage", np.array([0.1, 65504], "<f2").tobytes()),
    "3": ("BFloat16Storage", (np.array([-2.5, 3e38], "<f4").view("<u4") >> 16).astype("<u2").tobytes()),
}
EXPECTED = {
    "whole": VALUES.reshape(3, 4),
    "transposed": VALUES.reshape(3, 4).T,
    "part": VALUES[[3, 8]],
    "scalar": np.array(1 << 40),
    "empty": np.zeros((0, 7), np.float32),
    "half": np.array([0.1, 65504], np.float16).astype(np.float32),
    "brain": (np.array([-2.5, 3e38], np.float32).view(np.uint32) >> 16 << 16).view(np.float32),
    "parameter": VALUES[:2],
}
SHELL = Call(Name("posix", "system"), "echo executed > EXECUTED")


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name
        assert array.tobytes() == np.ascontiguousarray(expected[name]).tobytes(), name


def write(path: Path, kind: str, value: Any = None) -> Path:
    value = NET if value is None else value
    if kind == "zip":
        return write_zip(path, value, {key: content for key, (_, content) in STORED.items()})
    return write_legacy(path, value, STORED)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: {"model": net, "epoch": 3}, lambda net: {"epoch": 1, "state_dict": net}])
def test_what_torch_writes(tmp_path: Path, kind: str, wrap: Callable[[Any], Any]) -> None:
    path = write(tmp_path / "net.pth", kind, wrap(NET))
    assert is_torch_file(path)
    same(read_torch(path, "net.pth"), EXPECTED)


@golden
@pytest.mark.parametrize("name", ["tiny.pth", "tiny_legacy.pth", "tiny_nested.pth"])
def test_what_torch_wrote(name: str) -> None:
    with np.load(GOLDEN / "tiny_expected.npz") as expected:
        same(read_torch(GOLDEN / name, name), dict(expected))


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("value", [{"a": SHELL}, {"model": NET, "more": [SHELL]}, SHELL])
def test_a_call_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, value: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"checkpoint evil\.pth: it wants to call posix\.system, .*; nothing of it was run"):
        read_torch(write(tmp_path / "evil.pth", kind, value), "evil.pth")
    assert not (tmp_path / "EXECUTED").exists()


@golden
def test_the_hostile_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"it wants to call posix\.system"):
        read_torch(GOLDEN / "evil.pth", "evil.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bad",
    [
        tensor("FloatStorage", "0", 12, (13,), (1,)),
        tensor("FloatStorage", "0", 12, (3, 4), (4, 1), 1),
        tensor("FloatStorage", "0", 12, (2,), (-1,), 5),
        tensor("FloatStorage", "0", 12, (10**12,), (0,)),
        tensor("FloatStorage", "0", 12, (3, 4), (4,)),
        tensor("FloatStorage", "9", 10**15, (3,), (1,)),
        tensor("LongStorage", "0", 12, (3,), (1,)),
        Call(Name("torch._utils", "_rebuild_tensor_v2"), "no storage", 0, (1,), (1,)),
        Call(Name("torch._utils", "_rebuild_tensor_v2"), 1),
        Call(Name("torch", "FloatStorage"), 1),
    ],
)
def test_tensors_that_are_not_there(tmp_path: Path, bad: Call) -> None:
    with pytest.raises(UserError, match=r"checkpoint bad: expected a whole file of torch\.save, got: "):
        read_torch(write(tmp_path / "bad.pth", "zip", {"a": bad}), "bad")


def test_other_files(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.pth", tmp_path / "empty.pth"
    text.write_text("no checkpoint\n")
    empty.write_bytes(b"")
    packed = write_zip(tmp_path / "packed.pth", NET, {"0": b"0" * 48}, zipfile.ZIP_DEFLATED)
    for path in (text, empty, packed):
        with pytest.raises(UserError, match=r"checkpoint it: expected a whole file of torch\.save, got: "):
            read_torch(path, "it")
    assert not is_torch_file(text)
    for value, words in (([1, 2], "got list"), ({}, "got dict"), ({"a": 3}, "got 'a': int"), ({1: NET["whole"]}, "got 1: StoredTensor")):
        with pytest.raises(UserError, match=words):
            read_torch(write(tmp_path / "odd.pth", "zip", value), "odd")


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@given(data=st.data())
def test_damaged_files_are_read_rightly_or_refused(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    """Bytes changed, inserted or cut: never another exception."""
    path = write(tmp_path_factory.mktemp("torch") / "net.pth", kind)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["change", "insert", "cut"])):
            case "change":
                content[place] = data.draw(st.integers(0, 255))
            case "insert":
                content[place:place] = data.draw(st.binary(max_size=4))
            case _:
                del content[place + 1 :]
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert all(isinstance(array, np.ndarray) for array in read_torch(path, "net.pth").values())
