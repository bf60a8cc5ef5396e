"""One table of boxes: headers in many spellings, tables without one, splits, units; what is not sure is a line that says how to name it."""

from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laid_out import HEIGHT, JPEG, TRUTH, WIDTH, put, seen, table, told, true

from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import open_layout
from spnas_core.data.splits import DataSet, open_split
from spnas_core.data.table_columns import read_columns
from spnas_core.errors import UserError

IMAGES = {f"images/{name}.jpg": JPEG[name] for name in TRUTH}


def rows(header: str, row: str, names: str = "abcef") -> str:
    """A table of which each row is `row`, with the values of a box by name."""
    lines = []
    for name in names:
        for kind, (x, y, w, h) in TRUTH[name]:
            values = {
                "name": name,
                "kind": kind,
                "x": x,
                "y": y,
                "w": w,
                "h": h,
                "x2": x + w,
                "y2": y + h,
                "cx": x + w / 2,
                "cy": y + h / 2,
            }
            parts = {"px": x / WIDTH, "py": y / HEIGHT, "px2": (x + w) / WIDTH, "py2": (y + h) / HEIGHT}
            lines.append(row.format(**values, **parts))
    return "\n".join([header, *lines]) + "\n"


HEADERS = {
    "filename,width,height,class,xmin,ymin,xmax,ymax": "{name}.jpg,64,48,{kind},{x},{y},{x2},{y2}",
    "image,x1,y1,x2,y2,label": "images/{name}.jpg,{x},{y},{x2},{y2},{kind}",
    "path,x,y,w,h,class": "./images/{name}.jpg,{x},{y},{w},{h},{kind}",
    "Image Path,Label Name,X Min,Y Min,X Max,Y Max": "images\\{name}.jpg,{kind},{x},{y},{x2},{y2}",
    "file_name,category,bbox_x,bbox_y,bbox_width,bbox_height,width,height": "{name}.jpg,{kind},{x},{y},{w},{h},64,48",
    "image_id,class_id,class_name,left,top,right,bottom": "{name},1,{kind},{x}.0,{y}.00,{x2}e0,{y2}",
    "img,species,x_center,y_center,width,height": "/home/me/images/{name}.jpg,{kind},{cx},{cy},{w},{h}",
    "filename;class;xmin;ymin;xmax;ymax": "{name}.jpg;{kind};{x},0;{y},00;{x2};{y2}",
    "filename\tlabel\tx0\ty0\tx1\ty1": "{name}.jpg\t{kind}\t{x}\t{y}\t{x2}\t{y2}",
    '"filename","class","xtl","ytl","xbr","ybr"': '"{name}.jpg","{kind}","{x}","{y}","{x2}","{y2}"',
    "ImageID,XMin_norm,XMax_norm,YMin_norm,YMax_norm,LabelName": "{name},{px},{px2},{py},{py2},{kind}",
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(("ending", "mark"), [("\n", b""), ("\r\n", b"\xef\xbb\xbf"), ("\r\n", b"\xff\xfe")])
def test_headers_in_many_spellings(header: str, ending: str, mark: bytes, tmp_path: Path) -> None:
    text = rows(header, HEADERS[header]).replace("\n", ending)
    put(tmp_path, {**IMAGES, "boxes.csv": mark + text.encode("utf-16-le" if mark == b"\xff\xfe" else "utf-8")})
    assert seen(tmp_path) == true(all="abcef")
    assert told(tmp_path) == {("unlisted-image", "data", 1)}


def test_a_table_without_a_header(tmp_path: Path) -> None:
    text = rows("", "images/{name}.jpg,{x},{y},{x2},{y2},{kind}").lstrip() + "images/d.jpg,,,,,\n"
    put(tmp_path, {**IMAGES, "annotations.csv": text, "classes.csv": "red,0\nblue,1\n"})
    assert seen(tmp_path) == true(all="abcefd")
    put(tmp_path, {"annotations.csv": rows("", "images/{name}.jpg,{x},{y},{w},{h},{kind}").lstrip()})
    with pytest.raises(
        UserError, match=r"annotations.csv: expected a column for the picture, got 'images/a.jpg,42,18,14,16,red': name the columns"
    ):
        open_layout(str(tmp_path), header_sizes)


@pytest.mark.parametrize(
    "names", [("train.csv", "val.csv"), ("train_labels.csv", "validation_labels.csv"), ("train/_annotations.csv", "valid/_annotations.csv")]
)
def test_tables_of_splits(names: tuple[str, str], tmp_path: Path) -> None:
    put(tmp_path, IMAGES)
    for name, some in zip(names, ("abc", "def"), strict=True):
        put(tmp_path, {name: table(some)})
    assert list(seen(tmp_path).values()) == list(true(train="abc", val="def").values())
    assert DataSet(str(tmp_path)).names == ("train", "val")
    put(tmp_path, {"all_labels.csv": table("abcdef")})
    assert DataSet(str(tmp_path)).names == ("train", "val"), "the tables of the splits decide"


def test_pictures_of_one_name_in_two_splits(tmp_path: Path) -> None:
    """As Roboflow writes them, in the folder of the table; and below images/."""
    for split, name in {"train": "a", "valid": "b"}.items():
        put(tmp_path / "one", {f"{split}/_annotations.csv": table(name).replace(f"{name}.jpg", "x.jpg"), f"{split}/x.jpg": JPEG[name]})
        put(tmp_path / "two", {f"{split}.csv": table(name).replace(f"{name}.jpg", "x.jpg"), f"images/{split}/x.jpg": JPEG[name]})
    for folder in ("one", "two"):
        assert seen(tmp_path / folder) == {"train": {"x": TRUTH["a"]}, "valid": {"x": TRUTH["b"]}}


@pytest.mark.parametrize("column", ["split", "Subset", "SET"])
def test_a_column_of_splits(column: str, tmp_path: Path) -> None:
    lines = table("abcdef").splitlines()
    text = "\n".join([f"{lines[0]},{column}", *(f"{line},{'Train' if line[0] in 'abc' else 'valid'}" for line in lines[1:])])
    put(tmp_path, {**IMAGES, "boxes.csv": text})
    assert seen(tmp_path) == true(Train="abc", valid="efd")
    assert DataSet(str(tmp_path)).names == ("train", "val")
    put(tmp_path, {"boxes.csv": text.removesuffix("valid")})
    with pytest.raises(UserError, match=r"boxes.csv, line 11: expected the name of a split, as in other lines, got none"):
        open_layout(str(tmp_path), header_sizes)


def test_folders_of_the_pictures_are_splits_of_one_table(tmp_path: Path) -> None:
    put(tmp_path, {f"{'train' if name in 'abc' else 'val'}/{name}.jpg": JPEG[name] for name in TRUTH})
    put(tmp_path, {"boxes.csv": table("abcdef")})
    assert seen(tmp_path) == true(train="abc", val="efd")


REFUSED = {
    "filename,class,bbox": ('{name}.jpg,{kind},"[{x}, {y}, {w}, {h}]"', "expected four columns for the box"),
    "filename,class,a,b,c,d": ("{name}.jpg,{kind},{x},{y},{w},{h}", "expected four columns for the box"),
    "a,class,xmin,ymin,xmax,ymax": ("{name}.jpg,{kind},{x},{y},{x2},{y2}", "expected a column for the picture"),
    "filename,what,xmin,ymin,xmax,ymax": ("{name}.jpg,{kind},{x},{y},{x2},{y2}", "expected a column for the class"),
    "filename,class,x,x,y,y": ("{name}.jpg,{kind},{x},{y},{x2},{y2}", "expected four columns for the box"),
    "filename,class,xmin,ymin,xmax,ymax": ("{name}.jpg,{kind},{x},{y},{w},{h}", r"no upper left and lower right: a width and a height\?"),
    "ImageID,LabelName,XMin,XMax,YMin,YMax": ("{name},{kind},{px},{px2},{py},{py2}", "expected boxes in px, got none over .* xmin_norm"),
    "filename,class,xmin_norm,ymin_norm,xmax_norm,ymax_norm": (
        "{name}.jpg,{kind},{x},{y},{x2},{y2}",
        "expected parts of the image from 0 to 1",
    ),
}


@pytest.mark.parametrize("header", REFUSED)
def test_what_is_not_sure_is_one_line_with_the_way_out(header: str, tmp_path: Path) -> None:
    row, words = REFUSED[header]
    put(tmp_path, {**IMAGES, "boxes.csv": rows(header, row)})
    with pytest.raises(UserError, match=words) as caught:
        open_layout(str(tmp_path), header_sizes)
    assert str(caught.value).isprintable()
    assert "name the columns" in str(caught.value) or "as the header says" in str(caught.value)


def test_two_tables_that_are_no_splits_are_refused(tmp_path: Path) -> None:
    put(tmp_path, {**IMAGES, "one.csv": table("abc"), "two.csv": table("def")})
    with pytest.raises(UserError, match=r"expected one table, or tables named for splits \(train.csv, val.csv\), got one.csv, two.csv"):
        open_layout(str(tmp_path), header_sizes)


@pytest.mark.parametrize("line", ["a.jpg,red,1,2,x,4", "a.jpg,red,1,2,3", "a.jpg,,1,2,3,4", "a.jpg,red,1,2,nan,4", "a.jpg,red,1,2,1e99,4"])
def test_a_faulty_row_is_told(line: str, tmp_path: Path) -> None:
    put(tmp_path, {**IMAGES, "boxes.csv": table("abcdef") + line})
    with pytest.raises(UserError, match=r"all: boxes.csv, line 12: expected a class and four numbers, got '"):
        open_split(str(tmp_path), "all")


def test_swapped_corners_are_mended_and_told(tmp_path: Path) -> None:
    put(tmp_path, {**IMAGES, "boxes.csv": table("abcdef").replace("a.jpg,red,42,18,56,34", "a.jpg,red,56,34,42,18")})
    assert seen(tmp_path) == true(all="abcefd")
    assert told(tmp_path) == {("swapped-corners", "all", 1)}


def test_a_picture_elsewhere_is_not_taken(tmp_path: Path) -> None:
    put(tmp_path, {"one/a.jpg": JPEG["a"], "two/b.jpg": JPEG["b"], "two/c.jpg": JPEG["c"], "one/c.jpg": JPEG["c"]})
    put(
        tmp_path,
        {"boxes.csv": "filename,class,xmin,ymin,xmax,ymax\n../../a.jpg,red,1,2,30,40\ntwo/a.jpg,red,1,2,30,40\nc.jpg,red,1,2,30,40\n"},
    )
    (raw,) = open_layout(str(tmp_path), header_sizes).sources
    assert {name: file is not None for name, file in raw.files.items()} == {"one/a.jpg": True, "two/a.jpg": False, "c.jpg": False}


def test_letter_case_is_told(tmp_path: Path) -> None:
    put(tmp_path, {**IMAGES, "boxes.csv": table("abcdef").replace(".jpg", ".JPG")})
    assert seen(tmp_path) == true(all="abcefd")
    assert told(tmp_path) == {("other-spelling", "all", 6)}


def test_a_table_at_a_url() -> None:
    system = fsspec.filesystem("memory")
    for name, content in {**IMAGES, "boxes.csv": table("abcdef").encode()}.items():
        system.pipe_file(f"/table-test/{name}", content)
    try:
        assert seen("memory://table-test") == true(all="abcefd")
    finally:
        system.rm("/table-test", recursive=True)


COLUMNS = ["filename", "class", "xmin", "ymin", "xmax", "ymax"]


@given(st.permutations(COLUMNS), st.lists(st.sampled_from(["id", "note", "depth", "confidence", "url"]), unique=True))
def test_columns_may_be_in_any_order_among_others(order: list[str], others: list[str]) -> None:
    header = [*others, *order]
    columns = read_columns(header)
    assert not isinstance(columns, str)
    assert [header[n] for n in (columns.image, columns.category, *columns.box)] == COLUMNS
    assert columns.form == "corners"


@pytest.mark.parametrize("nothing", ["nan", "NaN", "", "null", "None", "NA"])
def test_cells_without_a_value_are_a_picture_without_boxes(nothing: str, tmp_path: Path) -> None:
    text = table("abcef") + f"d.jpg,No finding,{','.join([nothing] * 4)}\n"
    put(tmp_path, {**IMAGES, "boxes.csv": text})
    assert seen(tmp_path) == true(all="abcefd")
    assert told(tmp_path) == set()


@pytest.mark.parametrize("header", ["image,name,xmin,ymin,xmax,ymax,confidence,class", "filename,label,xmin,ymin,xmax,ymax,class_id,class",
                                    "path,tag,x1,y1,x2,y2,score,category"])  # fmt: skip
def test_a_column_of_names_counts_before_one_of_their_numbers(header: str, tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            **IMAGES,
            "boxes.csv": rows(header, "{name}.jpg,{kind},{x},{y},{x2},{y2},1,{kind}").replace(",red\n", ",0\n").replace(",blue\n", ",1\n"),
        },
    )
    assert seen(tmp_path) == true(all="abcef")


@pytest.mark.parametrize("name", ["{name}.jpg", "{name}", "7"])
def test_numbers_stay_the_classes_where_no_column_names_them(name: str, tmp_path: Path) -> None:
    text = rows("filename,name,xmin,ymin,xmax,ymax,class", "{name}.jpg," + name + ",{x},{y},{x2},{y2},{kind}").replace(",red\n", ",0\n")
    put(tmp_path, {**IMAGES, "boxes.csv": text.replace(",blue\n", ",1\n")})
    kinds = {kind for boxes in seen(tmp_path)["all"].values() for kind, _ in boxes}
    assert kinds == {"0", "1"}


@pytest.mark.parametrize("more", [0, 1])
def test_the_size_of_the_box_is_not_that_of_the_image(more: int, tmp_path: Path) -> None:
    header, row = "filename,class,xmin,ymin,xmax,ymax,width,height", "{name}.jpg,{kind},{x},{y},{x2},{y2},"
    lines = [header] + [
        row.format(name=n, kind=k, x=x, y=y, x2=x + w, y2=y + h) + f"{w + more},{h + more}" for n in "abcef" for k, (x, y, w, h) in TRUTH[n]
    ]
    put(tmp_path, {**IMAGES, "boxes.csv": "\n".join(lines)})
    assert seen(tmp_path) == true(all="abcef")


def test_lines_of_a_table_name_the_data_set(tmp_path: Path) -> None:
    put(tmp_path, {**IMAGES, "boxes.csv": "filename,class,xmin,ymin,xmax,ymax\na.jpg,red,0.1,0.1,0.5,0.5\n"})
    with pytest.raises(UserError, match=rf"^{tmp_path}: boxes.csv: expected boxes in px, got none over 0.5"):
        open_layout(str(tmp_path), header_sizes)
