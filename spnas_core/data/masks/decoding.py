"""Mask files: single-channel or palette images whose values are the numbers of categories; and what is wrong with one that is not.

Values are those that the file stores: of a palette the indices, of grey of 1, 2 or 4 bits (PNG, as optimisers of files write it) the
numbers themselves, which Pillow stretches over 0 to 255 (PNG-3, section 13.12; Pillow 13.0).
"""

from collections.abc import Callable, Sequence
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
VOID = (224, 224, 192)  # colour of what is ignored in Pascal VOC
Colours = Sequence[tuple[int, int, int]]  # of category 0, 1, ...
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
_STRETCHED = {"L;2": 85, "L;4": 17, "L;2I": 85, "L;4I": 17}  # raw modes of Pillow, and by what it multiplies their values


@dataclass(frozen=True, eq=False)
class MaskFact:
    """Facts of one mask: its size, and how often each value occurs, before any value is taken for ignored."""

    size: tuple[int, int]  # width and height, px
    counts: Longs  # (256,)


def decode_mask(path: Path, name: str = "", rules: PictureRules = PLAIN_RULES, colours: Colours = ()) -> Pixels:
    """Values (h, w) of a mask file as it stores them; of one in colours, the place of each pixel's colour among `colours`, if given.

    PictureError, with the kind of its finding, for one that has no such values.
    """

    def values() -> Pixels:
        with open_picture(path, rules) as image:
            if image.format in ("JPEG", "MPO"):
                raise PictureError("lossy-mask", "expected a lossless format such as PNG, got JPEG, which blurs the numbers at every edge")
            factor = _STRETCHED.get(raw_mode(image.tile[0]), 1) if image.tile else 1
            image.load()
            if image.mode.startswith("I"):
                raise PictureError("deep-mask", f"expected 8 bits, got 16 or more; values up to {int(np.asarray(image).max())}")
            if colours and image.mode in ("RGB", "RGBA"):
                return _places(np.asarray(image)[..., :3], colours)
            if image.mode not in ("P", "L", "1"):
                raise PictureError("colour-mask", f"expected one channel with numbers of categories, got {image.mode}{_equal(image)}")
            return np.asarray(image).astype(np.uint8) // np.uint8(factor)

    return read_whole(values, str(name or path))


def _places(pixels: Pixels, colours: Colours) -> Pixels:
    """Place of each colour (h, w, 3) among `colours`, 255 for that of VOC's void; PictureError for another one."""
    weights = np.array([1 << 16, 1 << 8, 1])
    known = {int(np.dot(colour, weights)): place for place, colour in reversed(list(enumerate(colours)))}
    codes, places = np.unique(pixels.astype(np.int64) @ weights, return_inverse=True)
    known.setdefault(int(np.dot(VOID, weights)), IGNORED)
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
