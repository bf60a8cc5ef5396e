"""Fields of the entries of a COCO document, and what is wrong with an entry."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from spnas_core.data.columns import LARGEST_ID


def fault(entry: Any, key: str) -> str:
    """Fault of an entry of the list `key`: a field that is missing or of the wrong kind; an empty text for a sound entry."""
    if not isinstance(entry, dict):
        return f": expected an object, got {entry!r}"
    for name, expected in FIELDS[key].items():
        if name not in entry:
            if name in _OPTIONAL:
                continue
            return f" has no {name!r}"
        if wrong := expected(entry[name]):
            return f": expected {wrong} as {name!r}, got {entry[name]!r}"
    return ""


def _is_id(value: Any) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_ID
    return "" if good else f"a whole number >= 0{' and < 2^63' if isinstance(value, int) and value > LARGEST_ID else ''}"


def _is_size(value: Any) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_ID
    return "" if good else "a whole number of px > 0"


def _is_name(value: Any) -> str:
    return "" if isinstance(value, str) and value else "a text"


def _is_box(value: Any) -> str:
    good = isinstance(value, list) and len(value) == 4 and all(isinstance(v, int | float) and abs(v) <= sys.float_info.max for v in value)
    return "" if good else "four finite numbers [x, y, width, height]"


def _is_flag(value: Any) -> str:
    return "" if isinstance(value, int) and value in (0, 1) else "0 or 1"


_OPTIONAL = ("iscrowd",)
FIELDS: Mapping[str, Mapping[str, Callable[[Any], str]]] = {
    "images": {"id": _is_id, "file_name": _is_name, "width": _is_size, "height": _is_size},
    "categories": {"id": _is_id, "name": _is_name},
    "annotations": {"image_id": _is_id, "category_id": _is_id, "bbox": _is_box, "iscrowd": _is_flag},
}
