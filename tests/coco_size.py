"""A data set of COCO 2017's size and layout: hard links of a few JPEG files, and annotations like COCO's, with polygons.

``python tests/coco_size.py FOLDER [--images 118287]``: train2017 and, of a twentieth of its images, val2017; about 7.3 boxes an image.
"""

import argparse
import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES, BOXES = 118_287, 862_855  # of COCO 2017's train split
CATEGORIES = 80
SIZES = ((640, 480), (480, 640), (640, 427), (500, 375), (612, 612))  # of the JPEG files, px
_ENTRY = (
    '{{"license": 3, "file_name": "{0:012d}.jpg", "coco_url": "http://images.example.org/{1}/{0:012d}.jpg", "height": {3}, "width": {2}, '
    '"date_captured": "2013-11-14 11:18:45", "flickr_url": "http://photos.example.org/8186/{0}_z.jpg", "id": {0}}}'
)
_MARK = (
    '{{"segmentation": [[{0}]], "area": {1:.5f}, "iscrowd": 0, "image_id": {2}, "bbox": [{3:.2f}, {4:.2f}, {5:.2f}, {6:.2f}], '
    '"category_id": {7}, "id": {8}}}'
)


def make_coco_size(folder: Path, images: int = IMAGES, seed: int = 0) -> Path:
    """Write the data set to a new folder, and return it."""
    pictures = [_picture(folder / "originals", number, size) for number, size in enumerate(SIZES)]
    for split, count in {"train2017": images, "val2017": max(1, images // 20)}.items():
        _write_split(folder, split, count, round(count * BOXES / IMAGES), pictures, np.random.default_rng((seed, count)))
    return folder


def _picture(folder: Path, number: int, size: tuple[int, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    noise = [Image.fromarray(rng.integers(0, 256, (8 << k, 8 << k, 3)).astype(np.uint8)).resize(size) for k in range(6)]
    stream = io.BytesIO()
    Image.fromarray(np.mean(noise, axis=0).astype(np.uint8)).save(stream, "JPEG", quality=90)
    path = folder / f"{number}.jpg"
    path.write_bytes(stream.getvalue())
    return path


def _write_split(folder: Path, split: str, images: int, boxes: int, pictures: list[Path], rng: np.random.Generator) -> None:
    ids = rng.choice(np.arange(1, 6 * images + 1), images, replace=False)
    kinds = rng.integers(0, len(pictures), images)
    (folder / split).mkdir()
    (folder / "annotations").mkdir(exist_ok=True)
    for number, kind in zip(ids, kinds, strict=True):
        os.link(pictures[kind], folder / split / f"{number:012d}.jpg")
    limits = np.array(SIZES)[kinds]
    owners = rng.integers(0, images, boxes)
    corner = rng.random((boxes, 2)) * limits[owners] * 0.75
    extent = 4 + rng.random((boxes, 2)) * (limits[owners] - corner - 4)
    categories = rng.integers(1, CATEGORIES + 1, boxes)
    points = rng.integers(6, 20, boxes)
    with (folder / f"annotations/instances_{split}.json").open("w") as file:
        file.write('{"info": {"description": "like COCO 2017"}, "licenses": [], "images": [')
        file.write(", ".join(_ENTRY.format(number, split, *limits[row]) for row, number in enumerate(ids.tolist())))
        file.write('], "annotations": [')
        for row in range(boxes):
            polygon = corner[row] + rng.random((points[row], 2)) * extent[row]
            text = ", ".join([f"{value:.2f}" for value in polygon.ravel().tolist()])
            box = *corner[row], *extent[row]
            mark = _MARK.format(text, 0.6 * extent[row].prod(), ids[owners[row]], *box, categories[row], row + 1)
            file.write(f", {mark}" if row else mark)
        kinds_text = json.dumps([{"supercategory": "thing", "id": n, "name": f"thing {n}"} for n in range(1, CATEGORIES + 1)])
        file.write(f'], "categories": {kinds_text}}}')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=IMAGES, help="images of the train split")
    options = parser.parse_args()
    print(make_coco_size(options.folder, options.images))
