"""What is nearly right and not read as something else: paths that are cut, a test folder below other pictures, corners in parts."""

from pathlib import Path

import pytest
from laid_out import JPEG, TRUTH, labelme_json, put, seen, table, told, true, voc_xml, yolo_text

from spnas_core.check.divide import divide
from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import open_layout
from spnas_core.data.splits import DataSet, open_split
from spnas_core.errors import UserError

WRITE = {"xml": voc_xml, "txt": yolo_text, "json": labelme_json}
ROW = "{},red,5,5,20,20\n"


@pytest.mark.parametrize("top", ["", "images/", "/home/me/set/", "C:\\set\\"])
@pytest.mark.parametrize("stray", ["b.jpg", "day1/b.jpg", "images/b.jpg"])
def test_a_path_is_not_cut_until_some_picture_is_found(top: str, stray: str, tmp_path: Path) -> None:
    """day2/b.jpg is gone, and another b.jpg is there."""
    put(tmp_path, {"images/day1/a.jpg": JPEG["a"], "images/day2/c.jpg": JPEG["c"], stray: JPEG["d"]})
    names = [f"{top}day1/a.jpg", f"{top}day2/b.jpg", f"{top}day2/c.jpg"]
    put(tmp_path / "t", {})
    put(tmp_path, {"boxes.csv": "filename,class,xmin,ymin,xmax,ymax\n" + "".join(map(ROW.format, names))})
    (raw,) = open_layout(str(tmp_path), header_sizes).sources
    assert [name for name, file in raw.files.items() if file] == ["images/day1/a.jpg", "images/day2/c.jpg"]
    (tmp_path / "boxes.csv").unlink()
    names = [name.replace("day", "images/day") if not top.startswith("images") else name for name in names]
    put(tmp_path, {f"labels/day{n}/{name}.txt": yolo_text(name) for n, name in ((1, "a"), (2, "c"))})
    put(tmp_path, {"data.yaml": "train: t.txt\nval: v.txt\nnames: [red, blue]", "t.txt": names[0], "v.txt": "\n".join(names[1:])})
    train, val = open_layout(str(tmp_path), header_sizes).sources
    assert [name for raw in (train, val) for name, file in raw.files.items() if file] == ["images/day1/a.jpg", "images/day2/c.jpg"]
    with pytest.raises(UserError, match=r"day2/b.jpg' is not there \(1 missing\)"):
        open_split(str(tmp_path), "val")


@pytest.mark.parametrize("suffix", WRITE)
@pytest.mark.parametrize(
    ("place", "names", "tests"), [("", "abcd", "ef"), ("images/", "abcd", "ef"), ("images/", "ab", "cdef"), ("", "a", "cdef")]
)
def test_a_folder_of_test_pictures_below_those_that_are_not_split(place: str, names: str, tests: str, suffix: str, tmp_path: Path) -> None:
    boxes = place.replace("images", "labels")
    for folder, some in {"": names, "test/": tests}.items():
        put(tmp_path, {f"{place}{folder}{name}.jpg": JPEG[name] for name in some})
        put(tmp_path, {f"{boxes}{folder}{name}.{suffix}": WRITE[suffix](name) for name in some})
    put(tmp_path, {"classes.txt": "red\nblue"} if suffix == "txt" else {})
    assert seen(tmp_path) == true(all=names, test=tests)
    assert DataSet(str(tmp_path)).names == ("test", "all")
    if len(names) > 1:
        images = divide(str(tmp_path), {"val": 0.5, "test": 0}, 0, None).images
        assert {name.rpartition("/")[2][0] for some in images.values() for name in some} == set(names)


@pytest.mark.parametrize("suffix", WRITE)
def test_pictures_beside_the_folders_of_splits_are_no_split(suffix: str, tmp_path: Path) -> None:
    for folder, some in {"": "a", "train/": "bc", "val/": "de"}.items():
        put(tmp_path, {f"{folder}{name}.jpg": JPEG[name] for name in some})
        put(tmp_path, {f"{folder}{name}.{suffix}": WRITE[suffix](name) for name in some})
    put(tmp_path, {"classes.txt": "red\nblue"} if suffix == "txt" else {})
    assert seen(tmp_path) == true(train="bc", val="de")
    assert ("unlisted-image", "data", 1) in told(tmp_path)


@pytest.mark.parametrize("values", [(0.2, 0.3, 0.5, 0.7), (0, 0, 0.5, 1), (0.01, 0.02, 0.1, 0.2)])
def test_corners_of_pascal_voc_in_parts_of_the_image_are_refused(values: tuple[float, ...], tmp_path: Path) -> None:
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True))
    page = f"<annotation><object><name>a</name><bndbox>{corners}</bndbox></object></annotation>"
    put(
        tmp_path,
        {
            f"{split}/{name}.{suffix}": JPEG[name] if suffix == "jpg" else page
            for split, name in (("train", "a"), ("val", "b"))
            for suffix in ("jpg", "xml")
        },
    )
    with pytest.raises(UserError, match=r"train/a.xml: expected corners in px, got none over [0-9.]+ in all files: parts of the image\?"):
        open_split(str(tmp_path), "train")
    put(tmp_path, {"val/b.xml": voc_xml("b")})
    assert open_split(str(tmp_path), "val").samples[0].boxes.shape == (len(TRUTH["b"]), 4), "some are in px: it is a box of a part of a px"


def test_a_table_of_another_machine_is_found_by_its_ends(tmp_path: Path) -> None:
    put(tmp_path, {f"day{n}/{name}.jpg": JPEG[name] for n, name in ((1, "a"), (2, "b"), (2, "c"), (1, "e"), (1, "f"))})
    text = table("a", folder="/home/me/day1/") + "".join(
        table(n, folder=f"/home/me/day{1 + (n in 'bc')}/").split("\n", 1)[1] for n in "bcef"
    )
    put(tmp_path, {"boxes.csv": text})
    assert seen(tmp_path) == true(all="abcef")
