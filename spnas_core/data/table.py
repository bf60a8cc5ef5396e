"""One table with a line for each box (CSV and the like), read as COCO documents: DATA/NAME.csv, or one table for each split.

Columns are found by the names in the header (`table_columns.py`). The splits are a column of that name; else tables that are named for
splits (train.csv, test_labels.csv, SPLIT/_annotations.csv); else folders of the pictures that are; else all is one split. A line with no
box is a picture without boxes. Corners are taken as they are, px from 0. Classes are numbered from 1 in the order of their names.
"""

import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence

from spnas_core.data.findings import found
from spnas_core.data.matching import Cuts, Names, stem_of
from spnas_core.data.pages import Drawn, Sheet, as_raw_split, numbered
from spnas_core.data.pairing import distance
from spnas_core.data.raw_split import ImageSizes, Layout, RawSplit
from spnas_core.data.split_folders import splits_by_folders
from spnas_core.data.split_names import SPLITS, UNSPLIT, usual_name
from spnas_core.data.table_rows import TableFile, TableRow, read_table, to_px
from spnas_core.data.tree import FileTree, printable
from spnas_core.errors import UserError

_Row = tuple[TableFile, TableRow]


def open_table(tree: FileTree, sizes: ImageSizes, chosen: bool = False) -> Layout | None:
    """Read a data set in this layout; None where there is no table with pictures. UserError where a table cannot be told.

    A column of splits that names neither train nor val nor test, such as one of folds, counts only where the user has `chosen` of it.
    """
    names = tree.ending(".csv", ".tsv")
    if not names or not tree.pictures:
        return None
    read = [_read(content, name, tree.url) for name, content in tree.contents(names).items()]
    tables = [table for table in read if isinstance(table, TableFile)]
    if not tables:
        raise UserError(f"{tree.url}: {next(text for text in read if isinstance(text, str))}")
    values = list(dict.fromkeys(row.split for table in tables for row in table.rows if row.split))
    ignored = len(values) > 1 and not chosen and not any(usual_name(value) in SPLITS for value in values)
    tables = [table.unsplit() for table in tables] if ignored else tables
    finder = _Pictures(tree, [row.image for table in tables for row in table.rows])
    by_split: dict[str, list[_Row]] = defaultdict(list)
    for split, table in _named_tables(tables, tree.url).items():
        for row in table.rows:
            by_split[printable(row.split) or split].append((table, row))
    has_splits = any(table.has_splits for table in tables)
    if has_splits and UNSPLIT in by_split and len(by_split) > 1:
        table, row = by_split[UNSPLIT][0]
        raise UserError(f"{tree.url}: {printable(table.name)}, line {row.line}: expected the name of a split, as in other lines, got none")
    kinds = numbered({row.category for rows in by_split.values() for _, row in rows if row.box})
    if list(by_split) == [UNSPLIT]:
        rows_of: dict[str, list[_Row]] = defaultdict(list)
        for table, row in by_split.pop(UNSPLIT):
            rows_of[finder.find(table.name, row.image, UNSPLIT) or row.image].append((table, row))
        by_split |= {split: [row for name in some for row in rows_of[name]] for split, some in splits_by_folders(list(rows_of)).items()}
    sources = tuple(_source(tree, split, rows, kinds, finder, sizes) for split, rows in by_split.items())
    used = {file.url for raw in sources for file in raw.files.values() if file}
    findings = found("unlisted-image", "data", [printable(name) for name in tree.pictures if tree.image(name).url not in used])
    findings += found("other-column", "data", [", ".join(map(printable, values[:4]))] if ignored else [])
    return Layout("table", tree.url, sources, tuple(findings))


def _read(content: bytes, name: str, where: str) -> TableFile | str:
    try:
        return read_table(content, name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _named_tables(tables: Sequence[TableFile], where: str) -> dict[str, TableFile]:
    """Tables by split: those that are named for one, or lie in its folder; else the only one."""
    named: dict[str, TableFile] = {}
    for table in tables:
        stem = stem_of(table.name)
        folders = [part for part in posixpath.dirname(table.name).split("/") if usual_name(part) in SPLITS]
        for name in [stem, *folders] if usual_name(stem) in SPLITS else folders:
            if name in named:
                both = f"{printable(named[name].name)} and {printable(table.name)}"
                raise UserError(f"{where}: expected one table for {printable(name)}, got {both}")
            named[name] = table
            break
    if named:
        return named
    if len(tables) > 1:
        text = ", ".join(printable(table.name) for table in tables[:4])
        raise UserError(f"{where}: expected one table, or tables named for splits (train.csv, val.csv), got {text}")
    return {UNSPLIT: tables[0]}


class _Pictures:
    """Pictures of a data set, to find by the names in a table."""

    def __init__(self, tree: FileTree, names: Sequence[str]) -> None:
        self._tree, self._pictures, self._cuts = tree, set(tree.pictures), Cuts(dict.fromkeys(names))
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name, some in tree.pictures_by_name.items():
            self._by_stem[posixpath.splitext(name)[0]] += some
        self._names, self._stems = Names(tree.pictures_by_name), Names(self._by_stem)
        self._found: dict[tuple[str, str, str], str | None] = {}

    def find(self, table: str, name: str, split: str) -> str | None:
        """Picture by its path from the table or the root, or as the end of one of another place; else by its name alone, without suffix."""
        key = (table, name, split)
        if key not in self._found:
            self._found[key] = self._find(table, name.replace("\\", "/"), split)
        return self._found[key]

    def _find(self, table: str, name: str, split: str) -> str | None:
        parts = [part for part in posixpath.normpath(name).split("/") if part not in ("", ".", "..")]
        for tail in self._cuts.tails(name):
            for top in dict.fromkeys((posixpath.dirname(table), "")):
                path = posixpath.join(top, *tail)
                if path in self._pictures:
                    return path
        if (found := self._tree.names.find(name)) in self._pictures:
            return found
        base = parts[-1] if parts else ""
        alike = self._tree.pictures_by_name.get(self._names.find(base) or "", []) or self._by_stem.get(self._stems.find(base) or "", [])
        if len(parts) > 1:  # its folder is part of the name
            alike = [picture for picture in alike if picture.split("/")[-2:] == parts[-2:]]
        here = [picture for picture in alike if usual_name(split) in map(usual_name, posixpath.dirname(picture).split("/"))]
        far = {picture: distance(table, picture) for picture in here or alike}
        near = [picture for picture, steps in far.items() if steps is not None]
        return near[0] if len(near) == 1 else None


def _source(tree: FileTree, split: str, rows: Sequence[_Row], kinds: Mapping[str, int], finder: _Pictures, sizes: ImageSizes) -> RawSplit:
    by_image: dict[str, list[_Row]] = defaultdict(list)
    respelled: list[str] = []
    names = {}
    for table, row in rows:
        picture = finder.find(table.name, row.image, split)
        name = picture or posixpath.normpath(row.image.replace("\\", "/")).lstrip("/") or row.image
        by_image[name].append((table, row))
        names[name] = picture
        if picture and posixpath.basename(row.image.replace("\\", "/")) not in (posixpath.basename(picture), stem_of(picture)):
            respelled.append(row.image)
    files = {name: tree.image(picture) if picture else None for name, picture in names.items()}
    measured = sizes(file.url for name, file in files.items() if file and any(t.parts or not r.size for t, r in by_image[name]))
    sheets = []
    faults: dict[str, list[str]] = defaultdict(list)
    for table in {table.name: table for table, _ in rows}.values():
        for image, text in table.malformed:
            faults[image].append(text)
    for name, some in by_image.items():
        file = files[name]
        size = next((row.size for _, row in some if row.size), None)
        unit = (measured.get(file.url) if file else None) or size
        drawn = [(row.category, to_px(row.box, table.parts, unit)) for table, row in some if row.box and (unit or not table.parts)]
        texts = [text for image in dict.fromkeys(row.image for _, row in some) for text in faults[image]]
        sheets.append(Sheet(name, file, size, [Drawn(*one) for one in drawn], texts))
    swapped = [f"{printable(table.name)}, line {row.line}" for table, row in rows if row.swapped]
    findings = found("swapped-corners", split, swapped)
    findings += found("malformed", split, faults[""])
    findings += found("other-spelling", split, [printable(text) for text in dict.fromkeys(respelled)])
    return as_raw_split(split, sheets, kinds, sizes, findings)
