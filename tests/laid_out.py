"""One small data set, to be written in any layout: the boxes of each picture, and what a reader makes of a folder."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_sets import encoded, picture

from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import open_layout

WIDTH, HEIGHT = 64, 48
CLASSES = ("red", "blue")
Box = tuple[int, int, int, int]  # xywh, px
TRUTH: dict[str, list[tuple[str, Box]]] = {
    "a": [("red", (42, 18, 14, 16)), ("blue", (9, 6, 20, 16))],
    "b": [("red", (34, 1, 22, 18)), ("blue", (36, 30, 16, 14))],
    "c": [("blue", (30, 12, 18, 14))],
    "d": [],
    "e": [("red", (10, 10, 8, 30)), ("red", (50, 20, 12, 12))],
    "f": [("blue", (2, 3, 40, 20)), ("red", (20, 24, 10, 20))],
}
JPEG = {name: encoded(picture(WIDTH, HEIGHT, number)) for number, name in enumerate(TRUTH)}


def put(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def pictures(places: Mapping[str, str]) -> dict[str, bytes]:
    """Picture of each place, by the name in TRUTH."""
    return {place: JPEG[name] for place, name in places.items()}


def voc_xml(name: str, filename: str | None = None, extra: str = "") -> str:
    objects = "".join(
        f"<object><name>{kind}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for kind, (x, y, w, h) in TRUTH[name]
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename or f'{name}.jpg'}</filename>{size}{objects}{extra}</annotation>"


def yolo_text(name: str) -> str:
    return "".join(
        f"{CLASSES.index(kind)} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} {w / WIDTH:.6f} {h / HEIGHT:.6f}\n"
        for kind, (x, y, w, h) in TRUTH[name]
    )


def labelme_json(name: str, path: str | None = None, **more: Any) -> str:
    shapes = [
        {"label": kind, "points": [[x + w, y + h], [x, y]], "shape_type": "rectangle", "group_id": None, "flags": {}}
        for kind, (x, y, w, h) in TRUTH[name]
    ]
    document = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": path or f"{name}.jpg", "imageData": None}
    return json.dumps({**document, "imageHeight": HEIGHT, "imageWidth": WIDTH, **more})


def table(names: Iterable[str], header: str = "filename,class,xmin,ymin,xmax,ymax", folder: str = "") -> str:
    lines = [f"{folder}{name}.jpg,{kind},{x},{y},{x + w},{y + h}" for name in names for kind, (x, y, w, h) in TRUTH[name]]
    return "\n".join([header, *lines, *[f"{folder}{name}.jpg,,,,," for name in names if not TRUTH[name]]]) + "\n"


Seen = dict[str, dict[str, list[tuple[str, Box]]]]


def seen(folder: Path | str) -> Seen:
    """Boxes (whole px) by split and by the name of the picture's file without its suffix; a missing file is an error."""
    result: Seen = {}
    for raw in open_layout(str(folder), header_sizes).sources:
        names = {kind["id"]: kind["name"] for kind in raw.document["categories"]}
        assert all(raw.files.values()), raw.files
        rows: dict[str, list[tuple[str, Box]]] = {}
        for image in raw.document["images"]:
            assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
            marks = [mark for mark in raw.document["annotations"] if mark["image_id"] == image["id"]]
            boxes = [tuple(round(value, 1) for value in mark["bbox"]) for mark in marks]
            assert all(value == int(value) for box in boxes for value in box), boxes
            key = image["file_name"].rsplit("/", 1)[-1].rsplit(".", 1)[0]
            assert key not in rows
            rows[key] = [(names[mark["category_id"]], tuple(map(int, box))) for mark, box in zip(marks, boxes, strict=True)]  # type: ignore[misc]
        result[raw.found_as] = rows
    return result


def told(folder: Path | str) -> set[tuple[str, str, int]]:
    """Findings of the reading: kind, place, count."""
    layout = open_layout(str(folder), header_sizes)
    return {(f.kind, f.where, f.count) for f in (*layout.findings, *(f for raw in layout.sources for f in raw.findings))}


def lines(folder: Path | str) -> str:
    layout = open_layout(str(folder), header_sizes)
    return "\n".join(f.line for f in (*layout.findings, *(f for raw in layout.sources for f in raw.findings)))


def true(**splits: str) -> Seen:
    """What is right: the truth of the pictures named by single letters."""
    return {split: {name: TRUTH[name] for name in names} for split, names in splits.items()}
