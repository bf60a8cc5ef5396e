"""One JSON file of LabelMe: the shapes on its picture as boxes.

A shape is a rectangle (two corners in any order, or four), a polygon, a circle (its centre and a point on it), or a mask (the first and
the last of its pixels); points and lines have no area and are left out, and so are `__ignore__` and `_background_`, which LabelMe's own
programs leave out too. `group_id` and `flags` are not read: each shape is an object of its own. A shape that X-AnyLabeling marks as
difficult is a crowd. https://github.com/wkentaro/labelme, labelme/_label_file.py
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from spnas_core.data.pages import Drawn, Xywh, whole
from spnas_core.data.tree import printable, text_of

_AREAS = {"rectangle": 2, "polygon": 3, "rotation": 3, "oriented_rectangle": 3, "circle": 2, "mask": 2}  # points that one needs
_NO_AREAS = ("point", "points", "line", "linestrip")
_NO_CLASSES = ("__ignore__", "_background_")


@dataclass(frozen=True)
class LabelMePage:
    """One JSON file: its picture's name and size, its objects, shapes that are left out, and the faults of its text."""

    file_name: str
    size: tuple[int, int] | None
    objects: tuple[Drawn, ...] = ()
    left_out: tuple[str, ...] = ()
    malformed: tuple[str, ...] = ()
    holds_image: bool = False  # the picture is inside, as imageData


def read_labelme_page(content: bytes, name: str) -> LabelMePage | None:
    """Content of one JSON file; None of one that is no LabelMe file."""
    where = printable(name)
    try:
        document = json.loads(text_of(content))
    except (ValueError, RecursionError) as error:
        return LabelMePage("", None, malformed=(f"{where}: expected JSON, got: {printable(str(error))}",))
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        return None
    objects, left_out, malformed = [], [], []
    for number, shape in enumerate(document["shapes"], start=1):
        label = shape.get("label") if isinstance(shape, dict) else None
        shown = f"{where}: shape {number} ({printable(label) if isinstance(label, str) else 'no label'})"
        if not isinstance(label, str) or not label.strip() or not label.isprintable():
            malformed.append(f"{shown}: expected an object with a text as label")
            continue
        kind = shape.get("shape_type") or "polygon"  # files of before 2019 have polygons alone
        box = _box(kind, shape.get("points"))
        if kind in _NO_AREAS or label.strip() in _NO_CLASSES:
            left_out.append(f"{shown}: {kind if kind in _NO_AREAS else 'no class'}")
        elif box is None:
            malformed.append(f"{shown}: expected one of {', '.join(_AREAS)} with its points [x, y], px, got {printable(str(kind)[:40])}")
        else:
            objects.append(Drawn(label.strip(), box, shape.get("difficult") is True))
    path = document.get("imagePath")
    width, height = (whole(_number(document.get(key))) for key in ("imageWidth", "imageHeight"))
    return LabelMePage(
        path.strip() if isinstance(path, str) else "",
        (width, height) if width and height else None,
        tuple(objects),
        tuple(left_out),
        tuple(malformed),
        isinstance(document.get("imageData"), str) and bool(document["imageData"]),
    )


def _box(kind: Any, points: Any) -> Xywh | None:
    """Extent of a shape; None where it has none."""
    if not isinstance(points, list) or not isinstance(kind, str) or len(points) < _AREAS.get(kind, len(points) + 1):
        return None
    pairs = [[_number(value) for value in point] if isinstance(point, list) and len(point) == 2 else [None] for point in points]
    if any(value is None for pair in pairs for value in pair):
        return None
    across, down = ([float(pair[side] or 0) for pair in pairs] for side in (0, 1))
    if kind == "circle":
        radius = math.dist((across[0], down[0]), (across[1], down[1]))
        return across[0] - radius, down[0] - radius, 2 * radius, 2 * radius
    more = 1 if kind == "mask" else 0  # its last pixel is inside
    return min(across), min(down), max(across) - min(across) + more, max(down) - min(down) + more


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    return float(value) if good else None
