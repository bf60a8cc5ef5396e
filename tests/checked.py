"""A small data set of real pictures (scanned digits on photographs) for the tests of `spnas check`, in three layouts."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

COUNTS = {"train": 16, "val": 8}


def make_small(folder: Path, demo: Path) -> Path:
    """The first images of the demo's data, as JPEG files of 256x192 px: other sides for width and height, so that a swap shows."""
    (folder / "annotations").mkdir(parents=True)
    for split, count in COUNTS.items():
        (folder / "images" / split).mkdir(parents=True)
        whole = json.loads((demo / f"annotations/instances_{split}.json").read_text())
        images = [
            {**image, "file_name": image["file_name"].replace("png", "jpg"), "width": 256, "height": 192}
            for image in whole["images"][:count]
        ]
        for image in images:
            with Image.open(demo / split / image["file_name"].replace("jpg", "png")) as picture:
                picture.resize((256, 192)).save(folder / "images" / split / image["file_name"], quality=90)
        marks = [mark for mark in whole["annotations"] if mark["image_id"] <= count]
        for mark in marks:
            x, y, w, h = mark["bbox"]
            mark["bbox"] = [2 * x, 1.5 * y, 2 * w, 1.5 * h]
        document = {"images": images, "annotations": marks, "categories": whole["categories"]}
        write(folder, split, document)
    return folder


def read(folder: Path, split: str = "train") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / f"annotations/instances_{split}.json").read_text())
    return document


def write(folder: Path, split: str, document: Any) -> None:
    (folder / f"annotations/instances_{split}.json").write_text(json.dumps(document))


def as_voc(coco: Path, folder: Path) -> Path:
    """The same data in Pascal VOC's layout: pixels from 1, the last one inside; boxes to whole pixels."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for split in COUNTS:
        document = read(coco, split)
        names = {kind["id"]: kind["name"] for kind in document["categories"]}
        stems = []
        for image in document["images"]:
            stem = f"{split}_{image['id']:04d}"
            stems.append(stem)
            (folder / f"JPEGImages/{stem}.jpg").write_bytes((coco / "images" / split / image["file_name"]).read_bytes())
            top = ElementTree.Element("annotation")
            ElementTree.SubElement(top, "filename").text = f"{stem}.jpg"
            size = ElementTree.SubElement(top, "size")
            for key in ("width", "height"):
                ElementTree.SubElement(size, key).text = str(image[key])
            for mark in (mark for mark in document["annotations"] if mark["image_id"] == image["id"]):
                one = ElementTree.SubElement(top, "object")
                ElementTree.SubElement(one, "name").text = names[mark["category_id"]]
                x, y, w, h = map(round, mark["bbox"])
                box = ElementTree.SubElement(one, "bndbox")
                for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + w, y + h), strict=True):
                    ElementTree.SubElement(box, key).text = str(value)
            ElementTree.ElementTree(top).write(folder / f"Annotations/{stem}.xml")
        (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return folder


def as_yolo(coco: Path, folder: Path, inner: bool = False) -> Path:
    """The same data in YOLO's layout: images/SPLIT and labels/SPLIT, or the other way round."""
    for split in COUNTS:
        document = read(coco, split)
        images, labels = (folder / split / kind if inner else folder / kind / split for kind in ("images", "labels"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        order = [kind["id"] for kind in document["categories"]]
        for image in document["images"]:
            (images / image["file_name"]).write_bytes((coco / "images" / split / image["file_name"]).read_bytes())
            lines = []
            for mark in (mark for mark in document["annotations"] if mark["image_id"] == image["id"]):
                x, y, w, h = mark["bbox"]
                values = ((x + w / 2) / image["width"], (y + h / 2) / image["height"], w / image["width"], h / image["height"])
                lines.append(f"{order.index(mark['category_id'])} {' '.join(f'{value:.6f}' for value in values)}\n")
            (labels / image["file_name"].replace(".jpg", ".txt")).write_text("".join(lines))
    names = [kind["name"] for kind in document["categories"]]
    (folder / "data.yaml").write_text(json.dumps({"train": "images/train", "val": "images/val", "nc": len(names), "names": names}))
    return folder
