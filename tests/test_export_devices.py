"""`spnas export` for devices and in INT8, and `spnas eval` of what it makes, as typed.

Ascend's ATC cannot be had here: a program named `atc` stands on PATH, so what is tested is how it is found, called, and believed.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import onnx
import pytest
from command_line import spnas
from exported import COMMON, lively, write_model

from spnas_core import arch as architecture
from spnas_core.data import splits
from spnas_core.export.folder import export_model
from spnas_core.export.shipped.detect import import_openvino, open_network
from spnas_core.jobs import detection
from spnas_core.models.build import build
from spnas_core.settings.detector import Detector

pytestmark = pytest.mark.training
SETTINGS = Detector(**COMMON | {"image_size": (64, 64), "stem": "3x3"})
ATC_CALLS = [
    "--model=trunk.onnx --framework=5 --output=trunk --soc_version=Ascend310P3 --input_format=NCHW --input_shape=images:1,3,64,64",
    "--model=head0.onnx --framework=5 --output=head0 --soc_version=Ascend310P3 --input_format=ND --input_shape=regions:40,784",
]
ATC = """#!{python}
import json, pathlib, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
given = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
assert pathlib.Path(given["model"]).read_bytes()
{end}
"""
COMPILES = 'pathlib.Path(given["output"] + ".om").write_text("compiled " + given["model"])'
FAILS = 'print("ATC start working now\\n\\nATC run failed\\n  E10001: no such SoC\\nsolution: none"); sys.exit(3)'


@pytest.fixture(scope="module")
def model(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a net with random weights."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    text = "b_1111-2111"
    categories = splits.open_split(str(tiny_data), "val").categories
    weights = lively(build(architecture.parse(text), SETTINGS, len(categories)))
    return write_model(tmp_path_factory.mktemp("devices") / "model", text, SETTINGS, weights, categories)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a program `atc` that ends in a given way on PATH; what it returns reads the arguments of its calls."""

    def put(end: str) -> Any:
        calls, program = tmp_path / "calls", tmp_path / "bin" / "atc"
        program.parent.mkdir()
        program.write_text(ATC.format(python=sys.executable, calls=str(calls), end=end))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        return lambda: [" ".join(json.loads(line)) for line in calls.read_text().splitlines()]

    return put


def test_without_atc_the_graphs_and_the_command_are_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: Any
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    out = tmp_path / "out"
    status, text, error = spnas("export", model, "--format", "om", "--soc", "Ascend310P3", "--out", out)
    assert (status, error) == (0, "")
    assert text.splitlines()[-1] == "atc is not on PATH: nothing was compiled; sh atc.sh does it where CANN is installed"
    names = ["README.md", "atc.sh", "detect.py", "head0.onnx", "model.json", "parts.py", "trunk.onnx"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert "Ascend310P3" in (out / "README.md").read_text()
    calls = stand_in(COMPILES)  # later, where CANN is installed, and from any folder
    subprocess.run(["sh", str(out / "atc.sh")], check=True, cwd=tmp_path)
    assert calls() == ATC_CALLS
    assert (out / "head0.om").read_text() == "compiled head0.onnx"


def test_atc_is_run_where_it_is(model: Path, tmp_path: Path, stand_in: Any) -> None:
    calls, out = stand_in(COMPILES), tmp_path / "out"
    status, text, _ = spnas("export", model, "--format", "om", "--soc", "Ascend310P3", "--out", out, "--json")
    assert status == 0
    assert calls() == ATC_CALLS
    assert {"trunk.om", "head0.om"} < json.loads(text)["files"].keys()
    assert (out / "trunk.om").read_text() == "compiled trunk.onnx"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (FAILS, "got exit status 3: ATC run failed | E10001: no such SoC | solution: none"),
        ("", "expected trunk.om, got exit status 0: it said nothing"),
    ],
)
def test_what_atc_says_when_it_fails(end: str, words: str, model: Path, tmp_path: Path, stand_in: Any) -> None:
    calls, out = stand_in(end), tmp_path / "out"
    status, _, error = spnas("export", model, "--format", "om", "--soc", "Ascend310P3", "--out", out)
    assert (status, error.count("\n")) == (1, 1)
    assert f"atc {ATC_CALLS[0]}" in error
    assert words in error
    assert calls() == ATC_CALLS[:1]
    assert (out / "trunk.onnx").exists()  # to be compiled by hand
    assert shlex.split((out / "atc.sh").read_text().splitlines()[-1])[1:] == ATC_CALLS[1].split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--format", "om"], "--soc: expected a SoC, such as Ascend310P3, with --format om and there alone, got none"),
        (["--format", "onnx", "--soc", "Ascend310P3"], "--soc: expected a SoC, such as Ascend310P3, with --format om and there alone, got"),
        (["--format", "om", "--soc", "310P3"], "--soc: expected Ascend and what npu-smi info shows, such as Ascend310P3 or"),
        (["--format", "om", "--soc", "Ascend310P3; ls"], "got 'Ascend310P3; ls'"),
        (["--format", "openvino", "--int8", "4", "--data", "x"], "--int8: expected --format onnx, got --format openvino"),
        (["--format", "onnx", "--int8", "4"], "--int8, --data: expected a number of images and the data set that has them, got but one"),
        (["--format", "onnx", "--int8", "9", "--data", "TINY"], "--int8: expected at most 8 images, as many as the split train has, got 9"),
    ],
)
def test_a_wrong_wish_is_one_line(words: list[str], expected: str, model: Path, tiny_data: Path, tmp_path: Path) -> None:
    given = [str(tiny_data) if word == "TINY" else word for word in words]
    status, _, error = spnas("export", model, *given, "--out", tmp_path / "out")
    assert (status, error.count("\n")) == (2, 1), error
    assert expected in error
    assert not (tmp_path / "out").exists()


def test_all_forms_side_by_side(model: Path, tiny_data: Path, tmp_path: Path) -> None:
    """On data whose objects are what the net finds, so that its AP is high though its weights are random."""
    data = own_objects(model, tiny_data, tmp_path / "data")
    words = {"onnx": [], "openvino": [], "om": ["--soc", "Ascend310P3"], "int8": ["--int8", 6, "--data", tiny_data]}
    for name, more in words.items():
        form = "onnx" if name == "int8" else name
        assert spnas("export", model, "--format", form, "--out", tmp_path / name, *more)[0] == 0
    folders = [model, *(tmp_path / name for name in words)]
    status, text, error = spnas("eval", *folders, "--data", data, "--split", "val", "--json")
    assert (status, error) == (0, "")
    found = json.loads(text)["models"]
    assert [one["format"] for one in found] == ["mindspore", "onnx", "openvino", "om", "onnx-int8"]
    alone = json.loads(spnas("eval", model, "--data", data, "--split", "val", "--json")[1])
    assert alone["AP"] > 0.6
    for one in found[:4]:
        for name in ("AP", "AP50", "AR100"):
            assert one["scores"][name] == pytest.approx(alone[name], abs=0.002), (one["format"], name)
    assert 0.1 < found[4]["scores"]["AP"] < alone["AP"]
    assert found[4]["bytes"] < 0.7 * found[1]["bytes"]
    assert all(one["milliseconds"] > 0 for one in found)
    card = json.loads((tmp_path / "int8" / "model.json").read_text())
    assert card["int8"] == {"images": 6, "split": "train"}
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8" / "model.onnx").graph.node]
    assert ("BatchNormalization" not in kinds, kinds.count("QuantizeLinear") > 10) == (True, True)
    status, text, _ = spnas("eval", tmp_path / "int8", "--data", data)
    head, line = text.splitlines()
    assert (head.split(), line.split()[1], line.split()[-1]) == (
        ["model", "format", "MB", "AP", "AP50", "ms", "ratio"],
        "onnx-int8",
        "1.00",
    )


def test_the_same_images_calibrate_every_time(model: Path, tiny_data: Path) -> None:
    from spnas_core.export.calibration import Calibration
    from spnas_core.export.folder import Wish

    once, again = (export_model(str(model), "onnx", Wish(Calibration(5, str(tiny_data))))["model.onnx"] for _ in range(2))
    fewer = export_model(str(model), "onnx", Wish(Calibration(2, str(tiny_data))))["model.onnx"]
    assert once == again
    assert once != fewer


def test_openvino_is_held_to_float32(model: Path, tmp_path: Path) -> None:
    """Processors with AVX512_BF16 or AMX would compute in bfloat16, which moves scores by tenths."""
    openvino = import_openvino()
    assert spnas("export", model, "--format", "openvino", "--out", tmp_path / "out")[0] == 0
    weights = openvino.Core().read_model(tmp_path / "out" / "model.xml")
    kinds = {node.get_element_type().to_string() for node in weights.get_ops() if node.get_type_name() == "Constant"}
    assert kinds.isdisjoint({"f16", "bf16"})
    run = open_network(tmp_path / "out")
    (net,) = (cell.cell_contents for cell in run.__closure__ or () if isinstance(cell.cell_contents, openvino.CompiledModel))
    assert net.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


QUIET = """
import sys

seen = []
telling = ("os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect")
sys.addaudithook(lambda event, _: seen.append(event) if event in telling else None)
from pathlib import Path
import detect

detect.open_network(Path("."))
print(detect.import_openvino().__name__, seen)
"""


def test_openvino_s_telemetry_stays_out(model: Path, tmp_path: Path) -> None:
    """By itself `import openvino` forks its process to send a message, and leaves an identity in the home folder."""
    out, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    assert spnas("export", model, "--format", "openvino", "--out", out)[0] == 0
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", QUIET], cwd=out, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, list(home.iterdir())) == ("openvino []\n", [])


def test_what_is_no_model_is_one_line(model: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    status, _, error = spnas("eval", model, tmp_path, "--data", tiny_data)
    expected = f"spnas: model {tmp_path}: expected a model folder of a run, or a folder of spnas export, got one with notes.txt\n"
    assert (status, error) == (2, expected)


def own_objects(model: Path, data: Path, out: Path) -> Path:
    """A data set of the same images whose objects in val are the surest detections of the model."""
    (out / "annotations").mkdir(parents=True)
    (out / "images").symlink_to(data / "images")
    from spnas_core.jobs.evaluate import open_model

    net, card = open_model(str(model))
    split = splits.open_split(str(data), "val")
    sure = [one for one in detection.detect(net, split, card.detector) if one["score"] > 0.3]
    boxes = [
        {"id": n, "image_id": one["image_id"], "category_id": one["category_id"], "bbox": one["bbox"], "iscrowd": 0,
         "area": one["bbox"][2] * one["bbox"][3]}
        for n, one in enumerate(sure, start=1)
    ]  # fmt: skip
    assert len(boxes) > 8
    for name in ("train", "val"):
        document = json.loads((data / "annotations" / f"instances_{name}.json").read_text())
        changed = document | ({"annotations": boxes} if name == "val" else {})
        (out / "annotations" / f"instances_{name}.json").write_text(json.dumps(changed))
    return out
