"""One XML file of Pascal VOC: what it says of its picture, and the faults of its text.

Read as it is meant: numbers with blanks, decimals or exponents, namespaces, `difficult` as a number or a word, swapped corners.
Files with entities of their own are refused unread: none is needed here, and some are made to fill the memory.
"""

import math
import re
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree

from spnas_core.data.pages import whole
from spnas_core.data.tree import printable

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no", "none", "unspecified")
_OTHERS = ("polygon", "robndbox", "points", "mask", "rle", "cuboid", "ellipse")  # what tools write where there is no bndbox


class Marked(NamedTuple):
    """One object as it is written: its class, its corners (xyxy, px, the smaller first), and whether it is difficult."""

    name: str
    corners: tuple[float, ...]
    difficult: bool


@dataclass(frozen=True)
class Page:
    """One XML file: its picture's size and name, its objects, and the faults of its text; `swapped` names boxes that were mended."""

    size: tuple[int, int] | None
    file_name: str
    objects: tuple[Marked, ...]
    malformed: tuple[str, ...] = ()
    swapped: tuple[str, ...] = ()
    is_annotation: bool = False  # its first tag is the one of Pascal VOC, or it has objects


def read_page(content: bytes, name: str) -> Page:
    """Content of one XML file; `malformed` names the parts that cannot be read."""
    where = printable(name)
    if b"<!ENTITY" in content or "<!ENTITY".encode("utf-16-le") in content or "<!ENTITY".encode("utf-16-be") in content:
        return Page(None, "", (), (f"{where}: expected XML without entities of its own, got <!ENTITY",))
    try:
        top = ElementTree.fromstring(_as_utf8(content))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return Page(None, "", (), (f"{where}: expected XML, got: {printable(str(error))}",))
    for element in top.iter():
        element.tag = str(element.tag).rpartition("}")[2]  # without its namespace
    elements = list(top.iter("object"))
    objects, malformed, swapped = [], [], []
    for number, element in enumerate(elements, start=1):
        label = _text(element, "name")
        shown = f"{where}: object {number} ({printable(label) or 'no name'})"
        one = _object(element, label)
        if isinstance(one, str):
            malformed.append(f"{shown}: expected {one}")
            continue
        x1, y1, x2, y2 = one.corners
        if x1 > x2 or y1 > y2:
            swapped.append(shown)
            one = one._replace(corners=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
        objects.append(one)
    width, height = (whole(_number(_text(top, f"size/{side}"))) for side in ("width", "height"))
    size = (width, height) if width and height else None
    return Page(size, _text(top, "filename"), tuple(objects), tuple(malformed), tuple(swapped), top.tag == "annotation" or bool(elements))


def _as_utf8(content: bytes) -> bytes | str:
    """Text of a file that declares an encoding of several bytes, such as GBK, which the parser cannot read; others as they are."""
    declared = re.match(rb"\s*<\?xml[^>]*encoding=[\"']([A-Za-z0-9_.-]+)[\"'][^>]*\?>", content)
    encoding = declared[1].decode().lower() if declared else ""
    if not declared or not encoding.startswith(("gb", "big5", "euc", "shift", "sjis", "cp9", "iso-2022", "iso2022")):
        return content
    return content[declared.end() :].decode(encoding)


def _object(element: ElementTree.Element, label: str) -> Marked | str:
    """One object, or what was expected of it."""
    if not label or not label.isprintable():
        return f"a name of the class, got {printable(label) or 'none'}"
    if element.find("bndbox") is None:
        other = next((tag for tag in _OTHERS if element.find(tag) is not None), "none")
        return f"a box (bndbox), got {other}; draw a box around it"
    numbers = [_number(_text(element, f"bndbox/{corner}")) for corner in CORNERS]
    corners = tuple(value for value in numbers if value is not None)
    if len(corners) < 4:
        return f"a name and numbers as {', '.join(CORNERS)}"
    difficult = _text(element, "difficult").lower()
    value = _number(difficult)
    if difficult not in (*_TRUE, *_FALSE) and value not in (0, 1):
        return f"0 or 1 as difficult, got {printable(difficult)!r}"
    return Marked(label, corners, difficult in _TRUE or value == 1)


def _text(element: ElementTree.Element, path: str) -> str:
    return " ".join((element.findtext(path) or "").split())


def _number(text: str) -> float | None:
    """Value of a text, px; None of one that is no such number."""
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None
