"""One picture of sample images of a segmentation data set under their masks, to see at a glance whether these sit on their objects."""

import numpy as np
from PIL import Image, ImageColor

from spnas_core.check.masks import MaskReport
from spnas_core.check.picture import SAMPLES, TILE, tile_sheet, titled_tile, write_picture
from spnas_core.data import files, images
from spnas_core.data.drawing import COLOURS
from spnas_core.data.images import Pixels
from spnas_core.data.masks.decoding import IGNORED
from spnas_core.data.masks.mask_layout import MaskPair
from spnas_core.data.masks.mask_loader import resize_mask
from spnas_core.data.opening import PictureRules, picture_rules
from spnas_core.errors import UserError

_OPACITY = 0.5


def save_mask_samples(report: MaskReport, url: str) -> None:
    """Draw samples into an image file, a path or any fsspec URL whose ending says the format; UserError."""
    write_picture(url, lambda: draw_mask_samples(report))


def draw_mask_samples(report: MaskReport) -> Image.Image:
    """Draw up to 12 images under their masks, evenly from all splits; UserError where none can be read."""
    sources, rules = report.layout.sources, picture_rules(report.reading)
    share = -(-SAMPLES // max(1, len(sources)))
    tiles = []
    for raw in sources:
        for pair in raw.pairs[:: max(1, len(raw.pairs) // share)][:share]:
            try:
                tiles.append(titled_tile(_tile(pair, rules), f"{raw.split}: {pair.name}"))
            except UserError:  # a broken file is among the findings already
                continue
    if not tiles:
        raise UserError(f"--picture: expected images with masks in {report.layout.url}, got none")
    return tile_sheet(tiles[:SAMPLES])


def cover(pixels: Pixels, mask: Pixels) -> Pixels:
    """Image (h, w, 3) under the colour of each category of a mask (h, w); the first and what is ignored are left as they are and black."""
    palette = np.array([ImageColor.getrgb(colour) for colour in COLOURS], np.float32)
    colours = palette[(mask.astype(np.int64) - 1) % len(COLOURS)]
    colours[mask == IGNORED] = 0
    shown = (mask > 0)[..., None] * np.float32(_OPACITY)
    return np.asarray(np.rint(pixels * (1 - shown) + colours * shown), np.uint8)


def _tile(pair: MaskPair, rules: PictureRules) -> Image.Image:
    picture = Image.fromarray(images.decode_image(files.local_file(pair.image.url), pair.image.url, rules))
    scale = TILE / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    small = picture.resize((width, height), reducing_gap=3.0)
    return Image.fromarray(cover(np.asarray(small), resize_mask(pair.source.values(rules), height, width)))
