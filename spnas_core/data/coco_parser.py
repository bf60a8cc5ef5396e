"""Parser of sound COCO files, as fast as their bytes can be read: typed, without what is not needed, the annotations in pieces.

A mark takes the place of the list of annotations; what is left is small and is parsed as a whole, and the mark's place in it proves
that the list stands there. The list is parsed in pieces that end between two objects: a cut inside of an object or of a text would
make the piece before it invalid, so that what is parsed to its end is what the file says.
"""

import contextlib
import posixpath
import re
from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from spnas_core.data.columns import MARK_DTYPE, Columns, Marks
from spnas_core.data.mending import root_categories

PIECE = 1 << 22  # bytes
LONGEST = 1 << 16  # bytes of an annotation with objects in it, in which a cut may fall
TRIES = 16  # ends of lists, from the end of the file, that may be that of the annotations
_CUT = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*\{")
_LIST = re.compile(rb'"annotations"[ \t\r\n]*:[ \t\r\n]*\[')
_MARK = "annotations stood here"


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int
    height: int


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str
    supercategory: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    id: int = -1
    iscrowd: int = 0
    area: float = np.nan


class _Rest(msgspec.Struct, gc=False):
    images: list[_Image]
    categories: list[_Category]
    annotations: tuple[str]


_REST = msgspec.json.Decoder(_Rest)
_PIECE = msgspec.json.Decoder(list[_Annotation])


def parse_coco(content: Any) -> Columns | None:
    """Columns of the bytes of a COCO file; None of a file with anything in it that is not as COCO has it: it wants a closer look."""
    for rest, first, last in _rests(content):
        with contextlib.suppress(msgspec.DecodeError, OverflowError, ValueError, TypeError, RecursionError):  # not the end of the list
            columns = _columns(rest, _marks(content, first, last))
            return columns if _is_sound(columns) else None
    return None


def _rests(content: Any) -> Iterator[tuple[_Rest, int, int]]:
    """Yield the file without its annotations, and where these begin and end in it."""
    found = _LIST.search(content)
    if not found:
        return
    end = len(content)
    for _ in range(TRIES):
        end = content.rfind(b"]", found.end(), end)
        if end < 0:
            return
        inner = bytes(content[max(found.end(), end - 64) : end]).rstrip()
        if inner and not inner.endswith(b"}"):
            continue
        try:
            text = b"".join((content[: found.end()], b'"', _MARK.encode(), b'"', content[end:]))
            rest = _REST.decode(text)
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue
        if rest.annotations == (_MARK,):
            yield rest, found.end(), end


def _marks(content: Any, first: int, last: int) -> Marks:
    """Annotations (m,) of the bytes `first` to `last`, which are a list without its brackets."""
    parts = [np.zeros(0, MARK_DTYPE)]
    view = memoryview(content)
    while first < last:
        search, rows = first + PIECE, None
        while rows is None:
            cut = _CUT.search(content, search, last) if search < last else None
            stop, after = (cut.start() + 1, cut.end() - 1) if cut else (last, last)
            try:
                rows = _PIECE.decode(b"".join((b"[", view[first:stop], b"]")))
            except msgspec.ValidationError:
                raise
            except msgspec.DecodeError:  # cut inside of an object
                if cut is None or stop > first + PIECE + LONGEST:
                    raise
                search = cut.end()
        parts.append(_array(rows))
        first = after
    return np.concatenate(parts)


def _array(rows: list[_Annotation]) -> Marks:
    marks = np.empty(len(rows), MARK_DTYPE)
    for name in ("id", "image_id", "category_id", "iscrowd", "area"):
        marks[name] = np.fromiter(map(attrgetter(name), rows), MARK_DTYPE[name], len(rows))
    boxes = chain.from_iterable(map(attrgetter("bbox"), rows))
    marks["bbox"] = np.fromiter(boxes, np.float64, 4 * len(rows)).reshape(-1, 4)
    return marks


def _columns(rest: _Rest, marks: Marks) -> Columns:
    images, kinds = rest.images, rest.categories
    return Columns(
        np.array([image.id for image in images], np.int64),
        np.array([(image.width, image.height) for image in images], np.int64).reshape(-1, 2),
        [image.file_name for image in images],
        np.array([kind.id for kind in kinds], np.int64),
        [kind.name for kind in kinds],
        [kind.supercategory or "" for kind in kinds],
        marks,
    )


def _is_sound(columns: Columns) -> bool:
    """Whether all numbers are in their ranges, all names are there, and nothing is to be mended."""
    marks = columns.marks
    numbers = [columns.image_ids, columns.category_ids, marks["image_id"], marks["category_id"]]
    return bool(
        all((values >= 0).all() for values in numbers)
        and (columns.image_sizes > 0).all()
        and all(columns.names)
        and all(columns.category_names)
        and np.isin(marks["iscrowd"], (0, 1)).all()
        and np.isfinite(marks["bbox"]).all()
        and (marks["bbox"][:, 2:] >= 0).all()
        and not _has_repeats(columns)
        and not _has_roots(columns)
    )


def _has_repeats(columns: Columns) -> bool:
    names = [name if name[0] not in "./" and "//" not in name and "/." not in name else posixpath.normpath(name) for name in columns.names]
    return any(len(set(values)) < len(values) for values in (columns.image_ids.tolist(), columns.category_ids.tolist(), names))


def _has_roots(columns: Columns) -> bool:
    kinds = list(zip(columns.category_ids.tolist(), columns.category_names, columns.parents, strict=True))
    return bool(root_categories(kinds, set(np.unique(columns.marks["category_id"]).tolist())))
