"""A COCO document as arrays: what a detector learns and is scored by, without polygons, captions and the like.

Shapes: n images, k categories, m annotations, in the order of the document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_ID = 2**63 - 1
Longs = npt.NDArray[np.int64]
Marks = npt.NDArray[np.void]
MARK_DTYPE = np.dtype(
    [("id", "i8"), ("image_id", "i8"), ("category_id", "i8"), ("iscrowd", "i8"), ("area", "f8"), ("bbox", "f8", (4,))], align=True
)  # id -1 and area NaN: there is none; bbox xywh, px


@dataclass(frozen=True, eq=False)
class Columns:
    """Images, categories and annotations."""

    image_ids: Longs  # (n,)
    image_sizes: Longs  # (n, 2) width and height, px
    names: Sequence[str]  # n file names
    category_ids: Longs  # (k,)
    category_names: Sequence[str]
    parents: Sequence[str]  # k supercategories; empty: none
    marks: Marks  # (m,) of MARK_DTYPE


def columns_of(document: Mapping[str, Any]) -> Columns:
    """Arrays of a document whose entries are sound (`entries.py`)."""
    images, kinds = document["images"], document["categories"]
    rows = [
        (_number(mark), mark["image_id"], mark["category_id"], mark.get("iscrowd", 0), _area(mark), tuple(mark["bbox"]))
        for mark in document["annotations"]
    ]
    return Columns(
        np.array([image["id"] for image in images], np.int64),
        np.array([(image["width"], image["height"]) for image in images], np.int64).reshape(-1, 2),
        [image["file_name"] for image in images],
        np.array([kind["id"] for kind in kinds], np.int64),
        [kind["name"] for kind in kinds],
        [str(kind.get("supercategory") or "") for kind in kinds],
        np.array(rows, MARK_DTYPE),
    )


def _number(mark: Mapping[str, Any]) -> int:
    number = mark.get("id")
    return number if isinstance(number, int) and 0 <= number <= LARGEST_ID else -1


def _area(mark: Mapping[str, Any]) -> float:
    area = mark.get("area")
    return float(area) if isinstance(area, int | float) else np.nan
