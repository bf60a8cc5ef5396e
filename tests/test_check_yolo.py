"""Where the splits of a YOLO data set lie and how its classes are called: subfolders, the YAML file's keys, labelImg's classes.txt."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from checked import as_yolo, read
from hypothesis import given
from hypothesis import strategies as st
from test_check import found
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from spnas_core.check import dataset as check
from spnas_core.data import yolo_folders
from spnas_core.data.to_coco import flat_names

SETTINGS = presets.load_preset("demo")


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    return as_yolo(small, tmp_path / "yolo")


def counts(folder: Path) -> dict[str, tuple[int, int]]:
    """Images and boxes of each split."""
    return {one.split: (len(one.images), sum(one.counts.values())) for one in check.inspect(str(folder), SETTINGS).splits}


def describe(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "data.yaml").read_text())
    kept = {key: value for key, value in {**document, **changes}.items() if value is not None}
    (folder / "data.yaml").write_text(json.dumps(kept))


def move(folder: Path, number: int, sub: str, name: str | None = None) -> None:
    """Move an image of train and its labels into a subfolder."""
    for kind, ending in (("images", "jpg"), ("labels", "txt")):
        (folder / kind / "train" / sub).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"train/{number:04d}.{ending}").rename(folder / kind / "train" / sub / f"{name or f'{number:04d}'}.{ending}")


def convert(folder: Path) -> Path:
    made = folder.parent / "made"
    result = CliRunner().invoke(app, ["check", str(folder), "--preset", "demo", "--to-coco", str(made)])
    assert result.exit_code == 0, result.output
    return made


@pytest.mark.parametrize("named", [True, False])
def test_subfolders_are_read(named: bool, folder: Path) -> None:
    before = counts(folder)
    move(folder, 1, "sub")
    move(folder, 2, "sub/deeper")
    move(folder, 3, "sub", "0004")  # there is another one of this name
    if not named:
        describe(folder, train=None, val=None)
    assert counts(folder) == before
    assert found(folder) == set()
    made = convert(folder)
    assert found(made) == set()
    assert {image["file_name"] for image in read(made)["images"]} >= {"0001.jpg", "0002.jpg", "0004.jpg"}
    assert len(list((made / "images/train").iterdir())) == before["train"][0]


SAME = ({}, {"path": "."}, {"path": "elsewhere/yolo"}, {"path": "ROOT"}, {"train": "./images/train2017/", "val": "../images/val2017"})


@pytest.mark.parametrize("changes", SAME)
def test_splits_are_named_by_the_keys_of_the_yaml_file(changes: dict[str, str], folder: Path) -> None:
    before = counts(folder)
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            (folder / kind / split).rename(folder / kind / f"{split}2017")
    assert found(folder) == set(), "the names of folders tell the splits too"
    changes = {key: value.replace("ROOT", str(folder)) for key, value in changes.items()}
    describe(folder, **{"train": "images/train2017", "val": "images/val2017", **changes})
    assert counts(folder) == before
    assert found(folder) == set()
    assert {path.name for path in (convert(folder) / "annotations").iterdir()} == {"instances_train.json", "instances_val.json"}


def test_folders_that_the_yaml_file_does_not_name_are_splits_as_well(folder: Path) -> None:
    for kind in ("images", "labels"):
        shutil.copytree(folder / kind / "val", folder / kind / "test")
    assert list(counts(folder)) == ["train", "val", "test"]
    describe(folder, train=["images/train", "images/test"], val="/somewhere/else")
    assert {split: images for split, (images, _) in counts(folder).items()} == {"train": 24, "val": 8}


def test_a_part_of_a_folder_may_be_a_split(folder: Path) -> None:
    move(folder, 1, "sub")
    describe(folder, train="images/train/sub")
    assert counts(folder)["train"][0] == 1
    assert ("unlisted-image", "data", 15) in found(folder)


@pytest.mark.parametrize("places", [["labels"], ["labels/train", "labels/val"], ["labels/train"]])
def test_names_of_classes_lie_with_the_labels(places: list[str], folder: Path) -> None:
    names = json.loads((folder / "data.yaml").read_text())["names"]
    (folder / "data.yaml").unlink()
    for place in places:
        (folder / place / "classes.txt").write_text("\n".join(names) + "\n")
    assert found(folder) == set()
    assert [kind["name"] for kind in read(convert(folder))["categories"]] == names
    (folder / "classes.txt").write_text("\n".join(reversed(names)))
    assert list(check.inspect(str(folder), SETTINGS).splits[0].categories.values()) == names, "those nearest to the labels count first"
    assert ("other-classes", "data", 1) in found(folder)


def test_splits_with_other_lists_of_classes_are_found(folder: Path) -> None:
    names = json.loads((folder / "data.yaml").read_text())["names"]
    (folder / "data.yaml").unlink()
    for split, some in {"train": names, "val": names[::-1]}.items():
        (folder / "labels" / split / "classes.txt").write_text("\n".join(some))
    assert ("other-category-ids", "val", 1) in found(folder)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/sub/1.txt", "labels/train/sub/1.txt"),
        ("train/images/1.txt", "train/labels/1.txt"),
        ("images", "labels"),
        ("pictures/1.txt", "pictures/1.txt"),
        ("images/a/images/1.txt", "images/a/labels/1.txt"),
    ],
)
def test_labels_lie_in_place_of_the_last_images(image: str, label: str) -> None:
    assert yolo_folders.label_place(image) == label


@given(st.lists(st.lists(st.sampled_from(["a", "b", "_", "a_b"]), min_size=1, max_size=4).map("/".join), max_size=12))
def test_flat_names_are_as_many_as_the_paths(paths: Sequence[str]) -> None:
    flat = flat_names(paths)
    assert flat.keys() == set(paths)
    assert len(set(flat.values())) == len(flat)
    assert not any("/" in name for name in flat.values())
