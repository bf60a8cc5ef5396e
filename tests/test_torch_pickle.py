"""Pickles inside files of torch.save, put together opcode by opcode: what must be read, and what must be refused in one line, unharmed."""

import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch_files import EMPTY, call, dictionary, save, state, storage, tensor, value, write_legacy, write_zip

from spnas_core.errors import UserError
from spnas_core.weights.torch_file import read_torch

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
SOME = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7,
    "scale": np.float64(1.5).reshape(()),
    "count": np.array(7, np.int64),
    "half": np.linspace(-2, 2, 5, dtype=np.float16),
    "mask": np.array([True, False, True]),
    "bytes": np.arange(4, dtype=np.uint8),
    "none": np.empty((0, 4), np.float32),
}
FOUR = {"0": np.arange(4, dtype=np.float32).tobytes()}


def problem(path: Path) -> str:
    """The one line that a faulty file gives."""
    with pytest.raises(UserError) as caught:
        read_torch(path, "the file")
    text = str(caught.value)
    assert text.startswith("checkpoint the file: ")
    assert "\n" not in text
    assert len(text) < 600
    return text


def one(path: Path, item: bytes, data: dict[str, bytes] = FOUR) -> Path:
    """A zip file with one thing in its dictionary."""
    return write_zip(path, dictionary({"a": item}), data)


@pytest.mark.parametrize("legacy", [False, True])
def test_every_type_bit_for_bit(legacy: bool, tmp_path: Path) -> None:
    found = read_torch(save(tmp_path / "a.pth", SOME, legacy), "a")
    assert found.keys() == SOME.keys()
    for name, array in SOME.items():
        expected = array.astype(np.float32) if name == "half" else array
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        assert found[name].tobytes() == expected.tobytes()


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_nested_beside_other_things(key: str, tmp_path: Path) -> None:
    code, data = state(SOME)
    options = call("argparse.Namespace") + value({"lr": 0.02}) + b"b"
    steps = call("collections.Counter", value({16: 1, 22: 1}))
    whole = dictionary({key: code, "epoch": value(3), "args": options, "lr_scheduler": dictionary({"milestones": steps}, b"}")}, b"}")
    assert read_torch(write_zip(tmp_path / "a.pth", whole, data), "a").keys() == SOME.keys()


def test_views_of_one_storage_and_a_parameter(tmp_path: Path) -> None:
    place = storage("Float", "0", 4)
    items = {
        "turned": tensor(place, 0, (2, 2), (1, 2)),
        "last": tensor(place, 2, (2,), (1,)),
        "parameter": call("torch._utils._rebuild_parameter", tensor(place, 0, (4,), (1,)), value(True), EMPTY),
        "old": call("torch.nn.parameter.Parameter", call("torch._utils._rebuild_tensor", place, value(1), value((1,)), value((1,)))),
    }
    found = read_torch(write_zip(tmp_path / "a.pth", dictionary(items), FOUR), "a")
    expected = {"turned": [[0, 2], [1, 3]], "last": [2, 3], "parameter": [0, 1, 2, 3], "old": [1]}
    assert {name: array.tolist() for name, array in found.items()} == expected


def test_bfloat16_is_exact(tmp_path: Path) -> None:
    raw = np.array([1.0, -2.5, 1e38], np.float32).view(np.uint32) >> 16
    path = one(tmp_path / "a.pth", tensor(storage("BFloat16", "0", 3), 0, (3,), (1,)), {"0": raw.astype("<u2").tobytes()})
    assert (read_torch(path, "a")["a"].view(np.uint32) >> 16).tolist() == raw.tolist()


def test_the_byte_order_of_the_file(tmp_path: Path) -> None:
    path = one(tmp_path / "a.pth", tensor(storage("Float", "0", 2), 0, (2,), (1,)), {"0": np.array([1, 2], ">f4").tobytes()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/byteorder", "big")
    found = read_torch(path, "a")["a"]
    assert found.tolist() == [1, 2]
    assert found.dtype == np.float32


def test_a_dictionary_as_python_2_wrote_it(tmp_path: Path) -> None:
    pairs = b"](](" + value("a") + tensor(storage("Float", "0", 4), 0, (4,), (1,)) + b"ee"
    found = read_torch(write_zip(tmp_path / "a.pth", call("collections.OrderedDict", pairs), FOUR), "a")
    assert found["a"].tolist() == [0, 1, 2, 3]


class Evil:
    """Something that runs a command when a pickle of it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_wants_to_call_is_refused_by_name(protocol: int, legacy: bool, tmp_path: Path) -> None:
    trace = tmp_path / "EXECUTED"
    code = pickle.dumps({"model": {}, "a": Evil(f"touch {trace}")}, protocol)
    code = code[:-1] if protocol < 2 else code[2:-1]
    path = write_legacy(tmp_path / "a.pth", code, {}, {}) if legacy else write_zip(tmp_path / "a.pth", code, {})
    assert f"it wants to call {os.system.__module__}.system, " in problem(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (b"cbuiltins\neval\n", "builtins.eval"),
        (value("numpy") + value("load") + b"\x93", "numpy.load"),
        (b"(" + value("echo") + b"iposix\nsystem\n", "posix.system"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n", "__globals__"),
        (b"c__main__\nx\x1b[31m\n", r"\x1b"),
        (b"\x82\x01", "EXT1"),
        (b"ccollections\nOrderedDict\n)}\x92", "NEWOBJ_EX"),
    ],
)
def test_names_and_opcodes_that_are_not_known(code: bytes, words: str, tmp_path: Path) -> None:
    assert words in problem(write_zip(tmp_path / "a.pth", code, {}))


PLACE = storage("Float", "0", 4)
HUGE = 1 << 40


@pytest.mark.parametrize(
    "item",
    [
        tensor(PLACE, 0, (5,), (1,)),
        tensor(PLACE, 1, (4,), (1,)),
        tensor(PLACE, 0, (2, 2), (3, 1)),
        tensor(PLACE, -1, (1,), (1,)),
        tensor(PLACE, 0, (2,), (-1,)),
        tensor(PLACE, 0, (-2,), (1,)),
        tensor(PLACE, 0, (HUGE,), (0,)),
        tensor(PLACE, HUGE, (1,), (1,)),
        tensor(PLACE, 0, (2,), (1, 1)),
        tensor(PLACE, 0, [4], [1]),
        tensor(PLACE, 0, (1.5,), (1,)),
        tensor(PLACE, 0, (1,) * 40, (1,) * 40),
        tensor(PLACE, 1 << 4000, (1,), (1,)),
        tensor(value("x"), 0, (1,), (1,)),
        tensor(storage("Float", "0", HUGE), 0, (4,), (1,)),
        tensor(storage("Float", "0", 3), 0, (3,), (1,)),
        tensor(storage("Float", "0", -4), 0, (0,), (1,)),
        tensor(storage("Float", "../data.pkl", 4), 0, (4,), (1,)),
        tensor(storage("Float", "0", 4, value(("0", 0, 2))), 0, (2,), (1,)),
        tensor(storage("Quaternion", "0", 4), 0, (4,), (1,)),
        tensor(storage("Float", "0", 0), 0, (0, 1 << 47, 1 << 47), (1, 1, 1)),
        call("torch._utils._rebuild_tensor_v2"),
        call("torch._utils._rebuild_parameter", value(3)),
        call("torch.Size", b"](" + b"K\x01" * 100 + b"e"),
        call("torch.FloatStorage", value(3)),
        call("collections.OrderedDict", value([1, 2])),
        value("storage") + b"Q",
        b"ctorch\nFloatStorage\n",
        value([1, 2]) + value({"append": 1}) + b"b",
        value(1) + value({"__class__": 1}) + b"b",
    ],
)
def test_what_is_no_tensor_inside_its_storage(item: bytes, tmp_path: Path) -> None:
    problem(one(tmp_path / "a.pth", item))


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b"0",
        b"}",
        b")]a",
        b"N\x8d",
        b"t",
        b"h\x05",
        b"j\xff\xff\xff\xff",
        b"r\xff\xff\xff\xff",
        b"}}}s",
        b"})" + b"\x85" * 20_000 + b"Ns",
        b")" + b"".join(b"q\x00h\x00\x86" for _ in range(200)) + b"q\x01}h\x01Ns",
        b"\x8b\xff\xff\xff\x7f",
        b"\x8e" + b"\xff" * 8,
        b"I" + b"9" * 5000 + b"\n",
        b"S'\\ '\n",
        b"}(I" + b"9" * 4000 + b"\nNu",
        dictionary({"a": PLACE}),
        dictionary({"a": value("text")}),
        value([1]),
        value({1: 2}),
        value({"model": {}}),
    ],
)
def test_pickles_that_make_no_sense(code: bytes, tmp_path: Path) -> None:
    problem(write_zip(tmp_path / "a.pth", code, FOUR))
    problem(write_legacy(tmp_path / "b.pth", code, FOUR, {"0": 4}))


def test_two_storages_of_one_key(tmp_path: Path) -> None:
    items = {"a": tensor(PLACE, 0, (4,), (1,)), "b": tensor(storage("Float", "0", 8), 0, (8,), (1,))}
    assert "two storages" in problem(write_zip(tmp_path / "a.pth", dictionary(items), FOUR))


def test_a_compressed_zip_and_one_of_something_else(tmp_path: Path) -> None:
    code, data = state({"a": np.zeros(1000, np.float32)})
    assert "compressed" in problem(write_zip(tmp_path / "a.pth", code, data, compression=zipfile.ZIP_DEFLATED))
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    assert "data.pkl" in problem(tmp_path / "b.npz")


def test_a_folder_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in problem(tmp_path / "nowhere.pth")
    assert "a directory" in problem(tmp_path)


def test_nothing_changes_a_tensor_or_a_function_after_it_was_checked(tmp_path: Path) -> None:
    inside = tensor(PLACE, 0, (4,), (1,)) + value({"shape": (1 << 28,), "strides": (1,)}) + b"b"
    name, changes = b"_rebuild_tensor_v2\n", value((None, {"__defaults__": (1, 2)})) + b"b"
    code = dictionary({"a": inside, "b": tensor(PLACE, 2, (2,), (1,)).replace(name, name + changes)})
    found = read_torch(write_zip(tmp_path / "a.pth", code, FOUR), "a")
    assert {name: array.tolist() for name, array in found.items()} == {"a": [0, 1, 2, 3], "b": [2, 3]}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_is_cut_off_anywhere(legacy: bool, tmp_path: Path) -> None:
    whole = save(tmp_path / "a.pth", SOME, legacy).read_bytes()
    for end in range(0, len(whole) - 1, 13):
        (tmp_path / "cut.pth").write_bytes(whole[:end])
        problem(tmp_path / "cut.pth")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Files to spoil: ours, and the golden ones where they are."""
    folder = tmp_path_factory.mktemp("originals")
    ours = [save(folder / f"{legacy}.pth", SOME, legacy).read_bytes() for legacy in (False, True)]
    return ours + [(GOLDEN / f"{name}.pth").read_bytes() for name in ("tiny", "tiny_legacy") if (GOLDEN / f"{name}.pth").exists()]


@given(data=st.data())
def test_spoilt_bytes_give_arrays_or_one_line(
    data: st.DataObject, originals: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    original = originals[data.draw(st.integers(0, len(originals) - 1))]
    spoilt = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(spoilt) - 1))
        spoilt[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.getbasetemp() / "spoilt.pth"
    path.write_bytes(spoilt)
    lines: list[str] = []
    try:
        found = read_torch(path, "a")
    except UserError as error:
        found, lines = {}, str(error).splitlines()
    assert len(lines) <= 1
    assert sum(array.nbytes for array in found.values()) < 50 * len(original)


@given(code=st.lists(st.sampled_from([bytes([byte]) for byte in b"()]}lde012345RQbcutasqhK.Nt\x81\x85\x86\x87\x93"]), max_size=40))
def test_any_opcodes_give_one_line(code: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    place = PLACE + b"q\x000"
    problem(write_zip(tmp_path_factory.getbasetemp() / "code.pth", place.join((b"", b"".join(code))), FOUR))


def test_reading_loads_no_pickle_machinery_of_others() -> None:
    script = "import sys, spnas_core.weights.torch_file\nprint([m for m in ('torch', 'mindspore', 'torchvision') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
