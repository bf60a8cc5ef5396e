"""Small COCO data sets for the tests, at any fsspec URL."""

import io
import json
from typing import Any

import fsspec
import numpy as np
from PIL import Image


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Smooth random colours, so that JPEG hardly changes them."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write(url: str, content: bytes) -> None:
    with fsspec.open(url, "wb", auto_mkdir=True) if "://" not in url else fsspec.open(url, "wb") as stream:
        stream.write(content)


def document(count: int = 5, boxes: int = 2) -> dict[str, Any]:
    """`count` images of 64x48 px with ids 11, 21, ... in falling order, and categories with gaps, out of order."""
    images = [{"id": 11 + 10 * i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in reversed(range(count))]
    marks = []
    for image in images:
        for n in range(boxes):
            mark = {"id": len(marks), "image_id": image["id"], "category_id": (7, 3, 90)[n % 3], "bbox": [2.0 + n, 4.0, 20.0 + n, 30.0]}
            marks.append({**mark, "area": mark["bbox"][2] * 30.0, "iscrowd": 0})
    return {"images": images, "annotations": marks, "categories": [{"id": i, "name": n} for i, n in ((90, "c"), (3, "a"), (7, "b"))]}


def make(root: str, data: dict[str, Any] | None = None, split: str = "train", folder: str = "images") -> dict[str, Any]:
    """Write annotations and one JPEG per image entry of its size; returns the document."""
    data = document() if data is None else data
    write(f"{root}/annotations/instances_{split}.json", json.dumps(data).encode())
    for number, image in enumerate(data["images"]):
        name = "/".join(part for part in (root, folder, image["file_name"]) if part)
        write(name, encoded(picture(image["width"], image["height"], number), quality=95))
    return data
