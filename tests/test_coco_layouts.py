"""COCO files under the names that tools give them, mended, matched by name, indexed and divided: the same boxes as in the plain layout."""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from command_line import spnas
from conftest import write_data
from data_sets import document, make
from fuzzed import changed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flows import presets
from spnas_core.check.dataset import inspect
from spnas_core.data import annotations, coco_parser, coco_source, files, index
from spnas_core.data.columns import columns_of
from spnas_core.data.fingerprints import fingerprint_splits, verify_images
from spnas_core.data.mending import mend_document
from spnas_core.data.samples import Split
from spnas_core.data.splits import DataSet, open_split
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading
from spnas_core.store.artifacts import Store


def boxes(split: Split) -> dict[str, list[Any]]:
    """Boxes and class names of each image, by the last part of its name."""
    names = split.class_names
    found = {}
    for one in split.samples:
        found[Path(one.name).name] = [[names[label - 1], *box] for label, box in zip(one.labels, one.boxes.tolist(), strict=True)]
    return found


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Coloured squares in the plain layout."""
    return write_data(tmp_path / "plain", {"train": 5, "val": 3, "test": 2})


def read(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / f"annotations/instances_{split}.json").read_text())


def put(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def images(plain: Path, split: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in read(plain, split)["images"]:
        shutil.copy(plain / "images" / entry["file_name"], folder / entry["file_name"])


SPLITS = ("train", "val", "test")
# by layout: annotation file and folder of images of each split
LAYOUTS: dict[str, Callable[[str], tuple[str, str]]] = {
    "coco2017": lambda s: (f"annotations/instances_{s}2017.json", f"{s}2017"),
    "in images": lambda s: (f"annotations/instances_{s}.json", f"images/{s}"),
    "roboflow": lambda s: (f"{'valid' if s == 'val' else s}/_annotations.coco.json", "valid" if s == "val" else s),
    "fiftyone": lambda s: (f"{s}/labels.json", f"{s}/data"),
    "cvat subsets": lambda s: (f"annotations/instances_{s.title()}.json", f"images/{s.title()}"),
    "plain names": lambda s: (f"annotations/{s}.json", "images"),
    "in the root": lambda s: (f"{s}_annotations.json", f"{s}/images"),
    "long names": lambda s: (
        {"train": "training/result.json", "val": "validation/result.json", "test": "testing/result.json"}[s],
        {"train": "training/images", "val": "validation/images", "test": "testing/images"}[s],
    ),
    "mixed": lambda s: (f"annotations/{'instances_train' if s == 'train' else s}.json", "images"),
    "keypoints": lambda s: (f"annotations/person_keypoints_{s}2017.json", f"{s}2017"),
    "other case": lambda s: (f"Annotations/{s.upper()}.json", f"JPEGImages/{s}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_has_the_boxes_of_the_plain_one(layout: str, plain: Path, tmp_path: Path) -> None:
    for split in SPLITS:
        file, folder = LAYOUTS[layout](split)
        put(tmp_path / "other" / file, read(plain, split))
        images(plain, split, tmp_path / "other" / folder)
    data = DataSet(str(tmp_path / "other"))
    assert data.names == SPLITS
    for split in SPLITS:
        opened = data.split(split)
        assert boxes(opened) == boxes(open_split(str(plain), split))
        verify_images(opened)
    report = inspect(str(tmp_path / "other"), presets.load_preset("smoke"))
    assert [one.split for one in report.splits] == list(SPLITS)
    assert [(one.kind, one.where) for one in report.findings if one.severity == "error"] == []


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_default.json", "images/default"),
        ("result.json", "images"),
        ("labels.json", "data"),
        ("_annotations.coco.json", "."),
        ("annotations/mine.json", "photos/day 1"),
    ],
)
def test_one_file_is_a_data_set_that_is_not_split(file: str, folder: str, plain: Path, tmp_path: Path) -> None:
    put(tmp_path / "other" / file, read(plain, "train"))
    images(plain, "train", tmp_path / "other" / folder)
    data = DataSet(str(tmp_path / "other"))
    assert data.names == ("all",)
    assert boxes(data.split("all")) == boxes(open_split(str(plain), "train"))
    with pytest.raises(UserError, match=r"expected train and val, got images that are not split \(COCO\); spnas split .*other$"):
        data.split("train")
    done = spnas("run", "smoke", "--data", str(tmp_path / "other"), "--store", str(tmp_path / "store"))
    assert done[0] == 2
    assert done[2].count("\n") == 1
    assert "spnas split" in done[2]


def test_files_and_folders_can_be_named(plain: Path, tmp_path: Path) -> None:
    shutil.move(plain / "annotations", tmp_path / "labels")
    shutil.move(plain / "images", tmp_path / "photos")
    reading = Reading(annotations={"train": str(tmp_path / "labels/instances_train.json")}, images=str(tmp_path / "photos"))
    assert len(DataSet(str(plain), reading).split("train").samples) == 5
    with pytest.raises(UserError, match=r"annotations of train: expected a file, found none at .*gone.json"):
        DataSet(str(plain), Reading(annotations={"train": "gone.json"})).split("train")
    words = [f"train={tmp_path}/labels/instances_train.json", f"val={tmp_path}/labels/instances_val.json"]
    done = spnas(
        "plan",
        "smoke",
        "--no-measure",
        "--data",
        str(plain),
        "--store",
        str(tmp_path / "store"),
        "--images",
        f"{tmp_path}/photos",
        *(word for text in words for word in ("--annotations", text)),
    )
    assert done[0] == 0, done[2]
    assert "images 5 train, 3 val, 0 test" in done[1]


def test_splits_of_other_names_can_be_set(plain: Path) -> None:
    for split, name in {"train": "first", "val": "second"}.items():
        (plain / f"annotations/instances_{split}.json").rename(plain / f"annotations/instances_{name}.json")
    data = DataSet(str(plain), Reading(splits={"train": "first", "val": "second"}))
    assert data.names == SPLITS
    assert len(data.split("val").samples) == 3
    with pytest.raises(UserError, match="expected a split 'third', which is to be train, got first, second, test"):
        DataSet(str(plain), Reading(splits={"train": "third"})).split("train")
    shutil.copy(plain / "annotations/instances_first.json", plain / "annotations/instances_train2014.json")
    shutil.copy(plain / "annotations/instances_first.json", plain / "annotations/instances_train2017.json")
    with pytest.raises(UserError, match=r"got train2014, train2017; choose one: --set data.splits.train=train2014$"):
        DataSet(str(plain)).split("train")


def test_a_missing_image_is_not_taken_from_another_split(plain: Path, tmp_path: Path) -> None:
    """Splits often use the same names; a picture of val under boxes of train would be learnt without a word."""
    numbered(plain, tmp_path / "other")
    (tmp_path / "other/images/train/1.png").unlink()
    with pytest.raises(UserError, match=r"image '1.png' is not in .*\(1 missing\)"):
        open_split(str(tmp_path / "other"), "train")


def numbered(plain: Path, root: Path) -> Path:
    """The plain data set with pictures 0.png, 1.png, ... in images/SPLIT."""
    for split in ("train", "val"):
        content = read(plain, split)
        for number, entry in enumerate(content["images"]):
            (root / f"images/{split}").mkdir(parents=True, exist_ok=True)
            shutil.copy(plain / "images" / entry["file_name"], root / f"images/{split}/{number}.png")
            entry["file_name"] = f"{number}.png"
        put(root / f"annotations/instances_{split}.json", content)
    return root


@pytest.mark.parametrize("stray", ["images", ".", "old", "images/thumbs", "train"])
def test_a_picture_elsewhere_is_not_the_one_that_is_missing(stray: str, plain: Path, tmp_path: Path) -> None:
    root = numbered(plain, tmp_path / "other")
    (root / stray).mkdir(exist_ok=True)
    shutil.copy(plain / "images/test_0.png", root / stray / "0.png")
    for split in ("train", "val"):
        assert open_split(str(root), split).samples[0].file == str(root / f"images/{split}/0.png")
    (root / "images/train/0.png").unlink()
    with pytest.raises(UserError, match=r"image '0.png' is not in .*\(1 missing\)"):
        open_split(str(root), "train")
    report = inspect(str(root), presets.load_preset("smoke"))
    assert ("missing-image", "train", 1) in {(one.kind, one.where, one.count) for one in report.findings}


def test_of_a_name_with_folders_the_last_one_has_to_fit(plain: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    content = read(plain, "train")
    for number, entry in enumerate(content["images"]):
        cam = f"cam{number % 2}"
        (root / "photos/raw" / cam).mkdir(parents=True, exist_ok=True)
        shutil.copy(plain / "images" / entry["file_name"], root / f"photos/raw/{cam}/{number // 2}.png")
        entry["file_name"] = f"project/{cam}/{number // 2}.png"
    put(root / "result.json", content)
    opened = DataSet(str(root)).split("all")
    assert [one.file.removeprefix(f"{root}/photos/raw/") for one in opened.samples] == [
        one.name.removeprefix("project/") for one in opened.samples
    ]
    (root / "photos/raw/cam1/0.png").unlink()
    with pytest.raises(UserError, match=r"image 'project/cam1/0.png' is not in"):
        DataSet(str(root)).split("all")


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("{0}/annotations/instances.json", "{0}/images"),
        ("annotations/{0}/instances.json", "images/{0}"),
        ("project/{0}/_annotations.coco.json", "project/{0}"),
        ("project/annotations/instances_{0}.json", "project/images/{0}"),
    ],
)
def test_files_one_folder_deeper(file: str, folder: str, plain: Path, tmp_path: Path) -> None:
    for split in SPLITS:
        put(tmp_path / "other" / file.format(split), read(plain, split))
        images(plain, split, tmp_path / "other" / folder.format(split))
    data = DataSet(str(tmp_path / "other"))
    assert {split: boxes(data.split(split)) for split in data.names} == {split: boxes(open_split(str(plain), split)) for split in SPLITS}
    assert [one.split for one in inspect(str(tmp_path / "other"), presets.load_preset("smoke")).splits] == list(SPLITS)


@pytest.mark.parametrize("other", ["{}", "./{}"])
def test_entries_of_one_picture_are_one(other: str, plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As scripts write them that make an entry for each box."""
    expected = open_split(str(plain), "train")
    content = read(plain, "train")
    entries = {entry["id"]: entry for entry in content["images"]}
    content["images"] = []
    for number, mark in enumerate(content["annotations"]):
        entry = entries[mark["image_id"]]
        content["images"].append({**entry, "id": number + 1000, "file_name": other.format(entry["file_name"])})
        mark["image_id"] = number + 1000
    put(plain / "annotations/instances_train.json", content)
    with caplog.at_level(logging.WARNING, "spnas_core"):
        assert boxes(open_split(str(plain), "train")) == boxes(expected)
    assert "image files listed again" in caplog.text
    content["images"][1]["width"] += 1
    put(plain / "annotations/instances_train.json", content)
    with pytest.raises(UserError, match="the annotation says 65x"):
        verify_images(open_split(str(plain), "train"))


def test_boxes_in_parts_of_the_image_are_refused(plain: Path) -> None:
    content = read(plain, "train")
    for mark in content["annotations"]:
        mark["bbox"] = [value / 64 for value in mark["bbox"]]
    put(plain / "annotations/instances_train.json", content)
    with pytest.raises(UserError, match=r"expected boxes in px, got \d+ of \d+ in parts of the image, as \[0\."):
        open_split(str(plain), "train")


def test_a_test_split_that_scores_nothing_is_left_out(plain: Path, tmp_path: Path) -> None:
    for edit in ({"annotations": []}, {"annotations": [], "images": []}, None):
        content = read(plain, "test")
        content.pop("annotations") if edit is None else content.update(edit)
        put(plain / "annotations/instances_test.json", content)
        status, out, err = spnas("plan", "smoke", "--no-measure", "--data", plain, "--store", tmp_path / "store")
        assert status == 0, err
        assert "images 5 train, 3 val, 0 test" in out
        assert "the final net is scored on val alone" in err


def test_a_cut_off_file_of_a_split_is_told(plain: Path) -> None:
    for split in SPLITS:
        (plain / f"annotations/instances_{split}.json").rename(plain / f"annotations/{split}.json")
    path = plain / "annotations/val.json"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"val.json: expected JSON"):
        open_split(str(plain), "val")


def test_a_file_in_code_page_1252_is_read(plain: Path) -> None:
    content = read(plain, "val")
    content["info"] = {"contributor": "René"}
    (plain / "annotations/instances_val.json").write_bytes(json.dumps(content, ensure_ascii=False).encode("cp1252"))
    assert len(open_split(str(plain), "val").samples) == 3


# ways to write one document otherwise, with the same meaning
SAME: dict[str, Callable[[dict[str, Any]], Any]] = {
    "quoted boxes": lambda d: [mark.update(bbox=[str(value) for value in mark["bbox"]]) for mark in d["annotations"]],
    "quoted sizes": lambda d: [image.update(width=str(image["width"]), height=f"{image['height']}.0") for image in d["images"]],
    "text ids": lambda d: (
        [image.update(id=f"im-{image['id']}") for image in d["images"]],
        [mark.update(image_id=f"im-{mark['image_id']}") for mark in d["annotations"]],
    ),
    "quoted ids": lambda d: (
        [kind.update(id=str(kind["id"])) for kind in d["categories"]],
        [mark.update(category_id=float(mark["category_id"])) for mark in d["annotations"]],
    ),
    "flags as texts": lambda d: [mark.update(iscrowd="False") for mark in d["annotations"]],
    "flags as booleans": lambda d: [mark.update(iscrowd=False) for mark in d["annotations"]],
    "no annotation ids": lambda d: [mark.pop("id") for mark in d["annotations"]],
    "annotation ids again": lambda d: [mark.update(id=7) for mark in d["annotations"]],
    "no sizes": lambda d: [(image.pop("width"), image.update(height=0)) for image in d["images"]],
    "swapped corners": lambda d: [
        mark.update(bbox=[mark["bbox"][0] + mark["bbox"][2], mark["bbox"][1] + mark["bbox"][3], -mark["bbox"][2], -mark["bbox"][3]])
        for mark in d["annotations"]
    ],
    "boxes of polygons": lambda d: [mark.update(bbox=None, segmentation=[corners(mark["bbox"])]) for mark in d["annotations"]],
    "a root": lambda d: (
        d["categories"].append({"id": 99, "name": "squares", "supercategory": "none"}),
        [kind.setdefault("supercategory", "squares") for kind in d["categories"]],
    ),
    "entries twice": lambda d: (d["images"].append(dict(d["images"][0])), d["categories"].append(dict(d["categories"][0]))),
    "back slashes": lambda d: [image.update(file_name=f"images\\{image['file_name']}") for image in d["images"]],
    "letter case": lambda d: [image.update(file_name=image["file_name"].upper()) for image in d["images"]],
    "names in URLs alone": lambda d: [
        image.update(coco_url=f"http://example.org/images/{image.pop('file_name')}") for image in d["images"]
    ],
    "folders of another machine": lambda d: [image.update(file_name=f"/home/someone/set/{image['file_name']}") for image in d["images"]],
}


def corners(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


@pytest.mark.parametrize("way", SAME)
def test_what_is_meant_in_one_way_only_is_read_so(way: str, plain: Path, tmp_path: Path) -> None:
    expected = {split: boxes(open_split(str(plain), split)) for split in ("train", "val")}
    content = read(plain, "train")
    SAME[way](content)
    put(plain / "annotations/instances_train.json", content)
    opened = open_split(str(plain), "train")
    assert {name.lower().rpartition("\\")[2]: some for name, some in boxes(opened).items()} == expected["train"]
    assert [mark["iscrowd"] for mark in opened.annotations["annotations"]] == [0] * len(opened.marks)
    assert len(opened.class_names) == 2
    assert boxes(open_split(str(plain), "val")) == expected["val"]
    done = spnas("check", str(plain), "--preset", "smoke", "--mend", str(tmp_path / "mended"))
    assert done[0] in (0, 1), done[2]
    assert {name.lower() for name in boxes(open_split(str(tmp_path / "mended"), "train"))} == expected["train"].keys()
    mended = spnas("check", str(tmp_path / "mended"), "--preset", "smoke", "--json")
    kinds = {one["kind"] for one in json.loads(mended[1])["findings"]} - {"unreached", "better-anchors"}
    assert kinds == set(), "nothing is left to mend"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_files_in_other_encodings_are_read_under_any_name(encoding: str, plain: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = tmp_path / "other" / split
        images(plain, split, folder)
        content = {**read(plain, split), "info": {"mean": float("nan")}}
        (folder / "labels.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
        assert boxes(open_split(str(tmp_path / "other"), split)) == boxes(open_split(str(plain), split))


@pytest.mark.parametrize("other", [" {} ", "{}\t", "RED"])
def test_a_spelling_makes_no_other_category(other: str, plain: Path) -> None:
    expected = boxes(open_split(str(plain), "val"))
    content = read(plain, "val")
    for kind in content["categories"]:
        kind["name"] = other.format(kind["name"]) if "{" in other else kind["name"].upper()
    put(plain / "annotations/instances_val.json", content)
    assert boxes(open_split(str(plain), "val")) == expected


def test_one_picture_under_two_ids_keeps_its_boxes_in_a_division(plain: Path) -> None:
    content = read(plain, "train")
    twin = {**content["images"][0], "id": 999, "height": 99}
    mark = {**content["annotations"][0], "id": 999, "image_id": 999, "bbox": [1, 2, 3, 4]}
    put(
        plain / "annotations/instances_all.json",
        {**content, "images": [*content["images"], twin], "annotations": [*content["annotations"], mark]},
    )
    for split in SPLITS:
        (plain / f"annotations/instances_{split}.json").unlink()
    assert spnas("split", plain, "--val", 0.4, "--test", 0)[0] == 0
    data = DataSet(str(plain))
    parts = [data.split(name) for name in data.names]
    assert sum(len(part.samples) for part in parts) == len(content["images"]) + 1
    assert sum(int(part.box_counts.sum()) for part in parts) == len(content["annotations"]) + 1


def test_categories_are_those_of_train_by_name(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = open_split(str(plain), "test")
    content = read(plain, "test")
    for entries, key in ((content["categories"], "id"), (content["annotations"], "category_id")):
        for entry in entries:
            entry[key] = 70 - entry[key]
    content["categories"].append({"id": 200, "name": "green"})
    content["annotations"].append({**content["annotations"][0], "id": 999, "category_id": 200})
    put(plain / "annotations/instances_test.json", content)
    with caplog.at_level(logging.WARNING, "spnas_core"):
        found = open_split(str(plain), "test")
    assert found.annotations == expected.annotations
    assert boxes(found) == boxes(expected)
    assert "1 boxes of categories that train lacks are left out: green" in caplog.text
    for kind in content["categories"]:
        kind["name"] = f"other {kind['id']}"
    put(plain / "annotations/instances_test.json", content)
    with pytest.raises(UserError, match=r"instances_test.json: expected some of the categories red, blue, got other"):
        open_split(str(plain), "test")


def test_a_mended_copy_has_the_same_categories_in_all_splits(plain: Path, tmp_path: Path) -> None:
    before = {split: boxes(open_split(str(plain), split)) for split in SPLITS}
    content = read(plain, "val")
    for entries, key in ((content["categories"], "id"), (content["annotations"], "category_id")):
        for entry in entries:
            entry[key] = 70 - entry[key]
    content["categories"].append({"id": 200, "name": "green"})
    put(plain / "annotations/instances_val.json", content)
    assert spnas("check", plain, "--preset", "smoke", "--mend", tmp_path / "made")[0] in (0, 1)
    kinds = {json.dumps(read(tmp_path / "made", split)["categories"]) for split in SPLITS}
    assert len(kinds) == 1
    assert {split: boxes(open_split(str(tmp_path / "made"), split)) for split in SPLITS} == before


def test_nothing_to_learn_or_to_score_is_refused_before_a_training(plain: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        content = read(plain, split)
        put(plain / f"annotations/instances_{split}.json", {**content, "annotations": []})
        done = spnas("plan", "smoke", "--no-measure", "--data", str(plain), "--store", str(tmp_path / "store"))
        assert done[0] == 2
        assert re.search(rf"{split}: expected boxes to (learn|score with), got none$", done[2].strip().splitlines()[-1])
        crowds = [{**mark, "iscrowd": 1} for mark in content["annotations"]]
        put(plain / f"annotations/instances_{split}.json", {**content, "annotations": crowds})
        done = spnas("plan", "smoke", "--no-measure", "--data", str(plain), "--store", str(tmp_path / "store"))
        assert "crowds; --set data.crowds=learn takes them as objects" in done[2]
        done = spnas(
            "plan", "smoke", "--no-measure", "--data", str(plain), "--store", str(tmp_path / "store"), "--set", "data.crowds=learn"
        )
        assert done[0] == 0, done[2]
        put(plain / f"annotations/instances_{split}.json", content)


def test_crowds_that_are_learnt_are_objects_as_all_others(plain: Path) -> None:
    content = read(plain, "train")
    before = open_split(str(plain), "train")
    for mark in content["annotations"]:
        mark["iscrowd"] = 1
    put(plain / "annotations/instances_train.json", content)
    assert open_split(str(plain), "train").box_counts.sum() == 0
    learnt = open_split(str(plain), "train", reading=Reading(crowds="learn"))
    assert learnt.annotations == before.annotations
    assert boxes(learnt) == boxes(before)


@pytest.mark.parametrize("value", [2, 255, 256, 257, -1, 2**40])
def test_a_flag_is_0_or_1(value: int, plain: Path) -> None:
    content = read(plain, "train")
    content["annotations"][0]["iscrowd"] = value
    put(plain / "annotations/instances_train.json", content)
    with pytest.raises(UserError, match=f"expected 0 or 1 as 'iscrowd', got {value}"):
        open_split(str(plain), "train")


def test_files_of_other_tasks_are_no_splits(plain: Path) -> None:
    """As in COCO 2017's own folder of annotations."""
    expected = {split: boxes(open_split(str(plain), split)) for split in SPLITS}
    for split in SPLITS:
        content = read(plain, split)
        captions = {**content, "annotations": [{"id": 1, "image_id": content["images"][0]["id"], "caption": "squares"}]}
        put(plain / f"annotations/captions_{split}.json", {key: value for key, value in captions.items() if key != "categories"})
        put(plain / f"annotations/person_keypoints_{split}.json", {**content, "annotations": []})
        put(plain / f"annotations/panoptic_{split}.json", content)
    put(plain / "annotations/image_info_test-dev.json", read(plain, "test"))
    data = DataSet(str(plain))
    assert {split: boxes(data.split(split)) for split in data.names} == expected


def parsed(content: bytes) -> annotations.Clean | str:
    """What the fast parser takes of a file, or the error."""
    columns = coco_parser.parse_coco(content)
    if columns is None:
        return "a closer look"
    try:
        return annotations.clean_columns(columns, "here")
    except UserError as error:
        return str(error)


def slowly(content: bytes) -> annotations.Clean | str:
    """What the general reader takes of a file, or the error."""
    try:
        mended, findings = mend_document(json.loads(content), "train", lambda names: {})
        if any(one.kind != "annotation-id" for one in findings):
            return "mended"
        return annotations.clean_document(mended, "here")
    except UserError as error:
        return str(error)


def same(one: annotations.Clean | str, other: annotations.Clean | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return re.sub(r"annotation \d+", "annotation", str(one)) == re.sub(r"annotation \d+", "annotation", str(other))
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("images", "boxes", "labels", "marks"))
    return arrays and (one.names, one.categories, one.faults) == (other.names, other.categories, other.faults)


ORDER = st.permutations(["info", "images", "categories", "annotations", "extra"])
NUMBER = st.floats(-20, 80, allow_nan=False).map(lambda value: round(value, 2))
MARK = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from([11, 21, 31]),
        "category_id": st.sampled_from([3, 7, 90]),
        "bbox": st.tuples(NUMBER, NUMBER, NUMBER, NUMBER),
    },
    optional={
        "id": st.integers(0, 2**40),
        "iscrowd": st.integers(0, 1),
        "area": st.floats(-1, 1e6, allow_nan=False),
        "segmentation": st.just([[1.5, 2, 3, 4, 5, 6]]),
        "attributes": st.sampled_from(['}, {"', {"a": [{"bbox": [1, 2, 3, 4]}, {}]}, "]}", {"annotations": [{}]}]),
    },
)


@settings(max_examples=60)
@given(st.lists(MARK, max_size=12), ORDER, st.sampled_from([None, 1, 4]), st.integers(1, 200))
def test_the_fast_parser_and_the_general_reader_agree(
    marks: list[dict[str, Any]], order: list[str], indent: int | None, piece: int
) -> None:
    """Whatever the order of keys, the spaces, texts that look like JSON, and the place where a piece ends."""
    plain = document(3)
    parts = {**plain, "annotations": marks, "info": {"annotations": "none"}, "extra": [{"x": [1]}]}
    content = json.dumps({key: parts[key] for key in order}, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_parser, "PIECE", piece)
        fast = parsed(content)
    slow = slowly(content)
    if slow == "mended":
        assert fast == "a closer look"
    else:
        assert same(fast, slow)


@settings(max_examples=60)
@given(changed(document(3)))
def test_a_changed_document_is_never_read_otherwise(content: Any) -> None:
    text = json.dumps(content).encode()
    fast = parsed(text)
    assert fast == "a closer look" or same(fast, slowly(text))


def test_columns_have_what_the_document_has() -> None:
    columns = columns_of(document(2))
    assert columns.image_ids.tolist() == [21, 11]
    assert columns.marks["bbox"].tolist()[0] == [2.0, 4.0, 20.0, 30.0]
    assert columns.marks["category_id"].tolist() == [7, 3, 7, 3]


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set whose files are large enough for an index, with an empty cache."""
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_source, "LARGE", 1)
    monkeypatch.setattr(coco_source, "_cleaned", type(coco_source._cleaned)(1))
    make(str(tmp_path / "data"), document(6))
    os.utime(tmp_path / "data/annotations/instances_train.json", (1e9, 1e9))  # one that was changed just now is parsed while it is hashed
    return tmp_path


def test_an_index_has_what_the_file_has(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_split(str(indexed / "data"), "train")
    (folder,) = (indexed / "cache/index").iterdir()
    monkeypatch.setattr(coco_source, "_cleaned", type(coco_source._cleaned)(1))
    monkeypatch.setattr(coco_source, "parse_coco", lambda _: pytest.fail("the file is parsed again"))
    second = open_split(str(indexed / "data"), "train")
    assert isinstance(second.samples[0].boxes.base, np.ndarray)
    assert second.annotations == first.annotations
    assert boxes(second) == boxes(first)
    assert fingerprint_splits([second]) == fingerprint_splits([first])
    monkeypatch.undo()
    monkeypatch.setenv("SPNAS_CACHE", str(indexed / "cache"))
    monkeypatch.setattr(coco_source, "LARGE", 1)
    for name in ("facts.json", "boxes.npy", "marks.npy"):
        monkeypatch.setattr(coco_source, "_cleaned", type(coco_source._cleaned)(1))
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        assert boxes(open_split(str(indexed / "data"), "train")) == boxes(first), "an index that is cut off is made again"
        assert (folder / name).read_bytes() == content


def test_a_changed_file_has_another_index(indexed: Path) -> None:
    open_split(str(indexed / "data"), "train")
    content = document(6)
    content["annotations"] = content["annotations"][:3]
    put(indexed / "data/annotations/instances_train.json", content)
    assert open_split(str(indexed / "data"), "train").box_counts.sum() == 3
    assert len(list((indexed / "cache/index").iterdir())) == 2


@pytest.mark.parametrize("large", [1, 1 << 22], ids=["large file", "small file"])
def test_sizes_that_the_file_lacks_are_those_of_the_pictures_now(plain: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    """Of one annotation file, after its pictures were cut; neither the index nor the process remembers the old sizes."""
    monkeypatch.setenv("SPNAS_CACHE", str(plain / "cache"))
    monkeypatch.setattr(coco_source, "LARGE", large)
    content = read(plain, "train")
    for entry in content["images"]:
        del entry["width"], entry["height"]
    put(plain / "annotations/instances_train.json", content)
    before = open_split(str(plain), "train").samples
    for one in before:
        path = plain / "images" / one.name
        with Image.open(path) as picture:
            picture.crop((0, 0, one.width - 7, one.height - 3)).save(path)
    after = open_split(str(plain), "train").samples
    assert [(one.width, one.height) for one in after] == [(one.width - 7, one.height - 3) for one in before]


def test_the_oldest_indexes_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path))
    monkeypatch.setattr(index, "KEPT", 3)
    clean = annotations.clean_document(document(2), "here")
    for number in range(6):
        assert same(index.indexed(str(number), "", lambda: clean), clean)
    assert len(list((tmp_path / "index").iterdir())) == 3


def test_images_are_verified_once_per_content(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By later processes too, and hard links of one file once; a file that was changed is read again."""
    from spnas_core.data import fingerprints, images

    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    read_files: list[Path] = []
    probe = images.probe
    monkeypatch.setattr(images, "probe", lambda path, *words: read_files.append(path) or probe(path, *words))
    names = sorted((plain / "images").glob("train_*"))
    for path in names[1:]:
        path.unlink()
        os.link(names[0], path)
    for path in (plain / "images").iterdir():
        os.utime(path, (1e9, 1e9))
    verify_images(open_split(str(plain), "train"))
    assert len(read_files) == 1
    monkeypatch.setattr(fingerprints._Verified, "_of_process", set())
    verify_images(open_split(str(plain), "train"))
    assert len(read_files) == 1, "another process has read it"
    content = names[0].read_bytes()
    names[0].write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(fingerprints._Verified, "_of_process", set())
    with pytest.raises(UserError, match="expected a whole image file"):
        verify_images(open_split(str(plain), "train"))


def test_a_store_hands_the_index_of_remote_data_to_other_hosts(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second host, with an empty cache, neither parses the annotation file nor copies it."""
    url, store = "memory://index-test/set", Store(str(indexed / "store"))
    memory = fsspec.filesystem("memory")
    make(url, document(6))
    try:
        first = DataSet(url, store=store).split("train")
        (digest,) = [path.name for path in (indexed / "store/index").iterdir()]
        assert store.find("index", digest)
        monkeypatch.setenv("SPNAS_CACHE", str(indexed / "other host"))
        monkeypatch.setattr(coco_source, "_cleaned", type(coco_source._cleaned)(1))
        monkeypatch.setattr(coco_source, "parse_coco", lambda _: pytest.fail("the file is parsed again"))
        monkeypatch.setattr(files, "local_file", lambda _: pytest.fail("a file is copied"))
        second = DataSet(url, store=store).split("train")
        assert second.annotations == first.annotations
        assert fingerprint_splits([second]) == fingerprint_splits([first])
        monkeypatch.undo()
        assert spnas("store", "verify", indexed / "store")[0] == 0
    finally:
        memory.rm("/index-test", recursive=True)
