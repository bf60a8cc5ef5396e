"""YOLO as Ultralytics, Darknet, CVAT, labelImg and Roboflow lay it out: lists, places, names, labels, and poses not called so."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laid_out import CLASSES, HEIGHT, JPEG, TRUTH, WIDTH, lines, pictures, put, seen, told, true, yolo_text

from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import open_layout
from spnas_core.data.splits import open_split
from spnas_core.data.yolo_lines import are_poses, label_boxes, read_label
from spnas_core.errors import UserError

NAMES = "names: [red, blue]\n"


def two_folders(images: str = "images", labels: str = "labels", names: str = "abcdef") -> dict[str, str | bytes]:
    return {**{f"{labels}/{n}.txt": yolo_text(n) for n in names}, **{f"{images}/{n}.jpg": JPEG[n] for n in names}}


@pytest.mark.parametrize(
    "line",
    ["images/{}.jpg", "./images/{}.jpg", "images\\{}.jpg", "/home/me/set/images/{}.jpg", "C:\\set\\images\\{}.jpg", "../set/images/{}.jpg",
     "IMAGES/{}.JPG"],
)  # fmt: skip
@pytest.mark.parametrize(("ending", "mark"), [("\n", b""), ("\r\n", b"\xef\xbb\xbf")])
@pytest.mark.parametrize("lists", ["{}.txt", "autosplit_{}.txt", "lists/{}.txt"])
def test_lists_decide(line: str, ending: str, mark: bytes, lists: str, tmp_path: Path) -> None:
    put(tmp_path, two_folders())
    for split, names in {"train": "abc", "val": "de"}.items():
        put(tmp_path, {lists.format(split): mark + "".join(f"{line.format(name)}{ending}" for name in names).encode()})
    put(tmp_path, {"data.yaml": f"path: .\ntrain: {lists.format('train')}\nval: {lists.format('val')}\n{NAMES}"})
    assert seen(tmp_path) == true(train="abc", val="de")
    other = {("other-spelling", "train", 3), ("other-spelling", "val", 2)} if "\\" in line or "JPG" in line else set()
    assert told(tmp_path) == {("unlisted-image", "data", 1), *other}
    if "/" not in lists:
        (tmp_path / "data.yaml").write_text(NAMES)
        assert {name.removeprefix("autosplit_"): some for name, some in seen(tmp_path).items()} == true(train="abc", val="de")


def test_lists_that_are_a_part_of_folders(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders("images/train", "labels/train", "abc"), **two_folders("images/val", "labels/val", "def")})
    put(tmp_path, {"train.txt": "images/train/a.jpg\nimages/val/d.jpg\n", "val.txt": "images/val/e.jpg\n"})
    put(tmp_path, {"data.yaml": f"train: train.txt\nval: val.txt\n{NAMES}"})
    assert seen(tmp_path) == true(train="ad", val="e")


def test_a_line_of_a_list_is_never_another_picture(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders("images/train", "labels/train", "ab"), "train.txt": "images/val/a.jpg\n../../x/../a.jpg\n/etc/passwd\n"})
    put(tmp_path, {"data.yaml": f"train: train.txt\n{NAMES}"})
    (raw,) = open_layout(str(tmp_path), header_sizes).sources
    assert dict.fromkeys(raw.files) == dict.fromkeys(["images/val/a.jpg", "a.jpg", "etc/passwd"])
    assert not any(raw.files.values())
    with pytest.raises(UserError, match=r"image 'images/val/a.jpg' is not there \(3 missing\)"):
        open_split(str(tmp_path), "train")


DARKNET = {
    "obj.data": "classes = 2\ntrain = data/train.txt\nvalid=data/valid.txt\nnames = data/obj.names\nbackup = backup/\n",
    "obj.names": "red\nblue\n",
}


def test_the_layout_of_darknet(tmp_path: Path) -> None:
    put(
        tmp_path,
        {**DARKNET, **two_folders("obj_train_data", "obj_train_data", "abc"), **two_folders("obj_valid_data", "obj_valid_data", "de")},
    )
    put(tmp_path, {"train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\ndata/obj_train_data/c.jpg\n"})
    put(tmp_path, {"valid.txt": "data/obj_valid_data/d.jpg\ndata/obj_valid_data/e.jpg\n"})
    assert seen(tmp_path) == true(train="abc", val="de")
    assert told(tmp_path) == set()


@pytest.mark.parametrize("where", ["{split}", "{split}/classes", ""])
def test_labels_beside_the_pictures(where: str, tmp_path: Path) -> None:
    for split, names in {"train": "abc", "val": "def"}.items():
        put(tmp_path, two_folders(split, split, names))
        put(
            tmp_path,
            {f"{where.format(split=split)}/classes.txt".lstrip("/"): "\ufeffred\r\nblue\r\n"} if where != "{split}/classes" else {},
        )
    if where == "{split}/classes":
        put(tmp_path, {"classes.txt": "red\nblue"})
    assert seen(tmp_path) == true(train="abc", val="def")
    assert told(tmp_path) == set()


def test_labels_beside_the_pictures_of_a_folder_called_images(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders("images", "images"), "images/classes.txt": "red\nblue"})
    assert seen(tmp_path) == true(all="abcdef")


@pytest.mark.parametrize(
    ("images", "labels"), [("JPEGImages", "labels"), ("Images/day1", "Labels/day1"), ("pictures", "yolo"), (".", "txt")]
)
def test_folders_of_any_name_are_one_split(images: str, labels: str, tmp_path: Path) -> None:
    put(tmp_path, {**two_folders(images, labels), "classes.txt": "red\nblue", "README.txt": "words"})
    assert seen(tmp_path) == true(all="abcdef")
    assert told(tmp_path) == set()


@pytest.mark.parametrize(
    "places",
    [
        {"train": "../train/images", "val": "../valid/images"},
        {"train": "train/images", "val": "valid/images"},
        {"path": "/content/drive/set", "train": "train/images", "val": "valid/images"},
        {"path": "../datasets/set", "train": "train/images", "val": "valid/images"},
        {"path": "C:\\sets\\mine", "train": "train\\images", "val": "valid\\images"},
        {"train": "/content/set/train/images/", "val": "/content/set/valid/images/"},
        {"train": "Train/Images", "val": "VALID/images"},
        {"train": ["train/images"], "val": ["valid/images"]},
        {"train": "/content/set/elsewhere", "val": None},
        {},
    ],
)
def test_places_that_a_yaml_file_names(places: Mapping[str, object], tmp_path: Path) -> None:
    put(tmp_path, {**two_folders("train/images", "train/labels", "abc"), **two_folders("valid/images", "valid/labels", "de")})
    put(tmp_path, {"data.yaml": "\ufeff" + json.dumps({**places, "nc": 2, "names": CLASSES})})
    found = seen(tmp_path)
    assert {"val" if name == "valid" else name: some for name, some in found.items()} == true(train="abc", val="de")


@pytest.mark.parametrize("key", ["valid", "validation", "Val"])
def test_a_set_in_a_folder_below(key: str, tmp_path: Path) -> None:
    """As archives are unpacked: the YAML file is there too, and calls val what it likes."""
    put(tmp_path / "set", {**two_folders(), "data.yaml": f"train: train.txt\n{key}: val.txt\n", "classes.txt": "red\nblue"})
    put(tmp_path / "set", {"train.txt": "images/a.jpg\nimages/b.jpg", "val.txt": "images/c.jpg"})
    assert seen(tmp_path) == true(train="ab", val="c")
    assert told(tmp_path) == {("unlisted-image", "data", 3)}


def test_a_file_is_no_folder_and_labels_are_no_pictures(tmp_path: Path) -> None:
    put(tmp_path, {"data.yaml": NAMES, "labels/a.txt": yolo_text("a")})
    with pytest.raises(UserError, match=rf"data.yaml: expected the folder of a data set, got a file; give {tmp_path}$"):
        open_layout(str(tmp_path / "data.yaml"), header_sizes)
    with pytest.raises(UserError, match=r"there is data.yaml, labels, and no picture$"):
        open_layout(str(tmp_path), header_sizes)


def test_two_pictures_that_one_label_fits_are_told(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders("pictures", "txt", "ab"), "data.yaml": NAMES, "pictures/a.png": JPEG["a"]})
    with pytest.raises(
        UserError, match=r"txt/a.txt: expected one picture of this name, got pictures/a.jpg, pictures/a.png; rename the others"
    ):
        open_split(str(tmp_path), "all")


def test_a_part_of_a_list_of_places_that_is_not_there_is_told(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders("images/a", "labels/a", "ab"), **two_folders("images/v", "labels/v", "c")})
    put(tmp_path, {"data.yaml": f"train: [images/a, images/b]\nval: images/v\n{NAMES}"})
    assert told(tmp_path) == {("list-of-images", "data", 1)}
    with pytest.raises(UserError, match=r"1 place of images that is not there \(images/b\)"):
        open_split(str(tmp_path), "train")


@pytest.mark.parametrize(
    "text",
    ["names: [red, blue]", "names: {0: red, 1: blue}", "names: {'1': blue, '0': red}", "names:\n- red\n- blue\n- x",
     "names: {0: red, 1: blue, 7: x}",
     "nc: 2\r\nnames: ['red', 'blue']\r\n", "names: set.names"],
)  # fmt: skip
def test_names_of_classes(text: str, tmp_path: Path) -> None:
    put(tmp_path, {**two_folders(), "data.yaml": text, "set.names": "\ufeffred\r\nblue\r\n"})
    assert seen(tmp_path) == true(all="abcdef")
    assert told(tmp_path) == set()


def test_names_are_texts(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders(), "data.yaml": "names: [no, 1.0]"})
    assert [kind["name"] for kind in open_layout(str(tmp_path), header_sizes).sources[0].document["categories"]] == ["no", "1.0"]


@pytest.mark.parametrize("text", ["names: [red]", "names: {0: red}", "names: {0: red, 2: green}", "names: [red, [a]]"])
def test_fewer_names_than_classes_are_told(text: str, tmp_path: Path) -> None:
    put(tmp_path, {**two_folders(), "data.yaml": text})
    with pytest.raises(UserError, match=r"labels of images/a.jpg: expected one of the \d classes that have a name, got class 1"):
        open_split(str(tmp_path), "all")


def test_a_yaml_file_that_is_none_is_told(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders(), "data.yaml": 'path: "C:\\set"\nnames: [red, blue]'})
    assert told(tmp_path) == {("unnamed-category", "data", 2), ("unreadable", "data", 1)}


@pytest.mark.parametrize("line", ["{0}.000000 {1}", "\ufeff{0} {1}\r", "  {0}\t{1}  ", "{0}e0 {1}", "{0} {1}\r\n\r\n"])
def test_lines_of_labels(line: str) -> None:
    rest = "0.5 0.25 0.5 0.125"
    text = line.format(1, rest)
    boxes, malformed = label_boxes(read_label(text.lstrip("\ufeff"), "x.txt"), poses=False)
    assert boxes == [(1, 0.25, 0.1875, 0.5, 0.125)]
    assert not malformed


@pytest.mark.parametrize(
    "text",
    ["1.5 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "nan 0.5 0.5 0.1 0.1", "0 0.5 0.5 inf 0.1", "0 5_0 0.5 0.1 0.1", "0 0.5 0.5 0.1 0.1 0.9"],
)
def test_other_lines_are_told(text: str) -> None:
    boxes, malformed = label_boxes(read_label(text, "x.txt"), poses=False)
    assert not boxes
    assert len(malformed) == 1
    assert malformed[0].startswith("x.txt, line 1: expected ")


SPOTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6)
PLACES = st.tuples(st.floats(0.05, 0.3), st.floats(0.05, 0.3), st.floats(0, 1), st.floats(0, 1))


def pose_line(place: tuple[float, ...], spots: list[tuple[float, float]], visible: bool) -> str:
    width, height, across, down = place
    x, y = width / 2 + across * (1 - width), height / 2 + down * (1 - height)
    points = [(x + (u - 0.5) * width, y + (v - 0.5) * height) for u, v in spots]
    values = [value for point in points for value in (*point, *([2] if visible else []))]
    return " ".join(f"{value:.6f}" if value != 2 else "2" for value in (x, y, width, height, *values))


@given(st.lists(PLACES, min_size=1, max_size=5), SPOTS, st.booleans())
def test_a_pose_is_its_box_or_told(places: list[tuple[float, ...]], spots: list[tuple[float, float]], visible: bool) -> None:
    """Without a word on keypoints: with visibilities always the box, without them never another box than that where lines are many."""
    texts = [f"0 {pose_line(place, spots, visible)}" for place in places]
    label = read_label("\n".join(texts), "x.txt")
    poses = are_poses([label])
    boxes, malformed = label_boxes(label, poses)
    if visible:
        assert poses
    if poses:
        for box, (width, height, *_) in zip(boxes, places, strict=True):
            np.testing.assert_allclose(box[3:], (width, height), atol=1e-5)
    assert poses or malformed or len(boxes) == len(places)


def test_poses_of_a_whole_set_without_kpt_shape() -> None:
    """Of 300 seeds with twenty objects each, none is read as polygons: they are poses, or it is said."""
    taken = {True: 0, False: 0, None: 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        spots = [tuple(rng.uniform(0.1, 0.9, 2)) for _ in range(rng.integers(1, 18))]
        rows = [pose_line((*rng.uniform(0.05, 0.6, 2), *rng.uniform(0, 1, 2)), spots, visible=False) for _ in range(20)]
        taken[are_poses([read_label("\n".join(f"0 {row}" for row in rows), "x.txt")])] += 1
    assert taken[False] == 0
    assert taken[True] > 200


def polygon(rng: np.random.Generator, corners: int, turned: bool) -> str:
    width, height = rng.uniform(0.03, 0.4, 2)
    x, y = rng.uniform(width, 1 - width), rng.uniform(height, 1 - height)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) if not turned else np.arange(4) * np.pi / 2 + rng.uniform(0, np.pi)
    points = np.stack([x + width / 2 * np.cos(angles), y + height / 2 * np.sin(angles)], axis=1)
    return " ".join(f"{value:.6f}" for value in points.reshape(-1))


@pytest.mark.parametrize("corners", [4, 5, 8, 20, 0])
def test_polygons_are_not_taken_for_poses(corners: int) -> None:
    """Turned boxes (0: four corners of one), and polygons that have one number of corners by chance; a few may be called unclear."""
    taken = {True: 0, False: 0, None: 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rows = [polygon(rng, corners or 4, turned=not corners) for _ in range(20)]
        taken[are_poses([read_label("\n".join(f"0 {row}" for row in rows), "x.txt")])] += 1
    assert taken[True] == 0
    assert taken[None] <= 10


def test_what_cannot_be_told_is_refused_with_the_way_out(tmp_path: Path) -> None:
    lines_of = ["0 0.5 0.5 0.5 0.5 0.45 0.5 0.55 0.5", "0 0.5 0.5 0.45 0.55 0.45 0.5 0.6 0.5"]
    put(tmp_path, {"images/a.jpg": JPEG["a"], "labels/a.txt": "\n".join(lines_of), "data.yaml": NAMES})
    with pytest.raises(
        UserError, match=r"labels/a.txt, line 1: expected one reading, got 8 numbers that are a polygon or a pose: write kpt_shape"
    ):
        open_split(str(tmp_path), "all")
    put(tmp_path, {"data.yaml": f"{NAMES}kpt_shape: [2, 2]"})
    assert open_split(str(tmp_path), "all").samples[0].boxes[0].tolist() == [16, 12, 48, 36]
    put(tmp_path, {"data.yaml": f"{NAMES}kpt_shape: [0, 0]"})
    assert "polygon or a pose" not in lines(tmp_path)


@pytest.mark.parametrize("shape", [[4, 2], [3, 3]])
def test_kpt_shape_says_how_long_a_line_is(shape: list[int], tmp_path: Path) -> None:
    count = shape[0] * shape[1]
    put(tmp_path, {"images/a.jpg": JPEG["a"], "data.yaml": f"{NAMES}kpt_shape: {shape}"})
    put(tmp_path, {"labels/a.txt": "".join(f"{line}{' 0.1' * count}\n" for line in yolo_text("a").splitlines())})
    assert seen(tmp_path) == true(all="a")
    put(tmp_path, {"labels/a.txt": "0 0.5 0.5 0.1 0.1 0.2 0.2\n"})
    assert f"expected a class, a box and {count} numbers of keypoints (kpt_shape), got 7" in lines(tmp_path)


def test_boxes_polygons_and_turned_boxes_in_one_file(tmp_path: Path) -> None:
    def corners(x: int, y: int, w: int, h: int) -> str:
        return " ".join(f"{u / WIDTH:.6f} {v / HEIGHT:.6f}" for u, v in ((x, y), (x + w, y), (x + w, y + h), (x, y + h)))

    for name in TRUTH:
        text = "".join(f"{CLASSES.index(kind)} {corners(*box)}\n" for kind, box in TRUTH[name][:1]) + "".join(
            yolo_text(name).splitlines(True)[1:]
        )
        put(tmp_path, {f"images/{name}.jpg": JPEG[name], f"labels/{name}.txt": text})
    put(tmp_path, {"data.yaml": NAMES})
    assert seen(tmp_path) == true(all="abcdef")


def test_pictures_without_labels_and_labels_without_pictures(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders("images/train", "labels/train", "ab"), "data.yaml": NAMES, "images/train/d.jpg": JPEG["d"]})
    put(tmp_path, {"labels/train/zz.txt": yolo_text("a"), "labels/val/d.txt": yolo_text("a")})
    assert seen(tmp_path) == true(train="abd"), "labels of another split are not those of d"
    assert told(tmp_path) == {("missing-image-of-label", "train", 1), ("missing-image-of-label", "data", 1)}


def test_labels_of_another_folder_are_not_taken(tmp_path: Path) -> None:
    put(
        tmp_path, {**two_folders("images/day1", "labels/day1", "ab"), **two_folders("images/day2", "labels/day2", "ef"), "data.yaml": NAMES}
    )
    put(tmp_path, {"images/day1/d.jpg": JPEG["d"], "labels/day2/d.txt": yolo_text("a")})
    assert seen(tmp_path) == true(all="abdef")
    assert told(tmp_path) == {("missing-image-of-label", "all", 1)}


def test_two_pictures_of_one_name_have_one_label(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders(names="a"), **pictures({"images/sub/x.jpg": "b"}), "data.yaml": NAMES, "labels/sub/x.txt": yolo_text("b")})
    assert seen(tmp_path) == {"all": {"a": TRUTH["a"], "x": TRUTH["b"]}}
