"""Mask files: single-channel or palette images whose values are the numbers of categories; and what is wrong with one that is not.

Optimisers of PNG files keep colours, not numbers: oxipng 9 makes grey 0, 2, 7 a palette with the indices 0, 1, 2, and grey 0, 17 of 8 bits
grey 0, 1 of 4 bits (findings/oxipng-mask-numbers.sh). What may be such a file is refused, since nobody can tell what it meant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from spnas_core.data.columns import Longs
from spnas_core.data.image_facts import Unread
from spnas_core.data.images import Pixels
from spnas_core.data.opening import PLAIN_RULES, PictureError, PictureRules, open_picture, raw_mode, read_whole

IGNORED = 255  # value of pixels that are neither learnt nor scored
Colours = Mapping[tuple[int, int, int], int]  # value that a colour stands for
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
_FEW_BITS = ("L;2", "L;4")  # raw modes of Pillow


@dataclass(frozen=True, eq=False)
class MaskFact:
    """Facts of one mask: its size, and how often each value occurs, before any value is taken for ignored."""

    size: tuple[int, int]  # width and height, px
    counts: Longs  # (256,)


def decode_mask(path: Path, name: str = "", rules: PictureRules = PLAIN_RULES, colours: Colours | None = None) -> Pixels:
    """Values (h, w) of a mask file as it stores them; of one in colours, what these stand for by `colours`, if given.

    PictureError, with the kind of its finding, for one that has no such values.
    """

    def values() -> Pixels:
        with open_picture(path, rules) as image:
            if image.format in ("JPEG", "MPO"):
                raise PictureError("lossy-mask", "expected a lossless format such as PNG, got JPEG, which blurs the numbers at every edge")
            raw = raw_mode(image.tile[0]) if image.tile else ""
            image.load()
            if image.mode.startswith("I"):
                raise PictureError("deep-mask", f"expected 8 bits, got 16 or more; values up to {int(np.asarray(image).max())}")
            if colours and image.mode in ("RGB", "RGBA"):
                return _meanings(np.asarray(image)[..., :3], colours)
            if image.mode == "P":
                return _indices(image, colours)
            if image.mode not in ("L", "1"):
                raise PictureError("colour-mask", f"expected one channel with numbers of categories, got {image.mode}{_equal(image)}")
            if raw.startswith(_FEW_BITS):
                raise PictureError(
                    "renumbered-mask", f"expected 8 bits, got grey of {raw[2]}, where 1 may stand for {255 // (2 ** int(raw[2]) - 1)}"
                )
            return np.asarray(image).astype(np.uint8)

    return read_whole(values, str(name or path))


def _indices(image: Image.Image, colours: Colours | None) -> Pixels:
    """Take the indices of a palette image; where all its colours are among `colours`, what these stand for.

    PictureError for a palette of greys that are not their indices, as an optimiser makes it of a grey mask; black 0 and white 1 are taken.
    """
    indices = np.asarray(image)
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    used = np.unique(indices)
    shown = palette[used]
    if colours and {tuple(colour) for colour in shown.tolist()} <= colours.keys():
        return _meanings(palette[indices], colours)
    pairs = list(zip(used.tolist(), shown[:, 0].tolist(), strict=True))
    if (shown == shown[:, :1]).all() and any(index != grey for index, grey in pairs) and not set(pairs) <= {(0, 0), (1, 255)}:
        text = ", ".join(f"{grey} for {index}" for index, grey in pairs[:4])
        raise PictureError("renumbered-mask", f"expected a palette of colours, or of greys that are the indices, got {text}")
    return indices


def _meanings(pixels: Pixels, colours: Colours) -> Pixels:
    """Value of each colour (h, w, 3); PictureError for one that stands for none."""
    weights = np.array([1 << 16, 1 << 8, 1])
    known = {int(np.dot(colour, weights)): value for colour, value in colours.items()}
    codes, places = np.unique(pixels.astype(np.int64) @ weights, return_inverse=True)
    if strange := [int(code) for code in codes if int(code) not in known]:
        colour = ",".join(str(strange[0] >> shift & 255) for shift in (16, 8, 0))
        raise PictureError("colour-mask", f"expected colours of labelmap.txt, got {colour}")
    return np.array([known[int(code)] for code in codes], np.uint8)[places].reshape(pixels.shape[:2])


def _equal(image: Image.Image) -> str:
    """Remark about a picture of several channels."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return ""
    colours: npt.NDArray[np.uint8] = np.asarray(image)[..., : 1 if image.mode == "LA" else 3]
    return ", its channels equal: keep one" if (colours == colours[..., :1]).all() else ", colours"


def look_at_mask(read: Callable[[PictureRules], Pixels], url: str, rules: PictureRules = PLAIN_RULES) -> MaskFact | Unread:
    """Facts of the mask at `url` that `read` reads, or what is wrong with it."""
    try:
        values = read(rules)
    except PictureError as error:
        kind = {"broken-image": "broken-mask", "pixel-format": "colour-mask"}.get(error.kind, error.kind)
        return Unread(kind, str(error).removeprefix(f"image {url}: "))
    return fact_of(values)


def fact_of(values: Pixels) -> MaskFact:
    """Facts of a mask by its values (h, w)."""
    return MaskFact((values.shape[1], values.shape[0]), np.bincount(values.ravel(), minlength=256))
