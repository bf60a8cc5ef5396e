"""Columns of an annotation table, by the many spellings of their names: the picture, the class, the split, and how a box is written.

Boxes are two corners (xmin, ymin, xmax, ymax and others), or a corner and a size (x, y, w, h; the upper left corner, as in COCO), or a
centre and a size (x_center, y_center, width, height), in px; in parts of the image only where the names end in norm, normalized, rel or
relative. `width` and `height` are those of the image where the box is written as corners. A table without a header is read in
keras-retinanet's form alone: path,x1,y1,x2,y2,class. https://github.com/fizyr/keras-retinanet#annotations-format
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spnas_core.data.images import SUFFIXES

Form = Literal["corners", "corner and size", "centre and size"]
WAY_OUT = "name the columns filename,class,xmin,ymin,xmax,ymax (px), or filename,class,x,y,w,h with x,y as the upper left corner"
_IMAGES = ("filename", "file", "image", "img", "path", "filepath", "imagepath", "imgpath", "imagename", "imgname", "imagefile", "picture")
_IMAGES_ID = ("imageid", "imgid")
_CLASSES = ("classname", "labelname", "categoryname", "objectname", "class", "label", "category", "object", "tag", "species", "name")
_CLASS_NUMBERS = ("classid", "labelid", "categoryid")
_SPLITS = ("split", "subset", "set", "partition", "fold", "usage", "dataset")
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("left", "top", "right", "bottom"),
    ("xtl", "ytl", "xbr", "ybr"),
    ("minx", "miny", "maxx", "maxy"),
    ("xstart", "ystart", "xend", "yend"),
    ("topleftx", "toplefty", "bottomrightx", "bottomrighty"),
)
_SIZES = (("w", "h"), ("width", "height"), ("boxwidth", "boxheight"))
_CORNER = (("x", "y"), ("xmin", "ymin"), ("left", "top"), ("x1", "y1"), ("topleftx", "toplefty"))
_CENTRE = (("xcenter", "ycenter"), ("centerx", "centery"), ("cx", "cy"), ("xc", "yc"), ("xcentre", "ycentre"), ("centrex", "centrey"))
_BEFORE = re.compile(r"^(?:bbox|box|bndbox)(?=.)")
_PARTS = re.compile(r"(?:norm|normalized|normalised|rel|relative)$")


@dataclass(frozen=True)
class TableColumns:
    """Places of the columns in a row; `size` are width and height of the image, `parts` tells that boxes are parts of it."""

    image: int
    category: int
    box: tuple[int, int, int, int]
    form: Form
    parts: bool = False
    size: tuple[int, int] | None = None
    split: int | None = None
    header: bool = True


def read_columns(header: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> TableColumns | str:
    """Columns that a header names, or what is missing in it; of two columns of classes the one of names, not of their numbers."""
    names = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]
    image = _first(names, (*_IMAGES, *_IMAGES_ID))
    if image is None:
        return "a column for the picture"
    category = next((n for n in (_first(names, _CLASSES), _first(names, _CLASS_NUMBERS)) if n is not None and n != image), None)
    if category is None:
        return "a column for the class"
    category = _column_of_names(names, image, category, rows)
    parts = any(_PARTS.search(name) for name in names)
    bare = [_PARTS.sub("", _BEFORE.sub("", name)) for name in names]
    box = _box([name if name != old else "" for name, old in zip(bare, names, strict=True)]) or _box(bare)
    if box is None:
        return "four columns for the box, as corners or as a corner and a size"
    places, form = box
    sizes = [("imagewidth", "imageheight"), ("imgwidth", "imgheight"), ("imagew", "imageh"), ("imgw", "imgh"), ("width", "height")]
    pairs = (_all(names, pair) for pair in sizes)
    size = next((pair for pair in pairs if pair and not set(pair) & set(places)), None)
    split = _first(names, _SPLITS)
    return TableColumns(image, category, places, form, parts, (size[0], size[1]) if size else None, split if split != category else None)


def without_header(rows: Sequence[Sequence[str]]) -> TableColumns | None:
    """Columns of a table without a header, if it is in the one form that can be told: six columns, of which all boxes are corners."""
    for row in rows:
        if len(row) != 6 or not row[0].lower().endswith(SUFFIXES):
            return None
        if any(row[1:5]) and not (all(map(_is_number, row[1:5])) and float(row[3]) > float(row[1]) and float(row[4]) > float(row[2])):
            return None
    return TableColumns(0, 5, (1, 2, 3, 4), "corners", header=False) if any(any(row[1:5]) for row in rows) else None


def _column_of_names(names: Sequence[str], image: int, category: int, rows: Sequence[Sequence[str]]) -> int:
    """Column that has one name for each number in the column `category`; that one itself where there is none, or it has names."""
    cells = [row for row in rows if len(row) >= len(names)]
    if not cells or not all(re.fullmatch(r"\d+(\.0)?|", row[category]) for row in cells):
        return category
    for other in (place for name in _CLASSES for place, one in enumerate(names) if one == name and place not in (image, category)):
        pairs = {(row[category], row[other]) for row in cells if row[category]}
        numbers, texts = ({pair[side] for pair in pairs} for side in (0, 1))
        named = all(text and not _is_number(text) and not text.lower().endswith(SUFFIXES) for text in texts)
        if named and len(pairs) == len(numbers) == len(texts) > 0:
            return other
    return category


def _box(bare: Sequence[str]) -> tuple[tuple[int, int, int, int], Form] | None:
    for corners in _CORNERS:
        if found := _all(bare, corners):
            return (found[0], found[1], found[2], found[3]), "corners"
    forms: tuple[tuple[tuple[tuple[str, str], ...], Form], ...] = ((_CENTRE, "centre and size"), (_CORNER, "corner and size"))
    for starts, form in forms:
        for start in starts:
            for size in _SIZES:
                if found := _all(bare, (*start, *size)):
                    return (found[0], found[1], found[2], found[3]), form
    return None


def _all(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Places of all names; empty where one is missing or is there twice."""
    return [names.index(name) for name in wanted] if all(list(names).count(name) == 1 for name in wanted) else []


def _first(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?\s*", text) is not None
