"""Pascal VOC as labelImg, Roboflow, CVAT and people lay it out: each picture has the boxes that were drawn on it, or it is said."""

import time
from pathlib import Path

import fsspec
import pytest
from data_sets import encoded, picture
from hypothesis import given
from hypothesis import strategies as st
from laid_out import HEIGHT, JPEG, TRUTH, WIDTH, lines, pictures, put, seen, told, true, voc_xml

from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import open_layout
from spnas_core.data.splits import DataSet, open_split
from spnas_core.data.voc_page import read_page
from spnas_core.errors import UserError

ALL = {name: name for name in TRUTH}


def two_folders(pages: str = "Annotations", images: str = "JPEGImages", suffix: str = ".jpg") -> dict[str, str | bytes]:
    return {**{f"{pages}/{n}.xml": voc_xml(n) for n in TRUTH}, **{f"{images}/{n}{suffix}": JPEG[n] for n in TRUTH}}


@pytest.mark.parametrize(
    "folders",
    [
        ("Annotations", "JPEGImages"),
        ("annotations", "images"),
        ("xmls", "img"),
        ("labels", "Images"),
        ("annotations/xmls", "images"),
        ("VOCdevkit/VOC2007/Annotations", "VOCdevkit/VOC2007/JPEGImages"),
        ("notes on boxes", "my pictures"),
        (".", "."),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png"])
def test_folders_of_any_name_are_one_split_without_lists(folders: tuple[str, str], suffix: str, tmp_path: Path) -> None:
    put(tmp_path, two_folders(*folders, suffix))
    assert seen(tmp_path) == true(all="abcdef")
    assert told(tmp_path) == set()


def test_one_unsplit_set_is_not_called_train(tmp_path: Path) -> None:
    put(tmp_path, two_folders())
    assert DataSet(str(tmp_path)).names == ("all",)


@pytest.mark.parametrize(("ending", "mark"), [("\n", b""), ("\r\n", b"\xef\xbb\xbf"), ("\r", b"\xff\xfe")])
@pytest.mark.parametrize(
    "line", ["{}", "{}.jpg", "{}.xml", " {} ", "JPEGImages/{}.jpg", "/home/me/voc/JPEGImages/{}.jpg", "{}  1", "{} -1", '"{}"', '"{}" 1']
)
@pytest.mark.parametrize("place", ["ImageSets/Main", "ImageSets", "imagesets/main", "."])
def test_lists_name_the_images_of_a_split(ending: str, mark: bytes, line: str, place: str, tmp_path: Path) -> None:
    put(tmp_path, two_folders())
    for split, names in {"train": "abc", "val": "de"}.items():
        text = ending.join(line.format(name) for name in names) + ending + ending
        put(tmp_path, {f"{place}/{split}.txt": mark + text.encode("utf-16-le" if mark == b"\xff\xfe" else "utf-8")})
    assert seen(tmp_path) == true(train="abc", val="de")
    assert told(tmp_path) == {("unlisted-image", "data", 1)}


def test_lists_in_a_set_in_a_folder_below(tmp_path: Path) -> None:
    put(tmp_path / "set", {**two_folders(), "train.txt": "a\nb\n", "val.txt": "JPEGImages/c.jpg Annotations/c.xml\n"})
    assert seen(tmp_path) == true(train="ab", val="c")


def test_lists_of_classes_are_no_splits(tmp_path: Path) -> None:
    lists = {"train": "a\nb\n", "val": "c\n", "red_train": "a  1\nb -1\n", "red_val": "c -1\n", "trainval": "a\nb\nc\n", "notes": "x\n"}
    put(tmp_path, {**two_folders(), **{f"ImageSets/Main/{name}.txt": text for name, text in lists.items()}})
    assert seen(tmp_path) == true(train="ab", val="c")
    for name in ("train", "val", "trainval"):
        (tmp_path / f"ImageSets/Main/{name}.txt").unlink()
    assert list(seen(tmp_path)) == ["all"], "no list of a whole split is left"


def test_names_with_blanks_and_one_that_ends_in_a_number(tmp_path: Path) -> None:
    names = {"site photo 1": "a", "site photo 0": "b", "x -1": "c", "été 7": "d"}
    put(tmp_path, {f"Annotations/{new}.xml": voc_xml(old) for new, old in names.items()})
    put(tmp_path, pictures({f"JPEGImages/{new}.jpg": old for new, old in names.items()}))
    put(tmp_path, {"ImageSets/Main/train.txt": "site photo 1\nsite photo 0\n", "ImageSets/Main/val.txt": "x -1\nété 7.jpg\n"})
    assert seen(tmp_path) == {
        "train": {"site photo 1": TRUTH["a"], "site photo 0": TRUTH["b"]},
        "val": {"x -1": TRUTH["c"], "été 7": TRUTH["d"]},
    }


def test_trainval_is_train_where_there_is_no_such_list(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders(), "ImageSets/Main/trainval.txt": "a\nb\n", "ImageSets/Main/test.txt": "c\n"})
    assert seen(tmp_path) == true(train="ab", test="c")


def test_the_one_list_of_cvat_is_no_split(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders(), "ImageSets/Main/default.txt": "a\nb\nc\nd\ne\nf\n"})
    assert seen(tmp_path) == true(all="abcdef")


@pytest.mark.parametrize("line", ["{day}/{name}", "{day}/{name}.jpg", "{day}\\{name}", "JPEGImages/{day}/{name}.jpg"])
def test_subfolders_keep_equal_names_apart(line: str, tmp_path: Path) -> None:
    for day, name in {"day1": "a", "day2": "b"}.items():
        put(tmp_path, {f"Annotations/{day}/x.xml": voc_xml(name), f"JPEGImages/{day}/x.jpg": JPEG[name]})
    put(
        tmp_path,
        {"ImageSets/Main/train.txt": line.format(day="day1", name="x"), "ImageSets/Main/val.txt": line.format(day="day2", name="x")},
    )
    assert seen(tmp_path) == {"train": {"x": TRUTH["a"]}, "val": {"x": TRUTH["b"]}}
    put(tmp_path, {"ImageSets/Main/train.txt": "x\n"})
    assert "expected a name of one image, got 'x' of JPEGImages/day1/x.jpg, JPEGImages/day2/x.jpg" in lines(tmp_path)


@pytest.mark.parametrize("below", ["{split}/{name}.xml|{split}/{name}.jpg", "{split}/Annotations/{name}.xml|{split}/images/{name}.jpg"])
@pytest.mark.parametrize("splits", [("train", "valid", "test"), ("Training", "VAL", "testing")])
def test_folders_of_splits(below: str, splits: tuple[str, str, str], tmp_path: Path) -> None:
    """Also where pictures of two splits have one name."""
    for split, name in zip(splits, "abc", strict=True):
        page, image = (part.format(split=split, name="x") for part in below.split("|"))
        put(tmp_path, {page: voc_xml(name), image: JPEG[name]})
    assert seen(tmp_path) == {split: {"x": TRUTH[name]} for split, name in zip(splits, "abc", strict=True)}
    assert DataSet(str(tmp_path)).names == ("train", "val", "test")


@given(st.permutations(sorted(TRUTH)))
def test_an_xml_file_belongs_to_the_picture_of_its_own_name(inside: list[str]) -> None:
    system = fsspec.filesystem("memory")
    for name, other in zip(sorted(TRUTH), inside, strict=True):
        system.pipe_file(f"/voc-names/xml/{name}.xml", voc_xml(name, f"{other}.jpg").encode())
        system.pipe_file(f"/voc-names/jpg/{name}.jpg", JPEG[name])
    assert seen("memory://voc-names") == true(all="abcdef")
    assert told("memory://voc-names") == set()


def test_the_name_inside_counts_where_there_is_no_such_picture(tmp_path: Path) -> None:
    put(tmp_path, {f"Annotations/{n}-label.xml": voc_xml(n, f"C:\\pictures\\{n.upper()}.jpg") for n in TRUTH})
    put(tmp_path, pictures({f"JPEGImages/{n}.jpg": n for n in TRUTH}))
    assert seen(tmp_path) == true(all="abcdef")
    assert told(tmp_path) == {("other-spelling", "data", 6)}


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "a.xml": voc_xml("a"),
            "a.jpg": JPEG["a"],
            "a.png": encoded(picture(WIDTH, HEIGHT), "PNG"),
            "b.xml": voc_xml("b"),
            "b.jpg": JPEG["b"],
        },
    )
    assert seen(tmp_path) == true(all="ab"), "filename tells"
    put(tmp_path, {"a.xml": voc_xml("a", "other.jpg")})
    assert "a.xml: expected one picture of this name, got a.jpg, a.png; name one of them as filename in it" in lines(tmp_path)
    with pytest.raises(UserError, match="expected one picture of this name"):
        open_split(str(tmp_path), "all")


def test_letter_case_of_names_is_told(tmp_path: Path) -> None:
    put(tmp_path, {f"Annotations/IMG_{n}.xml": voc_xml(n) for n in "ab"} | pictures({f"images/img_{n}.JPG": n for n in "ab"}))  # type: ignore[operator]
    assert seen(tmp_path) == {"all": {"img_a": TRUTH["a"], "img_b": TRUTH["b"]}}
    assert told(tmp_path) == {("other-spelling", "data", 2)}


def test_a_folder_called_test_among_days_is_no_split(tmp_path: Path) -> None:
    folders = {"a": "day1/test", "b": "day2", "c": "day2", "d": "day3"}
    for name, folder in folders.items():
        put(tmp_path, {f"xml/{folder}/{name}.xml": voc_xml(name), f"images/{folder}/{name}.jpg": JPEG[name]})
    assert seen(tmp_path) == true(all="abcd")


def test_a_picture_of_another_split_is_not_taken(tmp_path: Path) -> None:
    put(tmp_path, {"train/x.xml": voc_xml("a"), "train/y.xml": voc_xml("b"), "train/y.jpg": JPEG["b"], "valid/x.jpg": JPEG["c"]})
    (raw,) = open_layout(str(tmp_path), header_sizes).sources
    assert raw.files["train/y.jpg"]
    assert None in raw.files.values(), "train/x.jpg is missing"


def test_two_data_sets_side_by_side_are_refused(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        put(
            tmp_path,
            {f"{year}/Annotations/a.xml": voc_xml("a"), f"{year}/JPEGImages/a.jpg": JPEG["a"], f"{year}/ImageSets/Main/train.txt": "a"},
        )
    with pytest.raises(UserError, match="expected one data set, got VOC2007/ImageSets, VOC2012/ImageSets: name one of them"):
        open_layout(str(tmp_path), header_sizes)


def test_a_listed_picture_that_is_nowhere_is_missing(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders(), "ImageSets/Main/train.txt": "a\n../../etc/passwd\n/etc/hosts\n"})
    (raw,) = open_layout(str(tmp_path), header_sizes).sources
    assert sum(file is None for file in raw.files.values()) == 2
    assert not any(".." in name or name.startswith("/") for name in raw.files)


ONE = "<object><name>red</name>{}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


@pytest.mark.parametrize("numbers", [(" 10 ", "\n12\t", "30", "20"), ("10.0", "12.00", "3e1", "2.0E+1"), ("+10", "12.", "30", "020")])
def test_numbers_are_read_as_they_are_meant(numbers: tuple[str, ...]) -> None:
    page = read_page(f"<annotation>{ONE.format('', *numbers)}</annotation>".encode(), "x.xml")
    assert [one.corners for one in page.objects] == [(10, 12, 30, 20)]
    assert not page.malformed


@pytest.mark.parametrize("number", ["", "wide", "nan", "inf", "1_0", "1e99", "1,5", "10 20"])
def test_other_numbers_are_told(number: str) -> None:
    page = read_page(f"<annotation>{ONE.format('', number, 1, 20, 20)}</annotation>".encode(), "x.xml")
    assert not page.objects
    assert len(page.malformed) == 1
    assert page.malformed[0].startswith("x.xml: object 1 (red): expected a name and numbers as xmin")


@pytest.mark.parametrize(
    ("text", "difficult"),
    [("1", True), (" 1 ", True), ("true", True), ("True", True), ("1.0", True), ("0", False), (" 0", False), ("false", False), ("", False),
     ("Unspecified", False), ("0.0", False)],
)  # fmt: skip
def test_difficult_is_a_number_or_a_word(text: str, difficult: bool) -> None:
    page = read_page(f"<annotation>{ONE.format(f'<difficult>{text}</difficult>', 1, 1, 9, 9)}</annotation>".encode(), "x.xml")
    assert [one.difficult for one in page.objects] == [difficult]
    assert "expected 0 or 1 as difficult" in read_page(
        f"<annotation>{ONE.format('<difficult>2</difficult>', 1, 1, 9, 9)}</annotation>".encode(), "x.xml"
    ).malformed[0]  # fmt: skip


@pytest.mark.parametrize("corners", [(30, 12, 10, 20), (10, 20, 30, 12), (30, 20, 10, 12)])
def test_swapped_corners_are_mended_and_told(corners: tuple[int, ...], tmp_path: Path) -> None:
    put(tmp_path, {"a.xml": f"<annotation>{ONE.format('', *corners)}</annotation>", "a.jpg": JPEG["a"]})
    assert seen(tmp_path) == {"all": {"a": [("red", (9, 11, 21, 9))]}}
    assert told(tmp_path) == {("swapped-corners", "all", 1)}


def test_namespaces_and_parts_do_not_hide_an_object() -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    text = f'<annotation xmlns="http://example.org/voc">{ONE.format(part, 10, 12, 30, 20)}</annotation>'
    page = read_page(text.encode(), "x.xml")
    assert [(one.name, one.corners) for one in page.objects] == [("red", (10, 12, 30, 20))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "GBK", "gb2312", "Shift_JIS", "iso-8859-1"])
def test_encodings(encoding: str) -> None:
    name = "été" if encoding == "iso-8859-1" else "山"
    text = f"<?xml version='1.0' encoding='{encoding}'?>\n<annotation>{ONE.format('', 10, 12, 30, 20)}</annotation>".replace("red", name)
    page = read_page(text.encode(encoding), "x.xml")
    assert [one.name for one in page.objects] == [name]
    if encoding == "GBK":
        assert read_page(text.encode(encoding) + b"\xff", "x.xml").malformed
        assert read_page(text.replace("GBK", "gb0").encode(encoding), "x.xml").malformed


@pytest.mark.parametrize("shape", ["polygon", "robndbox"])
def test_a_shape_that_is_no_box_is_told(shape: str, tmp_path: Path) -> None:
    put(tmp_path, {"a.xml": f"<annotation><object><name>red</name><{shape}><x1>1</x1></{shape}></object></annotation>", "a.jpg": JPEG["a"]})
    assert f"a.xml: object 1 (red): expected a box (bndbox), got {shape}; draw a box around it" in lines(tmp_path)


def test_entities_are_refused_and_cost_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    outside = (
        f'<!DOCTYPE annotation [<!ENTITY e SYSTEM "file://{tmp_path}/secret">]><annotation><object><name>&e;</name></object></annotation>'
    )
    nested = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 9}">' for n in range(1, 5))
    inside = f'<!DOCTYPE annotation [<!ENTITY e0 "x">{nested}]><annotation><filename>&e4;</filename></annotation>'
    for text in (outside, inside):
        for content in (text.encode(), text.encode("utf-16")):
            begun = time.monotonic()
            page = read_page(content, "x.xml")
            assert not page.objects
            assert page.malformed == ("x.xml: expected XML without entities of its own, got <!ENTITY",)
            assert time.monotonic() - begun < 1.0
    deep = read_page(b"<annotation>" + b"<a>" * 50_000 + b"</a>" * 50_000 + b"</annotation>", "x.xml")
    assert deep.is_annotation


def test_yolo_labels_beside_are_told_and_the_more_complete_layout_is_read(tmp_path: Path) -> None:
    put(tmp_path, {**two_folders("xml", "images"), "labels/a.txt": "0 0.5 0.5 0.1 0.1\n"})
    layout = open_layout(str(tmp_path), header_sizes)
    assert layout.name == "Pascal VOC"
    assert told(tmp_path) == {("other-layout", "data", 1)}
    put(tmp_path, {f"labels/{n}.txt": "0 0.5 0.5 0.1 0.1\n" for n in TRUTH})
    assert open_layout(str(tmp_path), header_sizes).name == "Pascal VOC", "it has names, and the others are often made of it"
    (tmp_path / "xml/a.xml").unlink()
    assert open_layout(str(tmp_path), header_sizes).name == "YOLO"


def test_captions_beside_the_pictures_are_no_labels(tmp_path: Path) -> None:
    put(
        tmp_path,
        {f"{n}.jpg": JPEG[n] for n in TRUTH} | {f"{n}.txt": "a red thing beside a blue one" for n in TRUTH} | {"a.xml": voc_xml("a")},
    )  # type: ignore[operator]
    assert seen(tmp_path) == true(all="a")


RACCOONS = Path(__file__).parents[2] / "shared" / "data" / "raccoon"


def test_the_raccoons() -> None:
    if not RACCOONS.exists():
        pytest.skip("the shared data is not there")
    (raw,) = open_layout(str(RACCOONS), header_sizes).sources
    assert (raw.found_as, len(raw.document["images"]), len(raw.document["annotations"])) == ("all", 200, 217)
    assert raw.document["annotations"][0]["bbox"] == [80, 87, 442, 321]
