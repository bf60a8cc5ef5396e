"""Small segmentation data sets, good ones and broken ones."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as rle

from spnas_core.data.masks.mask_voc import voc_colour

NAMES = ("ground", "square", "disc")
SIDE = 24
Mask = npt.NDArray[np.uint8]


def mask_of(seed: int, side: int = SIDE) -> Mask:
    """Ground with a square and a disc, and a border that is ignored."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), np.uint8)
    y, x = rng.integers(1, 10, 2)
    mask[y : y + 7, x : x + 6] = 1
    rows, columns = np.mgrid[:side, :side]
    mask[(rows - 17) ** 2 + (columns - rng.integers(6, 18)) ** 2 <= 16] = 2
    mask[0] = 255
    return mask


def picture_of(mask: Mask, seed: int) -> Mask:
    """Picture (h, w, 3) in which a colour stands for each category; with noise, so that no two are alike."""
    colours = np.array([(60, 120, 60), (200, 60, 60), (60, 60, 200)], np.uint8)
    noise = np.random.default_rng((seed, 1)).integers(0, 40, (*mask.shape, 3)).astype(np.uint8)
    return np.asarray(colours[np.minimum(mask, 2)] + noise, np.uint8)


def write_yaml(folder: Path, names: Sequence[str] = NAMES, splits: Iterable[str] = ("train", "val")) -> None:
    listed = "\n".join(f"  {number}: {name}" for number, name in enumerate(names))
    places = "\n".join(f"{split}: images/{split}" for split in splits)
    (folder / "data.yaml").write_text(f"path: .\n{places}\nmasks_dir: masks\nnames:\n{listed}\n")


def save(path: Path, pixels: Mask, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]


def pixels_of(path: Path | str) -> Mask:
    """Pixels of an image file, which is closed again."""
    with Image.open(path) as image:
        return np.asarray(image)


def masked_set(folder: Path, counts: Mapping[str, int] | None = None) -> Path:
    """Write images/SPLIT and masks/SPLIT with a YAML file."""
    counts = counts or {"train": 4, "val": 3}
    for number, (split, count) in enumerate(counts.items()):
        for image in range(count):
            mask = mask_of(100 * number + image)
            save(folder / "images" / split / f"{split}{image}.png", picture_of(mask, 100 * number + image))
            save(folder / "masks" / split / f"{split}{image}.png", mask)
    write_yaml(folder, splits=dict.fromkeys(("train", "val", *counts)))
    return folder


def voc(folder: Path, top: str = "", colours: tuple[tuple[int, int, int], ...] = ()) -> Path:
    """Write Pascal VOC's folders; the masks in `colours`, if given."""
    base = folder / top
    for number in range(5):
        mask = mask_of(number)
        save(base / "JPEGImages" / f"2007_{number}.jpg", picture_of(mask, number), quality=95)
        if number < 4:  # VOC has many more pictures than masks
            painted = mask if not colours else np.array([*colours, voc_colour(255)], np.uint8)[np.where(mask == 255, len(colours), mask)]
            save(base / "SegmentationClass" / f"2007_{number}.png", painted)
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_0\n2007_1\n")
    (lists / "val.txt").write_text("2007_2\n2007_3\n")
    (lists / "trainval.txt").write_text("2007_0\n2007_1\n2007_2\n2007_3\n")
    return folder


def cityscapes(folder: Path, kinds: tuple[str, ...] = ("labelIds", "labelTrainIds")) -> Path:
    """Write Cityscapes' folders, with masks of these kinds."""
    for split, city in (("train", "ulm"), ("train", "bonn"), ("val", "ulm")):
        scene = f"{city}_000000_0000{'19' if split == 'train' else '20'}"
        save(folder / "leftImg8bit" / split / city / f"{scene}_leftImg8bit.png", picture_of(mask_of(1), len(city + split)))
        for kind in kinds:
            save(folder / "gtFine" / split / city / f"{scene}_gtFine_{kind}.png", mask_of(1))
        save(folder / "gtFine" / split / city / f"{scene}_gtFine_color.png", picture_of(mask_of(1), 0))
    return folder


def ade(folder: Path) -> Path:
    """Write ADE20K's folders: 0 is ignored, category k has value k + 1."""
    for split, number in (("training", 1), ("training", 2), ("validation", 1)):
        mask = mask_of(number)
        name = f"ADE_{split[:5]}_{number:08d}"
        save(folder / "images" / split / f"{name}.jpg", picture_of(mask, number + len(split)))
        save(folder / "annotations" / split / f"{name}.png", np.where(mask == 255, 0, mask + 1).astype(np.uint8))
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t0.1\t1\t1\t1\twall", "2\t0.1\t1\t1\t1\tbuilding, edifice", "3\t0.1\t1\t1\t1\tsky"]
    (folder / "objectInfo150.txt").write_text("\n".join(rows))
    return folder


def coco(folder: Path, extra: list[dict] | None = None) -> Path:
    """Write COCO's files with polygons, an RLE and a crowd, and `extra` annotations."""
    small = np.zeros((24, 24), np.uint8, order="F")
    small[6:10, 6:10] = 1
    packed = rle.encode(small)
    shapes = [
        {"category_id": 7, "segmentation": {"size": [24, 24], "counts": packed["counts"].decode()}},  # small, listed first
        {"category_id": 3, "segmentation": [[2, 2, 14, 2, 14, 12, 2, 12]]},
        {"category_id": 3, "segmentation": {"size": [24, 24], "counts": [24 * 20, 24, 72]}, "iscrowd": 1},  # column 20
    ]
    for split in ("train", "val"):
        save(folder / "images" / f"{split}.png", picture_of(mask_of(len(split)), len(split)))
        marks = [{"id": n + 1, "image_id": 1, "bbox": [2, 2, 12, 10], "area": 9, **one} for n, one in enumerate([*shapes, *(extra or [])])]
        kinds = [{"id": 7, "name": "disc"}, {"id": 3, "name": "square"}]
        document = {
            "images": [{"id": 1, "file_name": f"{split}.png", "width": 24, "height": 24}],
            "annotations": marks,
            "categories": kinds,
        }
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


def roboflow(folder: Path) -> Path:
    """Write masks beside their pictures, as Roboflow exports them."""
    for split, seeds in {"train": (0, 1, 2), "valid": (100, 101)}.items():
        for seed in seeds:
            mask = np.where(mask_of(seed) == 255, 0, mask_of(seed)).astype(np.uint8)
            save(folder / split / f"{split}{seed}.jpg", picture_of(mask, seed), quality=95)
            save(folder / split / f"{split}{seed}_mask.png", mask)
        lines = [f"{number}, {name}" for number, name in enumerate(NAMES)]
        (folder / split / "_classes.csv").write_text("\n".join(["Pixel Value, Class", *lines]) + "\n")
    return folder
