"""Relative paths in settings: where they are looked for, and that all who come later have absolute ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import spnas as command
from safetensors.numpy import save_file

from flows import presets
from flows.presets.places import check_places, settle_run
from flows.spnas import spnas
from spnas_core.arch import parse
from spnas_core.errors import UserError
from spnas_core.run.opening import open_plan
from spnas_core.settings.run import Run
from spnas_core.weights.net_shapes import net_shapes

KEYS = ("checkpoint", "reignite.data", "data.split_file")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder with settings, and the current one."""
    settings, here = tmp_path / "settings", tmp_path / "here"
    settings.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    return settings, here


def write(folder: Path, key: str, value: str) -> Path:
    first, _, rest = key.partition(".")
    path = folder / "mine.yml"
    path.write_text(json.dumps({first: {rest: value} if rest else value}))
    return path


def value_of(settings: Run, key: str) -> str | None:
    found = settings.model_dump()
    for part in key.split("."):
        found = found[part]
    return found


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["w::1.pth", "./some/imgs", "some"])
def test_a_path_in_a_file_is_beside_it_or_else_here(key: str, value: str, folders: tuple[Path, Path]) -> None:
    settings, here = folders
    path = write(settings, key, value)
    with pytest.raises(UserError) as caught:
        presets.load_preset(str(path))
    expected = f"{path}: {key}: expected a file or folder beside the settings, {settings / value}, or {here / value}; there is none"
    assert str(caught.value) == expected
    for folder in (here, settings):  # beside the file goes first
        (folder / value).mkdir(parents=True, exist_ok=True)
        assert value_of(presets.load_preset(str(path)), key) == str(folder / value)
    here_too = value_of(presets.load_preset("../settings/mine.yml"), key)
    assert here_too is not None
    assert Path(here_too).samefile(settings / value)


@pytest.mark.parametrize("key", KEYS)
def test_a_path_of_a_word_is_here(key: str, folders: tuple[Path, Path]) -> None:
    """Also where the settings have a file of that name beside them, and where theirs is lost."""
    settings, here = folders
    (settings / "x").mkdir()
    for preset in ("demo", str(write(settings, key, "lost")), str(write(settings, key, "x"))):
        assert value_of(presets.load_preset(preset, [f"{key}=x"]), key) == str(here / "x")
        first, _, rest = key.partition(".")
        whole = f"{first}={json.dumps({rest: 'x'} if rest else 'x')}"
        assert value_of(presets.load_preset(preset, [whole]), key) == str(here / "x")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["/abs/x.pth", "s3://bucket/x", "file:///x", "zip://a::file:///b.zip", "memory://x"])
def test_other_places_stay_as_they_are(key: str, value: str, folders: tuple[Path, Path]) -> None:
    assert value_of(presets.load_preset(str(write(folders[0], key, value))), key) == value
    assert check_places(presets.load_preset("demo", [f"{key}={value}"])).name == "demo"


def test_the_home_folder(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folders[0]))
    assert presets.load_preset("demo", ["checkpoint=~/x.pth"]).checkpoint == str(folders[0] / "x.pth")


def test_all_mistakes_are_told_at_once(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "mine.yml"
    path.write_text("checkpoint: gone.pth\nreignite: {data: gone}\nserial: {rounds: many}\n")
    _, mistakes = presets.read_preset(str(path))
    assert [mistake.split(": ")[1] for mistake in mistakes] == ["checkpoint", "reignite.data", "serial.rounds"]
    status, _, error = command("plan", path, "--data", "nowhere", "--store", folders[1] / "store")
    assert (status, error.count("gone.pth, or ")) == (2, 1)


@pytest.mark.parametrize("key", KEYS)
def test_a_worker_refuses_a_relative_path(key: str, folders: tuple[Path, Path]) -> None:
    first, _, rest = key.partition(".")
    run = Run.model_validate({first: {rest: "x/y"} if rest else "x/y"})
    with pytest.raises(UserError, match=rf"^settings: {key}: expected an absolute path or a URL, .*, got 'x/y'$"):
        spnas.fn(run, "demo", f"file://{folders[1]}/store")
    assert value_of(settle_run(run), key) == str(folders[1] / "x" / "y")


def test_a_plan_has_absolute_places(tiny_data: Path, folders: tuple[Path, Path]) -> None:
    """The plan's jobs open the same files from any folder."""
    settings, _ = folders
    shutil.copy(presets.FOLDER / "smoke.yml", settings / "mine.yml")
    smoke = presets.load_preset("smoke")
    shapes = net_shapes(parse(smoke.arch), smoke.detector, 2)
    save_file({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, settings / "w.safetensors")
    images = sorted((tiny_data / "train").glob("*.*"))[:4] or sorted(tiny_data.rglob("*.jpg"))[:4] or sorted(tiny_data.rglob("*.png"))[:4]
    for split in ("train", "val"):
        for number, name in enumerate(("red", "blue")):
            (settings / "imgs" / split / name).mkdir(parents=True)
            shutil.copy(images[number], settings / "imgs" / split / name)
    text = (settings / "mine.yml").read_text().replace("reignite: {", "reignite: {data: imgs, ")
    (settings / "mine.yml").write_text(f"checkpoint: w.safetensors\n{text}")
    plan = open_plan(presets.load_preset(str(settings / "mine.yml")), str(tiny_data), str(settings / "store"))
    job = plan.train(plan.settings.arch, plan.settings.detector, plan.settings.fine_tune)
    assert (job.checkpoint, plan.settings.reignite.data) == (str(settings / "w.safetensors"), str(settings / "imgs"))
    assert plan.counts.crops == 2
