"""A data set as it was found, in whatever layout: one COCO document per split, which may be faulty, and the images that are there."""

from dataclasses import dataclass
from typing import Any, Literal

from spnas_core.data.findings import Finding

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")  # of image files
LayoutName = Literal["COCO", "Pascal VOC", "YOLO"]


@dataclass(frozen=True, eq=False)
class RawSplit:
    """One split: its COCO document, the URL of each image by its file name (None: not there), and what was found while reading."""

    split: str
    document: Any
    files: dict[str, str | None]
    findings: tuple[Finding, ...] = ()
    half_read: frozenset[str] = frozenset()  # images of which some box could not be read


@dataclass(frozen=True, eq=False)
class Layout:
    """All splits of a data set, and what was found that belongs to none of them."""

    name: LayoutName
    url: str
    sources: tuple[RawSplit, ...]
    findings: tuple[Finding, ...] = ()


def marked(number: int, image_id: int, category_id: int, box: tuple[float, float, float, float], crowd: bool = False) -> dict[str, Any]:
    """One annotation of a COCO document; the box is xywh, px."""
    values = [round(value, 3) for value in box]
    common = {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": int(crowd)}
    return {**common, "bbox": values, "area": round(values[2] * values[3], 3)}
