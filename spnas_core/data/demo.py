"""The data of `spnas demo`: scanned digits pasted on photographs, both as scikit-learn ships them, in COCO layout with exact boxes.

Classes are the digits 0, 1, 3 and 6: even a linear classifier tells their scans apart, so that a small net learns them in minutes.
The splits share neither a scanned digit nor a part of a photograph. Equal seeds give equal bytes.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from spnas_core.data.images import Doubles, Floats, Pixels
from spnas_core.errors import UserError

SIDE = 128  # px of an image
DIGITS = (0, 1, 3, 6)
COUNTS = {"train": 240, "val": 60, "test": 40}
SHARES = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}  # of the scans of a digit, and of the width of a photograph
LONGER_SIDE = (22, 56)  # px of a digit's ink
MOST_DIGITS = 6
_GAP = 2  # px between boxes
VERSION = 1  # of the pictures: raise it when they change
MARK = "demo.json"

_Box = tuple[int, int, int, int]  # x1, y1, x2, y2


class Sources(NamedTuple):
    """Material of one split: photographs and scans of digits."""

    photographs: list[Pixels]
    scans: dict[int, Doubles]  # digit -> (n, 8, 8) in [0, 16]


def make_demo(folder: Path, seed: int = 0) -> Path:
    """Write train, val and test below `folder`, unless its marker file says that they are complete; return the folder.

    UserError where scikit-learn is missing, or the folder holds annotations of other origin.
    """
    begun = json.dumps({"version": VERSION, "seed": seed, "counts": COUNTS, "complete": False})
    complete = json.dumps({**json.loads(begun), "complete": True})
    mark = folder / MARK
    if mark.exists():
        if mark.read_text() == complete:
            return folder
    elif folder.exists() and (folder / "annotations").exists() and any((folder / "annotations").iterdir()):
        raise UserError(f"{folder}: expected an empty folder for the demo's data, got one with annotations of other origin")
    sources = {split: demo_sources(split) for split in COUNTS}
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(begun)
    for number, split in enumerate(COUNTS):
        _write_split(folder, split, sources[split], np.random.default_rng((seed, number)))
    mark.write_text(complete)
    return folder


def draw_image(sources: Sources, rng: np.random.Generator) -> tuple[Pixels, list[tuple[int, _Box]]]:
    """Draw one picture (128, 128, 3) and the (digit, box) of each digit on it; boxes are those of the visible ink, and do not touch."""
    picture, placed = draw_digits(sources, rng)
    return picture, [(digit, box) for digit, box, _ in placed]


def draw_digits(sources: Sources, rng: np.random.Generator) -> tuple[Pixels, list[tuple[int, _Box, Floats]]]:
    """Draw one picture as `draw_image` does; with the opacity of each digit's ink inside its box."""
    picture = _background(sources.photographs, rng)
    placed: list[tuple[int, _Box, Floats]] = []
    for _ in range(int(rng.integers(1, MOST_DIGITS + 1))):
        digit = int(rng.choice(DIGITS))
        ink = _ink(sources.scans[digit], rng)
        h, w = ink.shape
        for _ in range(20):
            x, y = int(rng.integers(0, SIDE - w + 1)), int(rng.integers(0, SIDE - h + 1))
            box = (x, y, x + w, y + h)
            if not any(_near(box, other) for _, other, _ in placed):
                _paint(picture[y : y + h, x : x + w], ink, rng)
                placed.append((digit, box, ink))
                break
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), placed


def demo_sources(split: str) -> Sources:
    """Material of a split; UserError where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits, load_sample_image
    except ImportError as error:
        raise UserError('the demo draws its data from scikit-learn, which is not installed: pip install "spnas[demo]"') from error
    start, stop = SHARES[split]
    photographs = [np.asarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    digits = load_digits()
    scans = {}
    for digit in DIGITS:
        images = digits.images[digits.target == digit]
        scans[digit] = images[round(start * len(images)) : round(stop * len(images))]
    return Sources([p[:, round(start * p.shape[1]) : round(stop * p.shape[1])] for p in photographs], scans)


def _background(photographs: list[Pixels], rng: np.random.Generator) -> Floats:
    """Random square of a photograph with its contrast halved: (SIDE, SIDE, 3)."""
    photograph = photographs[rng.integers(len(photographs))]
    side = int(rng.integers(80, min(200, *photograph.shape[:2]) + 1))
    y, x = (int(rng.integers(0, length - side + 1)) for length in photograph.shape[:2])
    cut = Image.fromarray(photograph[y : y + side, x : x + side]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(cut, np.float32)[:, :: rng.choice([-1, 1])]
    mean = pixels.mean(axis=(0, 1))
    return np.asarray(mean + 0.5 * (pixels - mean), np.float32)


def _ink(scans: Doubles, rng: np.random.Generator) -> Floats:
    """Random scan, enlarged smoothly: opacity in [0, 1], cut to the exact box, where it is at least a half."""
    scan = Image.fromarray((scans[rng.integers(len(scans))] / 16).astype(np.float32))
    large = np.asarray(scan.resize((256, 256), Image.Resampling.BICUBIC))
    trimmed = _trim(large, 0.5)
    longer = rng.uniform(*LONGER_SIDE)
    scale = longer / max(trimmed.shape)
    stretch = rng.uniform(0.85, 1.15)
    h, w = (min(LONGER_SIDE[1], max(4, round(n))) for n in (trimmed.shape[0] * scale, trimmed.shape[1] * scale * stretch))
    small = np.asarray(Image.fromarray(trimmed).resize((w, h), Image.Resampling.BILINEAR))
    return _trim(np.clip((small - 0.3) / 0.4, 0, 1).astype(np.float32), 0.5)


def _trim(ink: Floats, least: float) -> Floats:
    rows, columns = (np.flatnonzero((ink >= least).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _paint(part: Floats, ink: Floats, rng: np.random.Generator) -> None:
    """Paint in a random colour that is far lighter or darker than the ground (h, w, 3)."""
    below = float(part.mean())
    level = rng.uniform(0, 0.35 * below) if below > 115 else rng.uniform(255 - 0.35 * (255 - below), 255)
    colour = np.clip(level + rng.uniform(-40, 40, 3), 0, 255)
    part += ink[:, :, None] * (colour.astype(np.float32) - part)


def _near(box: _Box, other: _Box) -> bool:
    return box[0] < other[2] + _GAP and other[0] < box[2] + _GAP and box[1] < other[3] + _GAP and other[1] < box[3] + _GAP


def _write_split(folder: Path, split: str, sources: Sources, rng: np.random.Generator) -> None:
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for number in range(1, COUNTS[split] + 1):
        pixels, placed = draw_image(sources, rng)
        name = f"{number:04d}.png"
        Image.fromarray(pixels).save(folder / split / name)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for digit, (x1, y1, x2, y2) in placed:
            mark = {"id": len(marks) + 1, "image_id": number, "category_id": DIGITS.index(digit) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            marks.append({**mark, "area": (x2 - x1) * (y2 - y1), "iscrowd": 0})
    categories = [{"id": DIGITS.index(digit) + 1, "name": str(digit)} for digit in DIGITS]
    document = {"images": images, "annotations": marks, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
