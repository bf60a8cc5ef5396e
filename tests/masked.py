"""Small segmentation data sets, good ones and broken ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

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


def write_yaml(folder: Path, names: Sequence[str] = NAMES) -> None:
    listed = "\n".join(f"  {number}: {name}" for number, name in enumerate(names))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nmasks_dir: masks\nnames:\n{listed}\n")


def save(path: Path, pixels: Mask, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]


def masked_set(folder: Path, counts: Mapping[str, int] | None = None) -> Path:
    """Write images/SPLIT and masks/SPLIT with a YAML file."""
    for number, (split, count) in enumerate((counts or {"train": 4, "val": 3}).items()):
        for image in range(count):
            mask = mask_of(100 * number + image)
            save(folder / "images" / split / f"{split}{image}.png", picture_of(mask, 100 * number + image))
            save(folder / "masks" / split / f"{split}{image}.png", mask)
    write_yaml(folder)
    return folder
