"""One annotation table: its delimiter, its columns, and a row for each box or for a picture without one."""

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from spnas_core.data.pages import Xywh, whole
from spnas_core.data.table_columns import WAY_OUT, TableColumns, read_columns, without_header
from spnas_core.data.tree import printable, text_of
from spnas_core.errors import UserError

_DELIMITERS = (",", ";", "\t")
_NOTHING = ("", "nan", "na", "n/a", "null", "none")  # as pandas and others write an empty cell
_SWAPPED = 0.2  # share of boxes with swapped corners over which they are no corners


class TableRow(NamedTuple):
    """Line of the file, the picture's name, its class and box (xyxy as it is written; None of a picture without one), and the rest."""

    line: int
    image: str
    category: str
    box: tuple[float, float, float, float] | None
    size: tuple[int, int] | None
    split: str
    swapped: bool = False  # its corners were mended


@dataclass(frozen=True)
class TableFile:
    """All rows of one table; `parts` tells that boxes are in parts of the image."""

    name: str
    parts: bool
    rows: tuple[TableRow, ...]
    malformed: tuple[tuple[str, str], ...]  # picture, fault
    has_splits: bool

    def unsplit(self) -> "TableFile":
        """Table without its column of splits."""
        return replace(self, rows=tuple(row._replace(split="") for row in self.rows), has_splits=False)


def read_table(content: bytes, name: str) -> TableFile | str:
    """Rows of a table, or what keeps a file from being one of boxes."""
    where = printable(name)
    text = text_of(content).lstrip("\ufeff")
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    try:
        rows = [row for row in _rows(text, delimiter) if any(row[1])]
    except csv.Error as error:
        return f"{where}: expected a table, got: {printable(str(error))}"
    if len(rows) < 2 and not rows:
        return f"{where}: expected a header and rows, got nothing"
    header = rows[0][1]
    columns: TableColumns | str | None = without_header([row for _, row in rows]) or read_columns(header, [row for _, row in rows[1:]])
    if isinstance(columns, str) or columns is None:
        return f"{where}: expected {columns}, got {printable(delimiter.join(header))!r}: {WAY_OUT}"
    return _table(name, rows[1:] if columns.header else rows, columns, delimiter)


def to_px(box: tuple[float, float, float, float], parts: bool, size: tuple[int, int] | None) -> Xywh:
    """Box xywh in px of an xyxy box, which may be in parts of an image of `size`."""
    width, height = size if parts and size else (1, 1)
    x1, y1, x2, y2 = box
    return x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(re.split(r"(?<=\n)", text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")), delimiter=delimiter)
    for row in reader:
        yield reader.line_num, [cell.strip() for cell in row]


def _table(name: str, rows: list[tuple[int, list[str]]], columns: TableColumns, delimiter: str) -> TableFile:
    read: list[TableRow] = []
    malformed: list[tuple[str, str]] = []
    needed = max(columns.image, columns.category, *columns.box)
    for line, row in rows:
        where = f"{printable(name)}, line {line}"
        cells = row + [""] * (needed + 1 - len(row))
        image, category = cells[columns.image], cells[columns.category]
        texts = [cells[place] for place in columns.box]
        values = [_number(text, delimiter) for text in texts]
        split = row[columns.split] if columns.split is not None and columns.split < len(row) else ""
        sides = [whole(_number(cells[n], delimiter)) if n < len(cells) else 0 for n in columns.size or ()]
        size = (sides[0], sides[1]) if all(sides) and sides else None
        if not image:
            malformed.append(("", f"{where}: expected the name of a picture, got none"))
        elif all(text.lower() in _NOTHING for text in texts):
            read.append(TableRow(line, image, "", None, size, split))
        elif None in values or not category or not category.isprintable():
            got = printable(", ".join([category, *texts]))
            malformed.append((image, f"{where}: expected a class and four numbers, got {got!r}"))
            read.append(TableRow(line, image, "", None, size, split))
        else:
            x1, y1, x2, y2 = _corners([value or 0.0 for value in values], columns)
            swapped = columns.form == "corners" and (x1 > x2 or y1 > y2)
            if swapped:
                x1, y1, x2, y2 = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
            read.append(TableRow(line, image, category, (x1, y1, x2, y2), size, split, swapped))
    if _are_sizes_of_boxes(read, columns):
        read = [row._replace(size=None) for row in read]
    _check_unit(name, read, columns.parts)
    return TableFile(name, columns.parts, tuple(read), tuple(malformed), columns.split is not None)


def _are_sizes_of_boxes(rows: list[TableRow], columns: TableColumns) -> bool:
    """Whether the columns of the image's size have those of the boxes in all lines."""
    boxes = [(row.box, row.size) for row in rows if row.box and row.size]
    if columns.form != "corners" or columns.parts:
        return False
    return bool(boxes) and all(abs(x2 - x1 - width) <= 1 and abs(y2 - y1 - height) <= 1 for (x1, y1, x2, y2), (width, height) in boxes)


def _check_unit(name: str, rows: list[TableRow], parts: bool) -> None:
    """UserError where boxes are in another unit than the header says."""
    swapped = sum(row.swapped for row in rows)
    if swapped > 2 and swapped > _SWAPPED * len(rows):
        text = f"corners, as the header says, got {swapped} of {len(rows)} that are no upper left and lower right: a width and a height?"
        raise UserError(f"{printable(name)}: expected {text} Then {WAY_OUT}")
    largest = [max(map(abs, row.box)) for row in rows if row.box]
    if largest and not parts and max(largest) <= 1:
        text = f"boxes in px, got none over {max(largest):g}: parts of the image? then name the columns xmin_norm, ymin_norm and so on"
        raise UserError(f"{printable(name)}: expected {text}")
    if parts and any(value > 2 for value in largest):
        raise UserError(f"{printable(name)}: expected parts of the image from 0 to 1, as the header says, got {max(largest):g}")


def _corners(values: list[float], columns: TableColumns) -> tuple[float, float, float, float]:
    a, b, c, d = values
    if columns.form == "corners":
        return a, b, c, d
    x, y = (a, b) if columns.form == "corner and size" else (a - c / 2, b - d / 2)
    return x, y, x + c, y + d


def _number(text: str, delimiter: str) -> float | None:
    if delimiter == ";" and re.fullmatch(r"[+-]?\d+,\d+", text):
        text = text.replace(",", ".")  # as spreadsheets write it where the comma is the decimal point
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None
