"""Annotation files and pictures of several folders: a file whose picture is gone is told, and never put on one of another folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from laid_out import JPEG, TRUTH, labelme_json, put, seen, told, true, voc_xml, yolo_text

from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import open_layout
from spnas_core.data.splits import open_split
from spnas_core.errors import UserError

Written = Callable[[str], str]
KINDS: dict[str, Written] = {
    "xml": lambda name: voc_xml(name, "002.jpg"),  # the name inside does not tell the folder either
    "txt": yolo_text,
    "json": lambda name: labelme_json(name, "002.jpg"),
}
FOLDERS = [  # of pictures and annotation files, once for each of two days
    ("day1", "day1", "day2", "day2"),
    ("images/day1", "boxes/day1", "images/day2", "boxes/day2"),
    ("day1/pictures", "day1/boxes", "day2/pictures", "day2/boxes"),
    ("pictures_day1", "boxes_day1", "pictures_day2", "boxes_day2"),
    ("day1", "day1", "images/day2", "boxes/day2"),
    ("images/day1", "boxes/day1", "day2", "day2"),
]


def two_days(
    folders: tuple[str, str, str, str], suffix: str, own: str = "013", orphans: str = "2", names: str = "abcef"
) -> dict[str, str | bytes]:
    """Day 1 has the picture 002 without a file, day 2 files without pictures; the digits are those of the others."""
    pictures1, boxes1, pictures2, boxes2 = folders
    write = KINDS[suffix]
    files: dict[str, str | bytes] = {"classes.txt": "red\nblue"} if suffix == "txt" else {}
    for digit in own:
        one, two = names[int(digit) % 5], names[(int(digit) + 1) % 5]
        files |= {f"{pictures1}/00{digit}.jpg": JPEG[one], f"{boxes1}/00{digit}.{suffix}": _own(suffix, one, digit)}
        files |= {f"{pictures2}/10{digit}.jpg": JPEG[two], f"{boxes2}/10{digit}.{suffix}": _own(suffix, two, f"1{digit}")}
    files[f"{pictures1}/002.jpg"] = JPEG["d"]
    return files | {f"{boxes2}/00{digit}.{suffix}": write("a") for digit in orphans}


def _own(suffix: str, name: str, digit: str) -> str:
    file = f"{digit:>03}.jpg" if len(digit) < 2 else f"10{digit[1]}.jpg"
    return {"xml": voc_xml(name, file), "txt": yolo_text(name), "json": labelme_json(name, file)}[suffix]


@pytest.mark.parametrize("folders", FOLDERS)
@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("own", ["0", "013"])
def test_a_file_whose_picture_is_gone_is_not_put_on_that_of_another_folder(
    suffix: str, folders: tuple[str, str, str, str], own: str, tmp_path: Path
) -> None:
    put(tmp_path, two_days(folders, suffix, own))
    layout = open_layout(str(tmp_path), header_sizes)
    (raw,) = layout.sources
    ids = {image["id"]: image["file_name"] for image in raw.document["images"]}
    assert f"{folders[0]}/002.jpg" not in {
        ids[mark["image_id"]] for mark in raw.document["annotations"] if raw.files[ids[mark["image_id"]]]
    }
    if suffix == "txt":
        assert ("missing-image-of-label", "all", 1) in told(tmp_path)
        return
    assert [name for name, file in raw.files.items() if file is None] == [f"{folders[2] if suffix == 'xml' else folders[3]}/002.jpg"]
    with pytest.raises(UserError, match=r"image '.*day2.*002.jpg' is not there \(1 missing\)"):
        open_split(str(tmp_path), "all")


@pytest.mark.parametrize("suffix", KINDS)
def test_files_that_have_all_lost_their_pictures_are_not_put_elsewhere(suffix: str, tmp_path: Path) -> None:
    files = two_days(("images/day1", "boxes/day1", "images/day2", "boxes/day2"), suffix, orphans="245")
    put(tmp_path, {name: content for name, content in files.items() if not ("day2" in name and "/10" in name)})
    (raw,) = open_layout(str(tmp_path), header_sizes).sources
    if suffix == "txt":
        assert ("missing-image-of-label", "data", 3) in told(tmp_path) or ("missing-image-of-label", "all", 3) in told(tmp_path)
    else:
        assert sum(file is None for file in raw.files.values()) == 3


@pytest.mark.parametrize(
    "places",
    [  # picture and file of a, b, c, e, f
        {"images": "boxes", "images/sub": "boxes"},
        {"images/day1": "boxes", "images/day2": "boxes", "more": "boxes"},
        {"images": "batch1", "images/": "batch2"},
        {"pictures": "", "": ""},
        {"day1": "day1", "day2": "day2", "day2/late": "day2"},
        {"left/images": "left/boxes", "right/images": "right/boxes"},
    ],
)
@pytest.mark.parametrize("suffix", KINDS)
def test_files_of_other_folders_that_are_meant_are_taken(places: dict[str, str], suffix: str, tmp_path: Path) -> None:
    put(tmp_path, {"classes.txt": "red\nblue"} if suffix == "txt" else {})
    for number, name in enumerate("abcef"):
        pictures, boxes = list(places.items())[number % len(places)]
        text = {"xml": voc_xml(name), "txt": yolo_text(name), "json": labelme_json(name)}[suffix]
        put(tmp_path, {f"{pictures}/{name}.jpg".lstrip("/"): JPEG[name], f"{boxes}/{name}.{suffix}".lstrip("/"): text})
    assert {name: boxes for some in seen(tmp_path).values() for name, boxes in some.items()} == {name: TRUTH[name] for name in "abcef"}
    assert not {kind for kind, _, _ in told(tmp_path)} - {"other-spelling"}


@pytest.mark.parametrize("extra", [{"masks": "acb"}, {"masks": "abce", "thumbs": "abce"}, {"raw": "b"}, {"images_aug": "b"}])
@pytest.mark.parametrize("boxes", ["labels", "boxes", "images"])
@pytest.mark.parametrize("suffix", KINDS)
def test_masks_and_copies_are_no_pictures_of_files_whose_own_are_gone(
    suffix: str, boxes: str, extra: dict[str, str], tmp_path: Path
) -> None:
    """The picture of b is gone."""
    write = {"xml": voc_xml, "txt": yolo_text, "json": labelme_json}[suffix]
    put(tmp_path, {f"{boxes}/{name}.{suffix}": write(name) for name in "abc"} | ({"classes.txt": "red\nblue"} if suffix == "txt" else {}))
    put(tmp_path, {f"images/{name}.jpg": JPEG[name] for name in "ac"})
    put(tmp_path, {f"{folder}/{name}.png": JPEG["d"] for folder, names in extra.items() for name in names})
    (raw,) = open_layout(str(tmp_path), header_sizes).sources
    if any(kind == "malformed" for kind, _, _ in told(tmp_path)):  # two that fit alike
        return
    assert {name for name, file in raw.files.items() if file} == {"images/a.jpg", "images/c.jpg"}
    assert ("missing-image-of-label", "all", 1) in told(tmp_path) or None in raw.files.values()


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("folders", [("seq1", "seq2"), ("bus", "car", "van"), ("images/1", "images/2")])
def test_one_picture_of_a_folder_is_taken(folders: tuple[str, ...], suffix: str, tmp_path: Path) -> None:
    """Files of all folders in one, of which the last has one picture alone."""
    write = {"xml": voc_xml, "txt": yolo_text, "json": labelme_json}[suffix]
    put(tmp_path, {f"boxes/{name}.{suffix}": write(name) for name in "abcef"} | ({"classes.txt": "red\nblue"} if suffix == "txt" else {}))
    put(
        tmp_path,
        {
            f"{folders[min('abcef'.index(name) // 2, len(folders) - 1) if len(folders) > 2 else name == 'f']}/{name}.jpg": JPEG[name]
            for name in "abcef"
        },
    )
    assert (
        seen(tmp_path) == true(all="abcef")
        or {k: v for some in seen(tmp_path).values() for k, v in some.items()} == true(all="abcef")["all"]
    )


@pytest.mark.parametrize("suffix", ["xml", "json"])
def test_a_path_inside_that_names_the_folder_is_sure(suffix: str, tmp_path: Path) -> None:
    write = {"xml": lambda: voc_xml("a", "day1/002.jpg"), "json": lambda: labelme_json("a", "..\\day1\\002.jpg")}[suffix]
    put(tmp_path, {**two_days(FOLDERS[0], suffix), f"day2/002.{suffix}": write(), "day1/002.jpg": JPEG["a"]})
    assert seen(tmp_path)["all"]["002"] == TRUTH["a"]


def test_a_missing_picture_is_named_where_its_neighbours_are(tmp_path: Path) -> None:
    for split, digits in {"train": "01", "val": "0123"}.items():
        put(tmp_path, {f"images/{split}/{digit}.jpg": JPEG["abcd"[int(digit)]] for digit in digits})
        put(tmp_path, {f"boxes/{split}/{digit}.xml": voc_xml("a", f"{digit}.jpg") for digit in "012"})
    with pytest.raises(UserError, match=r"train: image 'images/train/2.jpg' is not there \(1 missing\)"):
        open_split(str(tmp_path), "train")


def test_two_files_that_name_one_picture_leave_it_to_its_own(tmp_path: Path) -> None:
    put(tmp_path, {"images/a.jpg": JPEG["a"], "boxes/a.xml": voc_xml("a"), "boxes/b.xml": voc_xml("b", "a.jpg")})
    (raw,) = open_layout(str(tmp_path), header_sizes).sources
    assert {name: file is None for name, file in raw.files.items()} == {"images/a.jpg": False, "images/b.jpg": True}
