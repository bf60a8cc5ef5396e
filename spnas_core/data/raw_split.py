"""A data set as its files have it, in any layout: one COCO document per split, which may be faulty, and the image files."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from spnas_core.data.findings import Finding

LayoutName = Literal["COCO", "Pascal VOC", "YOLO", "LabelMe", "table"]
ImageSizes = Callable[[Iterable[str]], Mapping[str, tuple[int, int] | None]]  # width and height by URL, px; None of an unreadable file


class ImageFile(NamedTuple):
    """Place and size in bytes of an image file."""

    url: str
    size: int


@dataclass(frozen=True, eq=False)
class RawSplit:
    """One split: its COCO document, the file of each image name (None: missing), and the findings of its reading."""

    split: str
    document: Any
    files: dict[str, ImageFile | None]
    findings: tuple[Finding, ...] = ()
    half_read: frozenset[str] = frozenset()  # images with a box that could not be read
    found_as: str = ""  # the data set's own name of the split


@dataclass(frozen=True, eq=False)
class Layout:
    """All splits of a data set, and the findings that belong to none of them."""

    name: LayoutName
    url: str
    sources: tuple[RawSplit, ...]
    findings: tuple[Finding, ...] = ()


def marked(number: int, image_id: int, category_id: int, box: tuple[float, float, float, float], crowd: bool = False) -> dict[str, Any]:
    """One annotation of a COCO document; the box is xywh, px."""
    values = [round(value, 3) for value in box]
    common = {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": int(crowd)}
    return {**common, "bbox": values, "area": round(values[2] * values[3], 3)}
