"""The demo's pictures with exact masks: category 0 is the background, then the digits; a pixel is a digit's where its ink covers half.

    DATA/data.yaml    DATA/images/SPLIT/NNNN.png    DATA/masks/SPLIT/NNNN.png

The pictures of a seed are those of `data/demo.py`. Equal seeds give equal bytes.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from spnas_core.data.demo import COUNTS, DIGITS, MARK, SIDE, VERSION, Sources, demo_sources, draw_digits
from spnas_core.data.masks.decoding import IGNORED
from spnas_core.errors import UserError

MASK_COUNTS = {**COUNTS, "train": 3 * COUNTS["train"]}  # of fewer pictures a net learns where their digits are
DEMO_CLASSES = ("background", *map(str, DIGITS))
_YAML = """path: .
{places}
masks_dir: masks
names: {{{names}}}
# {ignored} in a mask: neither learnt nor scored
"""


def make_mask_demo(folder: Path, seed: int = 0) -> Path:
    """Write train, val and test below `folder`, unless its marker file says that they are complete; return the folder.

    UserError where scikit-learn is missing, or the folder holds images or masks of other origin.
    """
    begun = json.dumps({"version": VERSION, "seed": seed, "counts": MASK_COUNTS, "masks": True, "complete": False})
    complete = json.dumps({**json.loads(begun), "complete": True})
    mark = folder / MARK
    if mark.exists():
        if mark.read_text() == complete:
            return folder
    elif any((folder / name).exists() for name in ("images", "masks", "data.yaml")):
        raise UserError(f"{folder}: expected an empty folder for the demo's data, got one with images or masks of other origin")
    sources = {split: demo_sources(split) for split in MASK_COUNTS}
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(begun)
    places = "\n".join(f"{split}: images/{split}" for split in MASK_COUNTS)
    names = ", ".join(f'{number}: "{name}"' for number, name in enumerate(DEMO_CLASSES))
    (folder / "data.yaml").write_text(_YAML.format(places=places, names=names, ignored=IGNORED))
    for number, split in enumerate(MASK_COUNTS):
        _write_pairs(folder, split, sources[split], np.random.default_rng((seed, number)))
    mark.write_text(complete)
    return folder


def _write_pairs(folder: Path, split: str, sources: Sources, rng: np.random.Generator) -> None:
    for name in ("images", "masks"):
        (folder / name / split).mkdir(parents=True, exist_ok=True)
    for number in range(1, MASK_COUNTS[split] + 1):
        pixels, placed = draw_digits(sources, rng)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for digit, (x1, y1, x2, y2), ink in placed:
            mask[y1:y2, x1:x2][ink >= 0.5] = 1 + DIGITS.index(digit)
        Image.fromarray(pixels).save(folder / "images" / split / f"{number:04d}.png")
        Image.fromarray(mask).save(folder / "masks" / split / f"{number:04d}.png")
