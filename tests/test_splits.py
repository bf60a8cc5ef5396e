"""One door to a data set in any layout: a folder in Pascal VOC or YOLO and its conversion to COCO are the same data, read once."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from checked import as_voc, as_yolo
from conftest import write_data
from data_sets import encoded, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from spnas_core.check.dataset import inspect, write_as_coco
from spnas_core.data import coco_source, content, files, fingerprints, image_facts, images, layout_source, splits, voc, yolo
from spnas_core.data.fingerprints import fingerprint_splits
from spnas_core.data.recent import Recent
from spnas_core.data.samples import Split
from spnas_core.data.splits import open_split
from spnas_core.errors import UserError
from spnas_core.jobs.runner import run_job
from spnas_core.report.inputs import readable_split
from spnas_core.run.opening import open_plan

NAMES = ("cat", "dog", "emu")
WIDTH, HEIGHT = 64, 48
Mark = tuple[int, int, int, int, int, bool]  # class, xywh px, difficult


@pytest.fixture(params=["voc", "yolo", "yolo inside"])
def other(request: pytest.FixtureRequest, small: Path, tmp_path: Path) -> Path:
    """The small data set in another layout."""
    if request.param == "voc":
        return as_voc(small, tmp_path / "other")
    return as_yolo(small, tmp_path / "other", inner=request.param == "yolo inside")


def assert_same(found: Split, expected: Split) -> None:
    """Equal samples, boxes, labels and categories; files may lie elsewhere, by another name."""
    assert found.categories == expected.categories
    assert found.annotations["annotations"] == expected.annotations["annotations"]
    for one, two in zip(found.samples, expected.samples, strict=True):
        assert (one.image_id, one.width, one.height, one.file_size) == (two.image_id, two.width, two.height, two.file_size)
        assert Path(one.file).read_bytes() == Path(two.file).read_bytes()
        np.testing.assert_array_equal(one.boxes, two.boxes)
        np.testing.assert_array_equal(one.labels, two.labels)
        assert (one.boxes.dtype, one.labels.dtype) == (two.boxes.dtype, two.labels.dtype)


def test_a_folder_and_its_conversion_are_the_same_data(other: Path, tmp_path: Path) -> None:
    write_as_coco(inspect(str(other), presets.load_preset("demo")), str(tmp_path / "made"))
    assert splits.DataSet(str(other)).names == splits.DataSet(str(tmp_path / "made")).names == ("train", "val")
    for name in ("train", "val"):
        opened = open_split(str(other), name, strict=True)
        assert sum(len(sample.boxes) for sample in opened.samples) > 8
        assert_same(opened, open_split(str(tmp_path / "made"), name, strict=True))
        fingerprints.verify_images(opened)


def write_voc(folder: Path, marks: Sequence[Sequence[Mark]]) -> None:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for number, some in enumerate(marks):
        (folder / f"JPEGImages/{number}.jpg").write_bytes(encoded(picture(WIDTH, HEIGHT, number)))
        objects = "".join(
            f"<object><name>{NAMES[k]}</name><difficult>{int(hard)}</difficult><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for k, x, y, w, h, hard in some
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>" if number % 2 else ""  # else the file's own counts
        (folder / f"Annotations/{number}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (folder / "ImageSets/Main/train.txt").write_text("\n".join(map(str, range(len(marks)))))


def write_yolo(folder: Path, marks: Sequence[Sequence[Mark]]) -> None:
    for part in ("images/train", "labels/train"):
        (folder / part).mkdir(parents=True)
    for number, some in enumerate(marks):
        (folder / f"images/train/{number}.jpg").write_bytes(encoded(picture(WIDTH, HEIGHT, number)))
        lines = [f"{k} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} {w / WIDTH:.6f} {h / HEIGHT:.6f}" for k, x, y, w, h, _ in some]
        (folder / f"labels/train/{number}.txt").write_text("\n".join(lines))
    (folder / "classes.txt").write_text("\n".join(NAMES))


MARKS = st.tuples(st.integers(0, 2), st.integers(-20, 64), st.integers(-20, 48), st.integers(0, 40), st.integers(0, 40), st.booleans())
LARGER = MARKS.filter(lambda mark: mark[1] + mark[3] > 3 or mark[2] + mark[4] > 3)  # the check takes less than a pixel for normalised


@settings(max_examples=40)
@given(st.lists(st.lists(LARGER, max_size=4), min_size=1, max_size=3).filter(any), st.sampled_from([write_voc, write_yolo]))
def test_boxes_are_cleaned_alike_in_every_layout(
    tmp_path_factory: pytest.TempPathFactory, marks: list[list[Mark]], write: Callable[[Path, Sequence[Sequence[Mark]]], None]
) -> None:
    """Also boxes without area, outside of their image or reaching out of it, and crowds."""
    folder = tmp_path_factory.mktemp("any")
    write(folder / "other", marks)
    opened = open_split(str(folder / "other"), "train")
    write_as_coco(inspect(str(folder / "other"), presets.load_preset("demo")), str(folder / "made"))
    assert_same(opened, open_split(str(folder / "made"), "train"))
    if {"zero area", "outside", "clipped"} & opened.dropped.keys():
        with pytest.raises(UserError, match="expected boxes with an area and inside their image") as caught:
            open_split(str(folder / "other"), "train", strict=True)
        assert "\n" not in str(caught.value)


def fingerprint(url: str, full: bool = False) -> str:
    return fingerprint_splits([open_split(url, name) for name in ("train", "val")], full)


@pytest.mark.parametrize("full", [False, True])
def test_a_fingerprint_is_of_the_data_and_not_of_its_place(other: Path, full: bool) -> None:
    before = fingerprint(str(other), full)
    shutil.copytree(other, other.parent / "copy")
    memory = fsspec.filesystem("memory")
    memory.put(str(other), "/splits-test/data", recursive=True)
    try:
        assert fingerprint(str(other.parent / "copy"), full) == fingerprint("memory://splits-test/data", full) == before
    finally:
        memory.rm("/splits-test", recursive=True)


@pytest.mark.parametrize("pattern", ["*.xml", "*/0001.txt", "*.jpg"])
def test_a_fingerprint_changes_with_any_file_that_counts(pattern: str, other: Path) -> None:
    changed = next((path for path in sorted(other.rglob("*")) if path.match(pattern)), None)
    if changed is None:
        pytest.skip("another layout's files")
    before = fingerprint(str(other))
    text = changed.read_bytes()
    changed.write_bytes(text + b"\n0 0.5 0.5 0.1 0.1\n" if pattern == "*/0001.txt" else text.replace(b"<xmax>", b"<xmax>1", 1) + b"\n")
    after = fingerprint(str(other))
    assert after != before
    changed.write_bytes(text)
    assert fingerprint(str(other)) == before


def break_yolo(folder: Path, fault: str) -> None:
    image, label = folder / "images/train/0001.jpg", folder / "labels/train/0001.txt"
    if fault == "malformed":
        label.write_text("0 0.5 x 0.1 0.1\n1 2\n")
    elif fault == "unknown category":
        label.write_text("9 0.5 0.5 0.1 0.1\n")
    elif fault == "no image":
        image.write_bytes(b"no image")
    elif fault == "no split":
        shutil.rmtree(folder / "images/train")
    elif fault == "lists":
        describe(folder, train="train.txt", val="val.txt")
    elif fault == "no names":
        describe(folder, names=[])
    elif fault == "one split in two":
        describe(folder, train=["images/train", "images/val"])


def describe(folder: Path, **keys: Any) -> None:
    """Change keys of the YAML file of a YOLO folder."""
    path = folder / "data.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("malformed", r"yolo train: labels/train/0001.txt, line 1: expected a class and parts .* \(and 1 more\)$"),
        ("unknown category", r"yolo train: labels of images/train/0001.jpg: expected one of the 4 classes that have a name, got class 9$"),
        ("no image", r"yolo train: image 'images/train/0001.jpg': expected an image file, got one whose size cannot be read \(1 such\)$"),
        ("no split", r"yolo: expected a split 'train', got val \(YOLO\)$"),
        ("lists", r"yolo train: 2 places of images that are not there \(train.txt\)$"),
        ("no names", r"yolo train: 4 categories without a name \(class_0\)$"),
        ("one split in two", r"yolo train: expected splits without common images, got 'images/val/.* in val too \(8 such\)$"),
    ],
)
def test_a_fault_of_yolo_is_one_line(fault: str, words: str, small: Path, tmp_path: Path) -> None:
    folder = as_yolo(small, tmp_path / "yolo")
    break_yolo(folder, fault)
    with pytest.raises(UserError, match=words) as caught:
        open_split(str(folder), "train")
    assert "\n" not in str(caught.value)
    if fault in ("malformed", "unknown category", "no image"):
        assert len(open_split(str(folder), "val").samples) == 8, "the other split is read"


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("Annotations/train_0001.xml", b"<annotation>", r"voc train: Annotations/train_0001.xml: expected XML, got: "),
        ("JPEGImages/train_0001.jpg", None, r"voc train: image 'JPEGImages/train_0001.jpg' is not there \(1 missing\)$"),
        ("ImageSets/Main/train.txt", b"", r"voc train: expected at least one image, got none$"),
        ("Annotations/train_0001.xml", None, r"voc train: 1 image without an annotation file \(JPEGImages/train_0001.jpg\)$"),
    ],
)
def test_a_fault_of_pascal_voc_is_one_line(path: str, content: bytes | None, words: str, small: Path, tmp_path: Path) -> None:
    folder = as_voc(small, tmp_path / "voc")
    (folder / path).unlink() if content is None else (folder / path).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        open_split(str(folder), "train")
    assert "\n" not in str(caught.value)


def boxes_of(folder: Path) -> dict[str, list[list[float]]]:
    """Boxes of the train split by image."""
    return {Path(sample.name).stem: sample.boxes.round(1).tolist() for sample in open_split(str(folder), "train").samples}


def test_an_xml_file_belongs_to_the_picture_of_its_name(small: Path, tmp_path: Path) -> None:
    """A set whose files were renamed keeps the old names inside; a folder among the XML files is none of them."""
    folder = as_voc(small, tmp_path / "voc")
    before = boxes_of(folder)
    pages = sorted((folder / "Annotations").glob("train_*.xml"))
    names = [re.search(r"<filename>(.*?)</filename>", page.read_text())[1] for page in pages]  # type: ignore[index]
    for page, name in zip(pages, [*names[1:], names[0]], strict=True):
        page.write_text(re.sub(r"<filename>.*?</filename>", f"<filename>{name}</filename>", page.read_text()))
    (folder / "Annotations" / "more.xml").mkdir()
    assert boxes_of(folder) == before


@pytest.mark.parametrize("shape", [[4, 2], [3, 3]])
def test_of_pose_labels_the_box_is_read(shape: list[int], small: Path, tmp_path: Path) -> None:
    folder = as_yolo(small, tmp_path / "yolo")
    before = boxes_of(folder)
    describe(folder, kpt_shape=shape)
    for label in (folder / "labels").rglob("*.txt"):
        points = " 0.1" * (shape[0] * shape[1])
        label.write_text("".join(f"{line}{points}\n" for line in label.read_text().splitlines()))
    assert boxes_of(folder) == before


def test_names_by_text_keys_and_files_with_a_mark_of_byte_order(small: Path, tmp_path: Path) -> None:
    folder = as_yolo(small, tmp_path / "yolo")
    before, names = boxes_of(folder), json.loads((folder / "data.yaml").read_text())["names"]
    for label in (folder / "labels").rglob("*.txt"):
        label.write_bytes(b"\xef\xbb\xbf" + label.read_bytes().replace(b"\n", b"\r\n"))
    describe(folder, names={str(number): name for number, name in enumerate(names)})
    assert boxes_of(folder) == before
    assert open_split(str(folder), "train").class_names == tuple(names)
    describe(folder, names=None)
    (folder / "classes.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(names).encode())
    assert open_split(str(folder), "train").class_names == tuple(names)


def test_a_broken_image_is_found_after_a_whole_one(tmp_path: Path, tiny_data: Path) -> None:
    """Images are read once as long as they stay the same."""
    folder = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    split = open_split(str(folder), "train")
    fingerprints.verify_images(split)
    victim = Path(split.samples[0].file)
    victim.write_bytes(b"x" * victim.stat().st_size)
    with pytest.raises(UserError, match="expected a whole image file"):
        fingerprints.verify_images(split)


def test_a_size_by_the_header_is_the_size_of_the_pixels(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        for orientation in (1, 3, 6):
            exif = picture().getexif()
            exif[0x0112] = orientation
            path = tmp_path / f"{kind}{orientation}"
            path.write_bytes(encoded(picture(50, 30), kind, exif=exif))
            height, width = images.decode_image(path).shape[:2]
            assert images.header_size(path) == (width, height) == images.look(path).size
    (tmp_path / "text").write_text("no image")
    with pytest.raises(UserError, match="expected a whole image file"):
        images.header_size(tmp_path / "text")
    assert image_facts.header_sizes([str(path), str(tmp_path / "text")]) == {str(path): (30, 50), str(tmp_path / "text"): None}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each piece of work is done that reads, parses or cleans."""
    counts: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        work = getattr(module, name)

        def counted(*words: Any, **named: Any) -> Any:
            counts[name] += 1
            return work(*words, **named)

        monkeypatch.setattr(module, name, counted)

    count(coco_source, "parse_coco")
    monkeypatch.setattr(layout_source, "_cleaned", Recent(4))
    count(coco_source, "clean_columns")
    count(layout_source, "clean_document")
    count(content, "sha256_file")
    count(images, "look")
    count(images, "header_size")
    count(voc, "read_page")
    count(yolo, "read_label")
    return counts


def as_unique_coco(folder: Path) -> Path:
    """Coloured squares in COCO layout, with annotations that no other test has read."""
    write_data(folder, {"train": 4, "val": 2, "test": 1})
    for path in (folder / "annotations").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "info": str(path)}))
    return folder


def test_a_run_parses_and_verifies_each_file_once(calls: Counter[str], tmp_path: Path) -> None:
    """The command opens the plan, the flow opens it again, and the report reads val: 3 annotation files, 4 + 2 images to verify."""
    data = as_unique_coco(tmp_path / "data")
    chosen = presets.load_preset("smoke", ["fingerprint=full"])
    first, second = (open_plan(chosen, str(data), str(tmp_path / "store")) for _ in range(2))
    assert first.keys == second.keys
    val, _ = readable_split(second.settings.work, second.data, second.data.val)
    assert val
    assert calls == {"parse_coco": 3, "clean_columns": 3, "look": 6, "sha256_file": 7}
    path = data / "images" / "train_0.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"train_0.png: expected a whole image file"):
        open_plan(chosen, str(data), str(tmp_path / "store"))


def test_other_layouts_are_parsed_once(calls: Counter[str], other: Path, tmp_path: Path) -> None:
    first, second = (open_plan(presets.load_preset("smoke"), str(other), str(tmp_path / "store")) for _ in range(2))
    assert first.keys == second.keys
    assert (first.counts.train, first.counts.val, first.counts.test, first.test) == (16, 8, 0, None)
    voc_like = (other / "Annotations").exists()
    parsed = {"read_page": 24} if voc_like else {"read_label": 24, "header_size": 24}
    assert calls == {"clean_document": 2, "look": 24, **parsed}


def test_a_listing_tells_when_to_parse_again(calls: Counter[str], small: Path, tmp_path: Path) -> None:
    folder = as_yolo(small, tmp_path / "yolo")
    open_split(str(folder), "train")
    (folder / "labels/train/0001.txt").write_text("1 0.5 0.5 0.25 0.25\n")
    assert open_split(str(folder), "train").samples[0].labels.tolist() == [2]
    assert calls["read_label"] == 48
    shutil.copy(folder / "images/train/0001.jpg", folder / "images/train/9999.jpg")
    assert len(open_split(str(folder), "train").samples) == 17
    (folder / "data.yaml").write_text(json.dumps({"names": ["x", "y", "z", "w"]}))
    assert open_split(str(folder), "train").class_names == ("x", "y", "z", "w")


def test_a_place_in_no_layout_is_not_searched_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder given by mistake: it is left as soon as there are more folders than those of a data set."""
    for number in range(2_100):
        (tmp_path / f"a{number}/b").mkdir(parents=True)
    listed: list[str] = []
    list_folder = files.list_folder
    monkeypatch.setattr(files, "list_folder", lambda system, path: listed.append(path) or list_folder(system, path))
    with pytest.raises(UserError, match=r"expected a data set, got a place with 2,\d\d\d folders and more, 2,\d\d\d of them without"):
        open_split(str(tmp_path), "train")
    assert not any("/b" in path.removeprefix(str(tmp_path)) for path in listed)


def test_recent_values_are_made_once_and_the_oldest_give_way() -> None:
    made: list[int] = []
    recent: Recent[int] = Recent(2)

    def make(value: int) -> int:
        made.append(value)
        return value

    for value in (1, 2, 1, 3, 1, 2):  # 2 gives way to 3
        assert recent.get(value, lambda value=value: make(value)) == value
    assert made == [1, 2, 3, 2]
    with pytest.raises(ZeroDivisionError):
        recent.get(0, lambda: 1 // 0)
    assert recent.get(0, lambda: 7) == 7


@pytest.fixture(scope="module")
def yolo_folder(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set in YOLO layout, with a test split."""
    folder = tmp_path_factory.mktemp("as-it-is") / "yolo"
    for split in ("train", "val", "test"):
        document = json.loads((tiny_data / f"annotations/instances_{split}.json").read_text())
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        order = [kind["id"] for kind in document["categories"]]
        for image in document["images"]:
            shutil.copy(tiny_data / "images" / image["file_name"], folder / "images" / split)
            lines = []
            for mark in (mark for mark in document["annotations"] if mark["image_id"] == image["id"]):
                x, y, w, h = (value / 64 for value in mark["bbox"])
                lines.append(f"{order.index(mark['category_id'])} {x + w / 2} {y + h / 2} {w} {h}")
            (folder / "labels" / split / image["file_name"].replace(".png", ".txt")).write_text("\n".join(lines))
    (folder / "classes.txt").write_text("red\nblue\n")
    return folder


@pytest.mark.training
def test_a_yolo_folder_is_trained_on_as_it_is(yolo_folder: Path, tmp_path: Path) -> None:
    """The first job of a run on it, by a real process; `spnas eval` scores its net on the same folder."""
    plan = open_plan(presets.load_preset("smoke"), str(yolo_folder), str(tmp_path / "store"))
    job = plan.train(plan.settings.arch, plan.settings.detector, plan.settings.fine_tune)
    trained = run_job(job, plan.store.url)
    assert 0 <= trained.metrics["AP"] <= 1
    assert (plan.counts.train, plan.counts.val, plan.counts.test) == (8, 4, 2)
    model = tmp_path / "store/train" / trained.digest
    scored = CliRunner().invoke(app, ["eval", str(model), "--data", str(yolo_folder), "--split", "test", "--json"])
    assert scored.exit_code == 0, scored.output
    assert 0 <= json.loads(scored.stdout)["AP"] <= 1


@pytest.mark.training
@pytest.mark.long
def test_a_run_on_a_yolo_folder_comes_to_its_end(yolo_folder: Path, tmp_path: Path) -> None:
    words = ["--set", "serial.candidates=1", "--store", str(tmp_path / "store"), "--json"]
    result = CliRunner().invoke(app, ["run", "smoke", "--data", str(yolo_folder), *words])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["table"]
    jobs = [json.loads(path.read_text())["job"] for path in (tmp_path / "store/evaluate").glob("*/manifest.json")]
    assert {job["split"] for job in jobs} == {"val", "test"}
