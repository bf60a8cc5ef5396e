import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from spnas_core.arch import parse
from spnas_core.errors import UserError
from spnas_core.search.costs import candidate_cost
from spnas_core.settings.detector import HEAD_KINDS
from spnas_core.settings.page import settings_page
from spnas_core.settings.run import Run

COMMANDS = (
    "demo", "run", "settings", "arch", "eval", "predict", "export", "convert", "check", "import-vega", "plan", "status", "doctor", "report",
)  # fmt: skip
run = CliRunner()

KINDS = ", ".join(map(repr, HEAD_KINDS))


def mistake(*args: str) -> str:
    """The one line that a wrong command line gives."""
    result = run.invoke(app, list(args))
    assert result.exit_code == 2, result.output
    assert not result.stdout
    assert result.stderr.startswith("spnas: ")
    assert "Traceback" not in result.stderr
    return result.stderr.removeprefix("spnas: ").strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command: str) -> None:
    result = run.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: spnas {command}" in result.stdout


def test_help_loads_nothing_heavy() -> None:
    script = "import sys, flows.cli.app\nprint([m for m in ('mindspore', 'prefect', 'matplotlib', 'hotcoco') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "blocks", "parameters", "gmacs"),
    [
        ("b_11-21-21-21", 8, 11_176_512, 1.81),
        ("111-2111-211111-211", 16, 23_508_032, 4.09),
        ("x(32x4d)_111-2111-211111-211", 16, 22_979_904, 4.23),
        ("r_1111-21111-2111111111111111111111111-211-1", 38, 53_745_984, 8.85),
    ],
)
def test_arch_counts(text: str, blocks: int, parameters: int, gmacs: float) -> None:
    result = run.invoke(app, ["arch", text, "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert set(found) == {"blocks", "parameters", "macs", "levels"}
    assert (found["blocks"], found["parameters"], round(found["macs"] / 1e9, 2)) == (blocks, parameters, gmacs)
    assert [level["stride"] for level in found["levels"]] == [4 << n for n in range(text.count("-") + 1)]


def test_arch_with_parallel_copies_and_a_size() -> None:
    serial, parallel = (json.loads(run.invoke(app, ["arch", f"b_11-21-21-21_{k}", "--json"]).stdout) for k in ("0-0-0-0", "0-0-2-0"))
    assert parallel["macs"] > serial["macs"]
    assert parallel["blocks"] == serial["blocks"]
    large = json.loads(run.invoke(app, ["arch", "b_11-21-21-21", "--size", "224", "448", "--json"]).stdout)
    assert large["macs"] == 2 * serial["macs"]
    assert "11,176,512" in run.invoke(app, ["arch", "b_11-21-21-21"]).stdout


@pytest.mark.parametrize("text", ["1112", "12--1", "31-2", "-".join(["1" * 61]), "q_1111-2111", "1111-2111_1", ""])
def test_text_outside_the_space(text: str) -> None:
    assert "architecture" in mistake("arch", text)


def test_a_size_of_nothing() -> None:
    assert "--size" in mistake("arch", "1111-2111", "--size", "0", "224")


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_a_run_of_its_name(name: str) -> None:
    settings = presets.load_preset(name)
    assert settings.name == name
    assert Run.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("name", "serial", "classes", "millions"),
    [
        ("spnet_coco", "1111-21111-2111111111111111111111111-211-1", 80, "107.6"),
        ("spnet_ecp", "11121111-21111-112-1111-1111", 1, "114.6"),  # see the comment in the preset, and tests/test_cost.py
    ],
)
def test_the_authors_nets(name: str, serial: str, classes: int, millions: str) -> None:
    settings = presets.load_preset(name)
    arch = parse(settings.arch)
    assert (arch.block_type.text, arch.serial_text) == ("r", serial)
    assert any(arch.parallel)
    assert settings.detector.head.kind == "cascade_rcnn"
    assert f"{candidate_cost(arch, settings.detector, classes).params / 1e6:.1f}" == millions


def test_settings_on_top_of_a_preset() -> None:
    sets = ["serial.rounds=7", "detector.image_size=[96, 64]", "budget={gmacs: [null, 5]}", "serial.recipe.lr=1e-2", "checkpoint=null"]
    settings = presets.load_preset("demo", sets)
    assert settings.serial.rounds == 7
    assert settings.detector.image_size == (96, 64)
    assert settings.budget.gmacs == (None, 5.0)
    assert settings.serial.recipe.lr == 0.01
    assert settings.parallel.recipe.lr == presets.load_preset("demo").parallel.recipe.lr


def test_settings_are_printed_as_the_flow_takes_them() -> None:
    result = run.invoke(app, ["settings", "demo", "--set", "serial.rounds=7"])
    assert Run.model_validate_json(result.stdout) == presets.load_preset("demo", ["serial.rounds=7"])
    assert "serial.rounds" in mistake("settings", "demo", "--set", "serial.rounds=0")


def test_all_settings_are_explained() -> None:
    result = run.invoke(app, ["settings", "--table"])
    assert result.exit_code == 0
    assert result.stdout == settings_page(Run)
    for wrong in ([], ["demo", "--table"], ["--table", "--set", "seed=1"]):
        assert mistake("settings", *wrong).startswith("settings: expected PRESET_OR_YAML")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("serial.round=3", "demo: serial.round: expected no such key, got 3"),
        ("detector.head.faster_rcnn.head_channels=4", "demo: detector.head.faster_rcnn: expected no such key, got {'head_channels': 4}"),
        ("detector.fpn.channels=4", "demo: detector.fpn: expected no such key, got {'channels': 4}"),
        ("fpn=4", "demo: fpn: expected no such key, got 4"),
        ("detector.head.anchor_ratios=[]", "demo: detector.head.anchor_ratios: expected"),
        ("detector.anchor_ratios=[]", "demo: detector.head.anchor_ratios: expected"),
        ("detector.head.kind=yolo", f"demo: detector.head.kind: expected one of {KINDS}, got 'yolo'"),
        ("detector.cascade=often", f"demo: detector.head.kind: expected one of {KINDS}, got 'often'"),
        ("detector.head=7", "demo: detector.head: expected"),
        ("detector.neck.taps=[-1]", "demo: detector.neck.taps.0: expected greater than or equal to 0, got -1"),
        ("serial.rounds=x", "demo: serial.rounds: expected a valid integer"),
        ("serial.rounds=0", "demo: serial.rounds: expected greater than 0, got 0"),
        ("serial=3", "demo: serial: expected a valid dictionary"),
        ("arch=112", "demo: arch: architecture 'r_112_0': expected 4 to 60 blocks, got 3"),
        ("arch=1112", "architecture 'r_1112_0': expected 8 to 60 blocks, got 4"),
        ("detector.norm=batch", "demo: detector.norm: expected 'frozen' or 'train', got 'batch'"),
        ("checkpoint=s3://me:secret@bucket/x.pth", "demo: checkpoint: URL: expected one without user and password"),
        ("serial.rounds", "--set: expected key=value"),
        ("=3", "--set: expected key=value"),
        ("serial.rounds.x=3", "expected 'rounds' to hold keys"),
        ("serial={", "--set serial: expected YAML"),
    ],
)
def test_wrong_settings_are_one_line(override: str, words: str, tmp_path: Path) -> None:
    text = mistake("run", "demo", "--data", str(tmp_path), "--set", override, "--store", str(tmp_path / "store"))
    assert words in text
    assert "\n" not in text
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [("- a\n- b\n", "expected a YAML mapping"), ("a: [", "expected YAML"), ("a: 1\nb: 2\n", "a: expected no such key"), ("", "mapping")],
)
def test_wrong_files_of_settings(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(content)
    assert words in mistake("run", str(path), "--data", str(tmp_path), "--store", str(tmp_path / "store"))
    path.write_bytes(b"\xff\xfe")
    assert "UTF-8" in mistake("run", str(path), "--data", str(tmp_path), "--store", str(tmp_path / "store"))


def test_a_preset_that_is_not_there() -> None:
    assert f"expected one of {', '.join(sorted(presets.names()))} or a YAML file" in mistake("run", "nope", "--data", "x")
    wanted = {"bccd", "coco", "demo", "retinanet_bccd", "fcos_bccd", "retinanet_r50_fpn_crop640", "seg_demo", "study"}
    wanted |= {"retinanet_nasfpn_bccd", "retinanet_r50_nasfpn_crop640"}
    assert wanted <= set(presets.names())


def test_data_and_stores_that_are_not_there(tmp_path: Path, tiny_data: Path) -> None:
    nothing = mistake("run", "smoke", "--data", str(tmp_path / "none"), "--store", str(tmp_path / "s"))
    assert nothing.endswith("or a table *.csv of boxes; there is nothing")
    assert "\n" not in nothing
    assert "store" in mistake("run", "smoke", "--data", str(tiny_data), "--store", "/dev/null/store")
    assert "store" in mistake("run", "smoke", "--data", str(tiny_data), "--store", "nonsense://x")


def break_data(folder: Path, fault: str) -> None:
    """Make one thing wrong with a data set."""
    path = folder / "annotations" / f"instances_{'test' if fault.endswith('of test') else 'train'}.json"
    document: dict[str, Any] = json.loads(path.read_text())
    if fault == "missing image":
        document["images"][0]["file_name"] = "nowhere.png"
    elif fault == "truncated image":
        image = folder / "images" / "train_0.png"
        image.write_bytes(image.read_bytes()[:200])
    elif fault == "unknown category":
        document["annotations"][0]["category_id"] = 99
    elif fault == "no images":
        document["images"], document["annotations"] = [], []
    elif fault.startswith("faulty box"):
        document["annotations"][0]["bbox"] = [0, 0, 0, 5]
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("fault", ["missing image", "truncated image", "unknown category", "no images", "faulty box", "faulty box of test"])
def test_faulty_data_is_one_line_before_anything_runs(fault: str, tmp_path: Path) -> None:
    from conftest import write_data

    data = write_data(tmp_path / "data", {"train": 4, "val": 2, "test": 1})
    break_data(data, fault)
    text = mistake("run", "smoke", "--data", str(data), "--store", str(tmp_path / "store"), "--set", "strict=true")
    assert "\n" not in text
    assert not (tmp_path / "store" / "train").exists()


def test_many_errors_are_one_line_each() -> None:
    with pytest.raises(ValidationError) as caught:
        Run.model_validate({"seed": -1, "serial": {"rounds": "x"}, "foo": 1})
    lines = presets.describe_settings(caught.value, "mine.yml")
    assert len(lines) == 3
    assert all(line.startswith("mine.yml: ") and ": expected " in line for line in lines)


@pytest.mark.parametrize("text", ["1111-11-11", "111111111", "2111-1211"])
def test_yaml_takes_no_architecture_for_a_date_or_a_number(text: str) -> None:
    stages = text.count("-") + 1
    assert presets.load_preset("demo", [f"arch={text}"]).arch == f"r_{text}_{'-'.join(['0'] * stages)}"


def test_a_mistake_in_set_says_where() -> None:
    with pytest.raises(UserError, match="expected key=value"):
        presets.load_preset("demo", ["x"])
