"""Splits that are the same pictures, and lines of lists that are there twice: read once, told, and with a way on."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from laid_out import JPEG, labelme_json, lines, put, seen, table, told, true, voc_xml, yolo_text

from flows import presets
from spnas_core.check.dataset import inspect
from spnas_core.check.divide import divide
from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import open_layout
from spnas_core.data.split_file import SPLIT_FILE, write_split_file
from spnas_core.data.splits import DataSet, open_split
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading

NAMES = "names: [red, blue]\n"
PICTURES: dict[str, str | bytes] = {f"images/{name}.jpg": JPEG[name] for name in "abcdef"}
YOLO = {**PICTURES, **{f"labels/{name}.txt": yolo_text(name) for name in "abcdef"}}
VOC = {**PICTURES, **{f"Annotations/{name}.xml": voc_xml(name) for name in "abcdef"}}
ALL = "".join(f"images/{name}.jpg\n" for name in "abcdef")
BACK = "".join(f"images/{name}.jpg\n" for name in "fedcba")
SAME: dict[str, Mapping[str, str | bytes]] = {
    "folders of YOLO": {**YOLO, "data.yaml": f"train: images\nval: images\n{NAMES}"},
    "all three": {**YOLO, "data.yaml": f"train: images\nval: images\ntest: images\n{NAMES}"},
    "lists of YOLO": {**YOLO, "data.yaml": f"train: t.txt\nval: v.txt\n{NAMES}", "t.txt": ALL, "v.txt": BACK},
    "lists of Pascal VOC": {**VOC, "ImageSets/Main/train.txt": "a\nb\nc\nd\ne\nf", "ImageSets/Main/val.txt": "f\ne\nd\nc\nb\na"},
    "tables": {**PICTURES, "train.csv": table("abcdef"), "val.csv": table("fedcba")},
}


@pytest.mark.parametrize("kind", SAME)
def test_train_that_is_val_too_is_not_split_yet(kind: str, tmp_path: Path) -> None:
    put(tmp_path, SAME[kind])
    assert seen(tmp_path) == true(all="abcdef")
    assert ("same-split", "data", 2 if kind == "all three" else 1) in told(tmp_path)
    assert DataSet(str(tmp_path)).names == ("all",)
    with pytest.raises(UserError, match=r"expected train and val, got images that are not split .*; spnas split "):
        open_split(str(tmp_path), "train")
    assert sum(map(len, divide(str(tmp_path), {"val": 0.3, "test": 0}, 0, None).images.values())) == 6


@pytest.mark.parametrize("same", ["val", "train"])
def test_a_test_split_that_is_another_is_left_out(same: str, tmp_path: Path) -> None:
    put(tmp_path, {f"images/{'train' if name in 'abc' else 'val'}/{name}.jpg": JPEG[name] for name in "abcdef"})
    put(tmp_path, {f"labels/{'train' if name in 'abc' else 'val'}/{name}.txt": yolo_text(name) for name in "abcdef"})
    put(tmp_path, {"data.yaml": f"train: images/train\nval: images/val\ntest: images/{same}\n{NAMES}"})
    assert seen(tmp_path) == true(train="abc", val="def")
    assert f"test: the same as {same}, left out" in lines(tmp_path)
    assert open_split(str(tmp_path), "val").class_names == ("red", "blue")


def test_splits_of_the_same_pictures_with_other_boxes_are_refused(tmp_path: Path) -> None:
    put(tmp_path, {**PICTURES, "train.csv": table("abc"), "val.csv": table("abc").replace("red", "blue")})
    assert [raw.split for raw in open_layout(str(tmp_path), header_sizes).sources] == ["train", "val"]
    with pytest.raises(UserError, match="expected splits without common images"):
        open_split(str(tmp_path), "train")


LISTS = {
    "YOLO": {
        **YOLO,
        "data.yaml": f"train: t.txt\nval: v.txt\n{NAMES}",
        "t.txt": f"./images/a.jpg\n{ALL[:39]}images\\b.jpg\n",
        "v.txt": BACK[:26],
    },
    "Pascal VOC": {**VOC, "ImageSets/Main/train.txt": "a\na.jpg\nb\nc\nimages/b", "ImageSets/Main/val.txt": "f\ne"},
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_picture_that_a_list_names_twice_is_read_once(kind: str, tmp_path: Path) -> None:
    put(tmp_path, LISTS[kind])
    assert seen(tmp_path) == true(train="abc", val="fe")
    assert ("repeated-line", "train", 2) in told(tmp_path)


def test_a_missing_picture_that_a_list_names_twice_is_told_once(tmp_path: Path) -> None:
    put(tmp_path, {**VOC, "ImageSets/Main/train.txt": "a\nz\nz", "ImageSets/Main/val.txt": "f\ne"})
    assert ("repeated-line", "train", 1) in told(tmp_path)
    with pytest.raises(UserError, match=r"1 image without an annotation file .images/z.jpg"):
        open_split(str(tmp_path), "train")


def test_labelme_folders_are_not_the_same(tmp_path: Path) -> None:
    for split in ("train", "val"):
        put(tmp_path, {f"{split}/a.jpg": JPEG["a"], f"{split}/a.json": labelme_json("a")})
    assert seen(tmp_path) == true(train="a", val="a")


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_the_only_split_can_be_divided_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    put(tmp_path, {f"{name}/{one}.jpg": JPEG[one] for one in "abcdef"})
    put(tmp_path, {f"{name}/{one}.xml": voc_xml(one) for one in "abcdef"})
    assert any("spnas split DATA makes them" in one.line for one in inspect(str(tmp_path), presets.load_preset("smoke")).findings)
    division = divide(str(tmp_path), {"val": 0.3, "test": 0.2}, 0, None)
    write_split_file(str(tmp_path / SPLIT_FILE), division.parts(), "by a test")
    assert {split: len(DataSet(str(tmp_path)).split(split).samples) for split in DataSet(str(tmp_path)).names} == {
        split: len(images) for split, images in division.images.items()
    }


def test_a_set_without_train_says_the_way_on(tmp_path: Path) -> None:
    for split, names in {"val": "abc", "more": "def"}.items():
        put(tmp_path, {f"{split}/{one}.jpg": JPEG[one] for one in names})
        put(tmp_path, {f"{split}/{one}.xml": voc_xml(one) for one in names})
    with pytest.raises(UserError, match=r"got val, more; --set data.splits.train=NAME takes one of them as train$"):
        divide(str(tmp_path), {"val": 0.3, "test": 0}, 0, None)
    assert DataSet(str(tmp_path), Reading(splits={"train": "more"})).names == ("train", "val")


COLUMN = "filename,class,xmin,ymin,xmax,ymax,fold"


def folds(values: str) -> str:
    rows = table("abcdef").splitlines()[1:]
    return "\n".join([COLUMN, *(f"{row},{values['abcdef'.index(row[0])]}" for row in rows)]) + "\n"


@pytest.mark.parametrize("file", ["boxes.csv", "train.csv"])
@pytest.mark.parametrize("values", ["012012", "aabbcc", "0 1 0 "])
def test_a_column_of_folds_is_no_split(file: str, values: str, tmp_path: Path) -> None:
    put(tmp_path, {**PICTURES, file: folds(values)})
    name = "train" if file == "train.csv" else "all"
    assert seen(tmp_path) == true(**{name: "abcdef"})
    assert ("other-column", "data", 1) in told(tmp_path)
    assert sum(map(len, divide(str(tmp_path), {"val": 0.3, "test": 0}, 0, None).images.values())) == 6


def test_a_user_may_choose_two_values_of_a_column(tmp_path: Path) -> None:
    put(tmp_path, {**PICTURES, "boxes.csv": folds("aaabbb")})
    data = DataSet(str(tmp_path), Reading(splits={"train": "a", "val": "b"}))
    assert {split: sorted(one.name for one in data.split(split).samples) for split in data.names} == {
        "train": ["images/a.jpg", "images/b.jpg", "images/c.jpg"],
        "val": ["images/d.jpg", "images/e.jpg", "images/f.jpg"],
    }


@pytest.mark.parametrize("values", [("train", "val"), ("training", "extra"), ("dev", "test")])
def test_a_column_that_names_a_split_counts(values: tuple[str, str], tmp_path: Path) -> None:
    text = folds("aaabbb").replace(",a\n", f",{values[0]}\n").replace(",b\n", f",{values[1]}\n")
    put(tmp_path, {**PICTURES, "boxes.csv": text})
    assert seen(tmp_path) == true(**{values[0]: "abc", values[1]: "def"})
