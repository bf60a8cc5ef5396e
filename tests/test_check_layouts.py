"""Pascal VOC and YOLO read as COCO: boxes survive, faults of their files are found, and what is converted can be learnt."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fsspec
import numpy as np
import pytest
from checked import as_voc, as_yolo, read, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_check import found, image
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from spnas_core.check import dataset as check
from spnas_core.data import fingerprints, splits, voc
from spnas_core.data.yolo_lines import label_boxes, read_label
from spnas_core.errors import UserError

SETTINGS = presets.load_preset("demo")
run = CliRunner()


@pytest.fixture(params=["voc", "yolo", "yolo inside"])
def other(request: pytest.FixtureRequest, small: Path, tmp_path: Path) -> Path:
    """The small data set in another layout."""
    if request.param == "voc":
        return as_voc(small, tmp_path / "other")
    return as_yolo(small, tmp_path / "other", inner=request.param == "yolo inside")


def boxes_of(document: dict[str, Any]) -> list[list[tuple[str, list[float]]]]:
    """Sorted (category, box) of each image, in the order of the images' names."""
    names = {kind["id"]: kind["name"] for kind in document["categories"]}
    images = sorted(document["images"], key=lambda one: str(one["file_name"]))
    marks = [[mark for mark in document["annotations"] if mark["image_id"] == one["id"]] for one in images]
    return [sorted((names[mark["category_id"]], mark["bbox"]) for mark in some) for some in marks]


def test_another_layout_has_the_same_boxes_and_is_clean(other: Path, small: Path) -> None:
    report = check.inspect(str(other), SETTINGS)
    assert report.clean
    assert [one.split for one in report.splits] == ["train", "val"]
    for source in report.layout.sources:
        original = boxes_of(read(small, source.split))
        tolerance = 1.0 if report.layout.name == "Pascal VOC" else 0.01  # boxes to whole pixels
        for some, expected in zip(boxes_of(source.document), original, strict=True):
            assert [name for name, _ in some] == [name for name, _ in expected]
            np.testing.assert_allclose([box for _, box in some], [box for _, box in expected], atol=tolerance)


def test_what_is_converted_can_be_learnt_and_is_clean(other: Path, tmp_path: Path) -> None:
    result = run.invoke(app, ["check", str(other), "--preset", "demo", "--to-coco", str(tmp_path / "made")])
    assert result.exit_code == 0, result.output
    assert f"written to {tmp_path / 'made'}: train 16 images" in result.stdout
    assert found(tmp_path / "made") == set()
    for source in check.inspect(str(other), SETTINGS).layout.sources:
        split = splits.open_split(str(tmp_path / "made"), source.split, strict=True)
        fingerprints.verify_images(split)
        assert boxes_of(split.annotations) == boxes_of(source.document)
    before = sorted((tmp_path / "made").rglob("*"))
    again = run.invoke(app, ["check", str(other), "--preset", "demo", "--to-coco", str(tmp_path / "made")])
    assert again.exit_code == 2
    assert "expected a new or empty folder" in again.stderr
    assert sorted((tmp_path / "made").rglob("*")) == before
    assert not list(tmp_path.glob(".*")), "nothing half done beside it"
    third = run.invoke(app, ["check", str(tmp_path / "made"), "--preset", "demo", "--to-coco", str(tmp_path / "third")])
    assert third.exit_code == 0, third.output
    for split in ("train", "val"):
        assert read(tmp_path / "third", split) == read(tmp_path / "made", split)


def test_remote_data_is_checked_and_converted(other: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(other), "/check-test/data", recursive=True)
    try:
        report = check.inspect("memory://check-test/data", SETTINGS)
        assert report.clean
        assert report.layout.url == "memory:///check-test/data"
        check.write_as_coco(report, "memory://check-test/made")
        assert found("memory://check-test/made") == set()
        with pytest.raises(UserError, match="something already"):
            check.write_as_coco(report, "memory://check-test/made")
        result = run.invoke(app, ["check", "memory://check-test/made", "--picture", "memory://check-test/samples.png"])
        assert result.exit_code == 0, result.output
        assert memory.cat_file("/check-test/samples.png").startswith(b"\x89PNG")
    finally:
        memory.rm("/check-test", recursive=True)


def test_broken_parts_are_left_out_of_the_conversion(small: Path, tmp_path: Path) -> None:
    folder = as_yolo(small, tmp_path / "yolo")
    image(folder).write_bytes(b"no image")
    label = folder / "labels/train/0002.txt"
    label.write_text(label.read_text() + "0 0.5 0.5 0 0.1\n9 0.5 0.5 0.1 0.1\n")
    assert found(folder) == {("broken-image", "train", 1), ("zero-area", "train", 1), ("undefined-category", "train", 1)}
    result = run.invoke(app, ["check", str(folder), "--preset", "demo", "--to-coco", str(tmp_path / "made")])
    assert result.exit_code == 1
    assert "images left out: 1" in result.stdout
    assert found(tmp_path / "made") == set()
    assert len(read(tmp_path / "made")["images"]) == 15


def edit_page(folder: Path, path: str, text: str | None) -> None:
    """Change one element of the first XML file, or with None remove it."""
    page = folder / "Annotations/train_0001.xml"
    tree = ElementTree.parse(page)
    element = tree.find(path)
    assert element is not None
    if text is None:
        parents = {child: parent for parent in tree.iter() for child in parent}
        parents[element].remove(element)
    else:
        element.text = text
    tree.write(page)


def breaker(make: Callable[[Path, Path], Path], small: Path, folder: Path) -> Callable[[Callable[[Path], Any]], Any]:
    """What tells the findings in the small data, written by `make` to a new `folder`, after an edit of that."""

    def broken(edit: Callable[[Path], Any]) -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        edit(make(small, folder))
        return found(folder)

    return broken


def test_faults_of_pascal_voc(small: Path, tmp_path: Path) -> None:
    broken = breaker(as_voc, small, tmp_path / "voc")
    page, pictures, lists = "Annotations/train_0001.xml", "JPEGImages", "ImageSets/Main"
    assert broken(lambda f: edit_page(f, "object/bndbox/xmin", "wide")) == {("malformed", "train", 1)}
    assert broken(lambda f: edit_page(f, "size", None)) == set(), "the size is the image's"
    assert broken(lambda f: edit_page(f, "filename", "elsewhere.jpg")) == set(), "the image has the name of the XML file"
    assert broken(lambda f: edit_page(f, "object/bndbox/xmin", "0")) == {("from-zero", "data", 24)}
    assert broken(lambda f: (f / page).write_text("<annotation>")) == {("malformed", "train", 1)}
    assert broken(lambda f: (f / page).unlink()) == {("missing-label", "train", 1), ("image-without-boxes", "train", 1)}
    assert broken(lambda f: (f / pictures / "train_0001.jpg").unlink()) == {("missing-image", "train", 1)}
    assert broken(lambda f: (f / lists / "val.txt").write_text((f / lists / "val.txt").read_text() + "train_0001\n")) == {
        ("leak", "train and val", 1)
    }
    assert broken(lambda f: shutil.rmtree(f / "ImageSets")) == {("missing-split", "data", 2)}, "all is one split"
    assert broken(lambda f: (f / lists / "val.txt").unlink()) == {("unlisted-image", "data", 8), ("missing-split", "data", 1)}

    def mark_difficult(folder: Path) -> None:
        tree = ElementTree.parse(folder / page)
        first = tree.find("object")
        assert first is not None
        ElementTree.SubElement(first, "difficult").text = "1"
        tree.write(folder / page)

    assert broken(mark_difficult) == {("difficult", "train", 1)}


def test_faults_of_yolo(small: Path, tmp_path: Path) -> None:
    broken = breaker(as_yolo, small, tmp_path / "yolo")

    def add(line: str) -> Any:
        return lambda f: (f / label).write_text((f / label).read_text() + line + "\n")

    label = "labels/train/0001.txt"
    assert broken(add("1 0.5 0.5 0.1")) == {("malformed", "train", 1)}
    assert broken(add("1 120 80 30 40")) == {("malformed", "train", 1)}
    assert broken(add("dog 0.5 0.5 0.1 0.1")) == {("malformed", "train", 1)}
    assert broken(add("1 0.5 0.5 0.1 nan")) == {("malformed", "train", 1)}
    assert broken(add("1 0.98 0.5 0.2 0.1")) == {("clipped", "train", 1)}
    assert broken(add("8 0.5 0.5 0.1 0.1")) == {("undefined-category", "train", 1)}
    assert broken(add("1 0.1 0.1 0.3 0.1 0.3 0.4")) == set(), "a polygon"
    assert broken(add("")) == set()
    assert broken(lambda f: (f / label).unlink()) == {("image-without-boxes", "train", 1)}
    assert broken(lambda f: (f / "images/train/0001.jpg").unlink()) == {("missing-image-of-label", "train", 1)}
    assert broken(lambda f: (f / "data.yaml").unlink()) == {("unnamed-category", "data", 4)}

    def as_lines(folder: Path) -> None:
        names = json.loads((folder / "data.yaml").read_text())["names"]
        (folder / "data.yaml").unlink()
        (folder / "classes.txt").write_text("\n".join(names) + "\n")

    assert broken(as_lines) == set()
    assert broken(lambda f: (f / "images/x.jpg").write_bytes(b"")) == {("unlisted-image", "data", 1)}


def test_splits_of_yolo_get_the_usual_names(small: Path, tmp_path: Path) -> None:
    folder = as_yolo(small, tmp_path / "yolo", inner=True)
    (folder / "val").rename(folder / "valid")
    assert [one.split for one in check.inspect(str(folder), SETTINGS).splits] == ["train", "val"]
    shutil.copytree(folder / "valid", folder / "val")
    assert [one.split for one in check.inspect(str(folder), SETTINGS).splits] == ["train", "val", "valid"]


ONE = st.tuples(st.integers(0, 600), st.integers(0, 400), st.integers(1, 40), st.integers(1, 80), st.integers(0, 3))


@given(st.lists(ONE, min_size=1, max_size=9))
def test_lines_of_yolo_and_pages_of_voc_give_their_boxes(boxes: list[tuple[int, int, int, int, int]]) -> None:
    lines = [f"{k} {(x + w / 2) / 640:.8f} {(y + h / 2) / 480:.8f} {w / 640:.8f} {h / 480:.8f}" for x, y, w, h, k in boxes]
    found, malformed = label_boxes(read_label("\n".join(lines), "x.txt"), poses=False)
    assert not malformed
    for (label, *parts), (x, y, w, h, k) in zip(found, boxes, strict=True):
        assert label == k
        np.testing.assert_allclose(np.array(parts) * (640, 480, 640, 480), (x, y, w, h), atol=1e-4)
    corners = "".join(
        f"<object><name>c{k}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for x, y, w, h, k in boxes
    )
    page = voc.read_page(f"<a><size><width>640</width><height>480</height></size>{corners}</a>".encode(), "x.xml")
    assert page.size == (640, 480)
    assert [(name, box) for name, box, _ in page.objects] == [(f"c{k}", (x, y, x + w, y + h)) for x, y, w, h, k in boxes]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(content: bytes) -> None:
    page = voc.read_page(content, "x.xml")
    assert page.malformed or not page.objects
    boxes, malformed = label_boxes(read_label(content.decode(errors="replace"), "x.txt"), poses=None)
    assert len(boxes) + len(malformed) <= len(content) + 1


def test_pixels_of_voc_count_from_one(small: Path, tmp_path: Path) -> None:
    folder = as_voc(small, tmp_path / "voc")
    for key, value in {"xmin": "1", "ymin": "1", "xmax": "256", "ymax": "192"}.items():
        edit_page(folder, f"object/bndbox/{key}", value)
    assert check.inspect(str(folder), SETTINGS).layout.sources[0].document["annotations"][0]["bbox"] == [0, 0, 256, 192]


def test_the_table_the_lines_and_the_exit_status(small: Path, tmp_path: Path) -> None:
    clean = run.invoke(app, ["check", str(small), "--preset", "demo", "--picture", str(tmp_path / "samples.jpg")])
    assert clean.exit_code == 0, clean.output
    rows = [line.split() for line in clean.stdout.splitlines()]
    assert ["images", "16", "8"] in rows
    assert "0 errors, 0 warnings" in clean.stdout
    with Image.open(tmp_path / "samples.jpg") as picture:
        assert picture.width == 4 * 324
    folder = tmp_path / "data"
    shutil.copytree(small, folder)
    image(folder).unlink()
    broken = run.invoke(app, ["check", str(folder), "--preset", "demo"])
    assert broken.exit_code == 1
    line = "error   train: 1 missing image (0001.jpg): put the files where the annotations say, or remove the entries"
    assert line in broken.stdout.splitlines()
    machine = run.invoke(app, ["check", str(folder), "--preset", "demo", "--json"])
    assert machine.exit_code == 1
    document = json.loads(machine.stdout)
    assert document["layout"] == "COCO"
    assert not document["clean"]
    assert document["findings"][0] == {
        "severity": "error",
        "kind": "missing-image",
        "where": "train",
        "count": 1,
        "first": "0001.jpg",
        "what": "1 missing image",
        "advice": "put the files where the annotations say, or remove the entries",
    }


def test_a_split_that_cannot_be_read_does_not_hide_the_others(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(small, folder)
    (folder / "annotations/instances_train.json").write_text("null")
    (folder / "images/val/0001.jpg").rename(folder / "images/val/0001\n[red].jpg")
    write(folder, "val", json.loads(json.dumps(read(folder, "val")).replace("0001.jpg", "0001\\n[red].jpg")))
    result = run.invoke(app, ["check", str(folder), "--preset", "demo", "--picture", str(tmp_path / "x.png")])
    assert result.exit_code == 1, result.output
    assert "error   train: 1 file that cannot be read (annotations/instances_train.json: expected JSON, got: null)" in result.stdout
    assert (tmp_path / "x.png").stat().st_size > 10_000
    (folder / "images/val/0001\n[red].jpg").unlink()
    result = run.invoke(app, ["check", str(folder), "--preset", "demo"])
    assert "error   val: 1 missing image (0001 [red].jpg): put" in result.stdout


def test_mistakes_are_one_line(small: Path, tmp_path: Path) -> None:
    def mistake(*args: str) -> str:
        result = run.invoke(app, ["check", *args])
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr
        assert result.stderr.count("\n") == 1
        return result.stderr

    assert "or a table *.csv of boxes; there is nothing" in mistake(str(tmp_path))
    assert "expected annotations" in mistake(str(tmp_path / "nowhere"))
    assert "expected a path or an fsspec URL" in mistake("nonsense://x")
    assert "expected one of bccd" in mistake(str(small), "--preset", "nope")
    assert "ends in .png" in mistake(str(small), "--picture", str(tmp_path / "x.txt"))
    (tmp_path / "file").write_text("something")
    assert "expected a new or empty folder" in mistake(str(as_voc(small, tmp_path / "voc")), "--to-coco", str(tmp_path / "file"))
