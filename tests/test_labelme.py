"""LabelMe: a JSON file for each picture, its shapes as boxes, and what has no box told."""

import json
import math
from pathlib import Path
from typing import Any

import fsspec
import pytest
from data_sets import encoded, picture
from hypothesis import given
from hypothesis import strategies as st
from laid_out import HEIGHT, JPEG, TRUTH, WIDTH, labelme_json, lines, put, seen, told, true

from spnas_core.data.image_facts import header_sizes
from spnas_core.data.labelme_page import read_labelme_page
from spnas_core.data.layouts import open_layout
from spnas_core.data.splits import DataSet, open_split
from spnas_core.errors import UserError


def laid(pages: str = ".", images: str = ".", names: str = "abcdef", path: str = "{}.jpg") -> dict[str, str | bytes]:
    return {**{f"{pages}/{n}.json": labelme_json(n, path.format(n)) for n in names}, **{f"{images}/{n}.jpg": JPEG[n] for n in names}}


@pytest.mark.parametrize(
    ("pages", "images", "path"),
    [
        (".", ".", "{}.jpg"),
        ("set", "set", "{}.jpg"),
        ("json", "images", "..\\images\\{}.jpg"),
        ("annotations/day1", "pictures/day1", "/home/me/pictures/day1/{}.jpg"),
        ("a", "b", "elsewhere.png"),
    ],
)
def test_json_files_and_pictures_in_any_folders(pages: str, images: str, path: str, tmp_path: Path) -> None:
    put(tmp_path, laid(pages, images, path=path))
    assert seen(tmp_path) == true(all="abcdef")
    assert told(tmp_path) == set()
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/labelme-test", recursive=True)
    try:
        assert seen("memory://labelme-test") == true(all="abcdef")
    finally:
        memory.rm("/labelme-test", recursive=True)


def test_folders_of_splits(tmp_path: Path) -> None:
    for split, names in {"train": "abc", "Validation": "de", "test": "f"}.items():
        put(tmp_path, laid(split, split, names))
    assert seen(tmp_path) == true(train="abc", Validation="de", test="f")
    assert DataSet(str(tmp_path)).names == ("train", "val", "test")


def test_the_path_inside_counts_where_there_is_no_picture_of_the_name(tmp_path: Path) -> None:
    put(
        tmp_path,
        {f"json/{n}_label.json": labelme_json(n, f"..\\IMAGES\\{n}.jpg") for n in "ab"} | {f"images/{n}.jpg": JPEG[n] for n in "ab"},
    )  # type: ignore[operator]
    assert seen(tmp_path) == true(all="ab")
    assert told(tmp_path) == {("other-spelling", "data", 2)}


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    put(tmp_path, {**laid(names="a"), "a.png": encoded(picture(WIDTH, HEIGHT), "PNG")})
    assert seen(tmp_path) == true(all="a"), "imagePath tells"
    put(tmp_path, {"a.json": labelme_json("a", "x.jpg")})
    assert "a.json: expected one picture of this name, got a.jpg, a.png; name one of them as imagePath in it" in lines(tmp_path)


def test_a_picture_that_is_in_its_json_file_alone_is_told(tmp_path: Path) -> None:
    put(tmp_path, {**laid(names="ab"), "c.json": labelme_json("c", imageData="AAAA")})
    with pytest.raises(
        UserError, match=r"c.json: expected the picture c.jpg beside it, got it inside alone \(imageData\); save it as a file"
    ):
        open_split(str(tmp_path), "all")


def test_a_size_that_is_not_there_is_that_of_the_picture(tmp_path: Path) -> None:
    put(tmp_path, {"a.json": labelme_json("a", imageHeight=None, imageWidth="x"), "a.jpg": JPEG["a"]})
    assert seen(tmp_path) == true(all="a")


def boxes(*shapes: dict[str, Any]) -> list[tuple[str, tuple[float, ...], bool]]:
    page = read_labelme_page(json.dumps({"shapes": shapes}).encode(), "x.json")
    assert page
    assert not page.malformed
    return [tuple(one) for one in page.objects]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("rectangle", [[30, 40], [10, 20]], (10, 20, 20, 20)),
        ("rectangle", [[10, 40], [30, 20]], (10, 20, 20, 20)),
        ("rectangle", [[10, 20], [30, 20], [30, 40], [10, 40]], (10, 20, 20, 20)),
        ("rotation", [[20, 10], [30, 20], [20, 30], [10, 20]], (10, 10, 20, 20)),
        ("polygon", [[10, 20], [30.5, 25], [12, 40]], (10, 20, 20.5, 20)),
        (None, [[10, 20], [30.5, 25], [12, 40]], (10, 20, 20.5, 20)),
        ("circle", [[20, 20], [23, 24]], (15, 15, 10, 10)),
        ("mask", [[10, 20], [29, 39]], (10, 20, 20, 20)),
    ],
)
def test_shapes_that_have_an_area(kind: str | None, points: list[list[float]], box: tuple[float, ...]) -> None:
    assert boxes({"label": " red ", "points": points, "shape_type": kind}) == [("red", box, False)]
    assert boxes({"label": "red", "points": points, "shape_type": kind, "difficult": True}) == [("red", box, True)]


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=3, max_size=9))
def test_the_extent_of_a_polygon_has_all_its_points(points: list[tuple[float, float]]) -> None:
    ((_, (x, y, w, h), _),) = boxes({"label": "red", "points": points, "shape_type": "polygon"})
    assert min(u for u, _ in points) == x
    assert min(v for _, v in points) == y
    assert math.isclose(max(u for u, _ in points), x + w, abs_tol=1e-9)
    assert math.isclose(max(v for _, v in points), y + h, abs_tol=1e-9)


def test_shapes_without_an_area_are_left_out_and_told(tmp_path: Path) -> None:
    document = json.loads(labelme_json("a"))
    for kind, points in {"point": [[1, 2]], "line": [[1, 2], [3, 4]], "linestrip": [[1, 2], [3, 4], [5, 6]]}.items():
        document["shapes"].append({"label": "red", "points": points, "shape_type": kind})
    document["shapes"].append({"label": "__ignore__", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"})
    put(tmp_path, {"a.json": json.dumps(document), "a.jpg": JPEG["a"]})
    assert seen(tmp_path) == true(all="a")
    assert told(tmp_path) == {("left-out-shape", "all", 4)}


@pytest.mark.parametrize(
    "shape",
    [
        {"label": "red", "points": [[1, 2]], "shape_type": "rectangle"},
        {"label": "red", "points": [[1, 2], [3, None]], "shape_type": "rectangle"},
        {"label": "red", "points": [[1, 2], [3, float("nan")]], "shape_type": "rectangle"},
        {"label": "red", "points": {"x": 1}, "shape_type": "polygon"},
        {"label": "red", "points": [[1, 2], [3, 4]], "shape_type": "spiral"},
        {"label": "red", "points": [[1, 2], [3, 4]], "shape_type": ["rectangle"]},
        {"label": 7, "points": [[1, 2], [3, 4]], "shape_type": "rectangle"},
        {"label": " ", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"},
        "red",
    ],
)
def test_a_faulty_shape_is_told(shape: Any, tmp_path: Path) -> None:
    put(tmp_path, {"a.json": labelme_json("a", shapes=[shape]), "a.jpg": JPEG["a"]})
    with pytest.raises(UserError, match=r"all: a.json: shape 1 \((red|no label| )?\): expected ") as caught:
        open_split(str(tmp_path), "all")
    assert str(caught.value).isprintable()


def test_a_broken_file_is_told_and_other_json_files_are_none(tmp_path: Path) -> None:
    put(tmp_path, {**laid(names="ab"), "c.json": "{", "c.jpg": JPEG["c"], "flags.json": "{}", "list.json": "[1]", "d.jpg": JPEG["d"]})
    assert told(tmp_path) == {("malformed", "all", 1), ("unlisted-image", "data", 1)}
    (raw,) = open_layout(str(tmp_path), header_sizes).sources
    assert raw.half_read == {"c.jpg"}
    assert TRUTH.keys() > {image["file_name"][:1] for image in raw.document["images"]}
