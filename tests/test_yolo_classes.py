"""Names of YOLO's classes: lists of folders that disagree are matched by name, those of another spelling are found, and both are told."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from laid_out import CLASSES, HEIGHT, JPEG, TRUTH, WIDTH, lines, put, seen, told, true

from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import open_layout
from spnas_core.data.splits import DataSet, open_split
from spnas_core.errors import UserError

ORDERS = [("red", "blue"), ("blue", "red"), ("green", "blue", "red"), ("red", "green", "blue")]


def labels(name: str, classes: tuple[str, ...]) -> str:
    """Label file by the numbers of one list of classes."""
    rows = [(classes.index(kind), (x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT) for kind, (x, y, w, h) in TRUTH[name]]
    return "".join(f"{row[0]} {row[1]:.6f} {row[2]:.6f} {row[3]:.6f} {row[4]:.6f}\n" for row in rows)


def folder_of(place: str, names: str, classes: tuple[str, ...], listed: bool = True) -> dict[str, str | bytes]:
    """Pictures, their labels and the list that labelImg writes beside them."""
    files: dict[str, str | bytes] = {f"{place}/{name}.jpg": JPEG[name] for name in names}
    files |= {f"{place}/{name}.txt": labels(name, classes) for name in names}
    return files | ({f"{place}/classes.txt": "\n".join(classes)} if listed else {})


@pytest.mark.parametrize("second", ORDERS)
@pytest.mark.parametrize("first", ORDERS)
def test_each_folder_is_read_by_its_own_list(first: tuple[str, ...], second: tuple[str, ...], tmp_path: Path) -> None:
    put(tmp_path, {**folder_of("train/day1", "ab", first), **folder_of("train/day2", "ce", second), **folder_of("val/day1", "df", second)})
    assert seen(tmp_path) == true(train="abce", val="df")
    assert open_split(str(tmp_path), "train").categories == open_split(str(tmp_path), "val").categories
    shared = set(first) & set(second)
    moved = any(first.index(name) != second.index(name) for name in shared) or len({*first, *second}) > max(len(first), len(second))
    assert ("class-order", "data") in {(kind, where) for kind, where, _ in told(tmp_path)} or not moved


def test_a_list_that_has_grown_keeps_its_numbers(tmp_path: Path) -> None:
    put(tmp_path, {**folder_of("day1", "c", ("blue",)), **folder_of("day2", "ab", ("blue", "red")), **folder_of("day3", "c", ("blue",))})
    (tmp_path / "day3/c.jpg").rename(tmp_path / "day3/z.jpg")
    (tmp_path / "day3/c.txt").rename(tmp_path / "day3/z.txt")
    assert seen(tmp_path) == {"all": {**true(all="cab")["all"], "z": TRUTH["c"]}}
    assert told(tmp_path) == set()


def test_a_class_that_the_list_of_its_folder_lacks_is_refused(tmp_path: Path) -> None:
    put(tmp_path, {**folder_of("day1", "ab", ("red", "blue")), **folder_of("day2", "ef", ("blue", "red"))})
    (tmp_path / "day2/classes.txt").write_text("blue\n")
    with pytest.raises(
        UserError, match=r"day2/e.txt, line 1: expected one of the 1 classes that the list of its folder names, got class 1"
    ):
        open_split(str(tmp_path), "all")


def test_a_folder_without_a_list_is_refused_where_the_others_disagree(tmp_path: Path) -> None:
    put(tmp_path, {**folder_of("day1", "ab", ("red", "blue")), **folder_of("day2", "c", ("blue", "red"))})
    put(tmp_path, folder_of("day3", "ef", ("blue", "red"), listed=False))
    with pytest.raises(UserError, match=r"day3/e.txt, line 1: expected a list of classes \(classes.txt\) beside it, got class 1"):
        open_split(str(tmp_path), "all")
    (tmp_path / "day1/classes.txt").unlink()
    (tmp_path / "day1/a.txt").write_text(labels("a", ("blue", "red")))
    (tmp_path / "day1/b.txt").write_text(labels("b", ("blue", "red")))
    assert seen(tmp_path) == true(all="abcef")


@pytest.mark.parametrize(
    ("files", "file", "first"),
    [
        ({"classes.txt": "blue\nred"}, "classes.txt", "labels/classes.txt"),
        ({"obj.names": "red\ngreen"}, "obj.names", "labels/classes.txt"),
        ({"data.yaml": "names: [red, blue]", "labels/classes.txt": "blue\nred"}, "labels/classes.txt", "data.yaml"),
        ({"data.yaml": "names: {0: red, 1: blue}", "classes.txt": "green\nblue"}, "classes.txt", "data.yaml"),
    ],
)
def test_files_that_disagree_are_told_and_the_nearest_counts(
    files: Mapping[str, str], file: str, first: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, {"images/a.jpg": JPEG["a"], "labels/a.txt": labels("a", CLASSES), "labels/classes.txt": "red\nblue", **files})
    assert seen(tmp_path) == true(all="a")
    assert told(tmp_path) == {("other-classes", "data", 1)}
    assert f"({file}: class " in lines(tmp_path)
    assert f" in {first})" in lines(tmp_path)
    open_split(str(tmp_path), "all")
    assert f"{file}: class " in caplog.text, "a run tells it too"


def test_a_list_above_says_what_a_nearer_one_leaves_out(tmp_path: Path) -> None:
    put(
        tmp_path, {"images/a.jpg": JPEG["a"], "labels/a.txt": labels("a", CLASSES), "labels/classes.txt": "red", "classes.txt": "red\nblue"}
    )
    assert seen(tmp_path) == true(all="a")
    assert told(tmp_path) == set()


@pytest.mark.parametrize("name", ["Classes.txt", "CLASSES.TXT", "Obj.Names", "labels/Classes.txt"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lists_of_another_spelling_or_line_end(name: str, ending: str, tmp_path: Path) -> None:
    put(tmp_path, {"images/a.jpg": JPEG["a"], "labels/a.txt": labels("a", CLASSES), name: ending.join([*CLASSES, ""])})
    assert seen(tmp_path) == true(all="a")
    assert told(tmp_path) == {("other-spelling", "data", 1)}
    assert name in lines(tmp_path)


def test_splits_of_one_list_each_keep_their_numbers(tmp_path: Path) -> None:
    put(tmp_path, {**folder_of("train", "ab", ("red", "blue")), **folder_of("val", "ce", ("blue", "red"))})
    numbers = [[kind["name"] for kind in raw.document["categories"]] for raw in open_layout(str(tmp_path), header_sizes).sources]
    assert numbers == [["red", "blue"], ["blue", "red"]]
    data = DataSet(str(tmp_path))
    assert data.split("val").class_names == ("red", "blue")


@pytest.mark.parametrize("place", ["", "cfg", "cfg/deep"])
@pytest.mark.parametrize("top", ["/home/me/darknet/", "C:\\\\sets\\\\", "data/../", "../"])
def test_darknet_files_of_another_machine(place: str, top: str, tmp_path: Path) -> None:
    files = {f"data/img/{name}.jpg": JPEG[name] for name in "abcd"} | {f"data/img/{name}.txt": labels(name, CLASSES) for name in "abcd"}
    text = f"classes=2\ntrain={top}data/train.txt\nvalid = {top}data/test.txt\nnames = {top}data/obj.names\nbackup=/tmp"
    put(tmp_path, {**files, f"{place}/obj.data".lstrip("/"): text, "data/obj.names": "red\nblue\n"})
    put(
        tmp_path,
        {f"data/{split}.txt": "".join(f"{top}data/img/{n}.jpg\n" for n in names) for split, names in (("train", "ab"), ("test", "cd"))},
    )
    assert seen(tmp_path) == true(train="ab", val="cd")


@pytest.mark.parametrize("suffix", ["png", "JPG", "webp"])
@pytest.mark.parametrize(("images", "boxes"), [("images", "labels"), ("day1", "day1"), ("train/images", "train/labels")])
def test_a_label_file_of_two_pictures_is_told(
    images: str, boxes: str, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(
        tmp_path,
        {f"{images}/a.jpg": JPEG["a"], f"{images}/a.{suffix}": JPEG["b"], f"{images}/b.jpg": JPEG["b"], "classes.txt": "red\nblue"},
    )
    put(tmp_path, {f"{boxes}/{name}.txt": labels(name, CLASSES) for name in "ab"})
    split = "train" if "train" in images else "all"
    assert told(tmp_path) == {("shared-label", split, 1)}
    open_split(str(tmp_path), split)
    assert f"{boxes}/a.txt of {images}/a." in caplog.text


@pytest.mark.parametrize("suffix", ["heic", "npy", "raw"])
def test_a_labelled_file_of_an_unknown_suffix_is_told_by_a_run(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, {"images/a.jpg": JPEG["a"], f"images/b.{suffix}": b"x", "classes.txt": "red\nblue"})
    put(tmp_path, {f"labels/{name}.txt": labels(name, CLASSES) for name in "ab"})
    assert told(tmp_path) == {("missing-image-of-label", "all", 1)}
    open_split(str(tmp_path), "all")
    assert f"labels/b.txt; images/b.{suffix} is of no known suffix: save it as PNG or JPEG" in caplog.text


@pytest.mark.parametrize("other", ["args.yaml", "coco.yaml", "zoo.yaml"])
@pytest.mark.parametrize(
    "places", ["", "path: ../datasets/coco\ntrain: train2017.txt\nval: val2017.txt\n", "train: there/images\nval: there\n"]
)
def test_a_yaml_file_of_another_set_beside_is_told(other: str, places: str, tmp_path: Path) -> None:
    for split, names in {"train": "ab", "val": "ce"}.items():
        put(tmp_path, {f"images/{split}/{name}.jpg": JPEG[name] for name in names})
        put(tmp_path, {f"labels/{split}/{name}.txt": labels(name, CLASSES) for name in names})
    put(tmp_path, {"data.yaml": "train: images/train\nval: images/val\nnames: [red, blue]", other: f"{places}names: [x, y]"})
    assert seen(tmp_path) == true(train="ab", val="ce")
    assert told(tmp_path) == {("other-classes", "data", 1)}
    assert f"{other}: class 0 is x, but red in data.yaml" in lines(tmp_path)
