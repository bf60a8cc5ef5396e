"""Pictures of more than 8 bits per channel: their values, and how these become 8 bits.

Pillow gives the 16 bits of grey pictures, but of coloured ones only the upper byte; the lower byte is what it gives when it is asked to
read the file in the other order of bytes.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin

from spnas_core.data.opening import FORMATS, PictureError, PictureRules, open_picture, raw_mode, with_raw_mode

_PHOTOMETRIC, _PLANES = 262, 284  # TIFF 6.0: PhotometricInterpretation, 0 = white is zero; PlanarConfiguration
_OTHER_ORDER = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}


class Depth(NamedTuple):
    """How the pixels of a file are stored, by its header; to be asked for before they are decoded."""

    raw: str  # Pillow's name of the raw mode: I;16B, RGB;16L, ...
    white_is_zero: bool
    pressed_planes: bool  # channels one after the other, compressed

    @property
    def wide(self) -> bool:
        """Whether these are colours of 16 bits."""
        return self.raw[-4:] in _OTHER_ORDER and not self.raw.startswith("I;")

    @property
    def whole(self) -> bool:
        """Whether their lower byte can be read too."""
        return self.wide and not self.pressed_planes and not self.raw.startswith(("RGBa", "CMYK"))

    @property
    def says_bits(self) -> bool:
        """Whether the format itself says how many bits the values use: 12 that are packed."""
        return self.raw == "I;12"

    def bits(self, rules: PictureRules) -> int:
        """Bits that the values use: of the file, where its format says so, else of the rules."""
        return 12 if self.says_bits else rules.bits


def stored_depth(image: ImageFile.ImageFile) -> Depth:
    """How the pixels of an opened file are stored."""
    raw = raw_mode(image.tile[0]) if image.tile else ""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    white_is_zero = image.mode.startswith("I") and tags.get(_PHOTOMETRIC) == 0
    return Depth(raw, white_is_zero, tags.get(_PLANES) == 2 and image.tile[0].codec_name == "libtiff")


def lower_bytes(source: Path | io.BytesIO, rules: PictureRules) -> Image.Image:
    """Lower bytes of colours of 16 bits; grey with alpha becomes its four bytes, so that its lower one is channel 1."""
    with open_picture(source, rules) as image:
        image.tile = [with_raw_mode(tile, _other_order(raw_mode(tile))) for tile in image.tile]
        image.load()
    return image


def _other_order(raw: str) -> str:
    return "RGBA" if raw == "LA;16B" else raw[:-4] + _OTHER_ORDER[raw[-4:]]


def deep_values(image: Image.Image, depth: Depth, rules: PictureRules, lower: Callable[[], Image.Image]) -> npt.NDArray[np.int32] | None:
    """Values (h, w) or (h, w, 3) of a decoded picture of more than 8 bits; None of another one. `lower` gives its lower bytes.

    PictureError where these are wanted and Pillow cannot give them; where all 16 bits are in use they count as 255.
    """
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int32)
    if depth.wide and not depth.whole and rules.bits < 16:
        text = "expected 16-bit colours whose lower bytes can be read"
        raise PictureError("pixel-format", f"{text} for data.bits={rules.bits}, got premultiplied, CMYK or compressed planes: save as PNG")
    if not depth.wide or image.mode == "CMYK":
        return None
    upper = np.asarray(image)[..., :3].astype(np.int32) << 8
    if not depth.whole:
        return np.asarray(upper | 255)
    low = np.asarray(lower())
    return np.asarray(upper | (low[..., 1:2] if depth.raw.startswith("LA") else low[..., :3]))


def in_eight_bits(values: npt.NDArray[np.int32], depth: Depth, rules: PictureRules) -> Image.Image:
    """RGB image of values of more than 8 bits: those that the bits in use can hold over all levels, others clipped."""
    bits = depth.bits(rules)
    highest = 2**bits - 1
    kept = np.clip(values, 0, highest)
    shown = (highest - kept if depth.white_is_zero else kept) >> (bits - 8)
    return Image.fromarray(shown.astype(np.uint8)).convert("RGB")


def eight_bit_rgb(image: Image.Image) -> Image.Image:
    """RGB image of a decoded picture of 8 bits, or of the upper bytes of 16; alpha is dropped. PictureError for floating-point pixels."""
    if image.mode == "F":
        raise PictureError("pixel-format", f"{FORMATS}, got floating-point pixels; scale them to 0 to 255 (or 65535) and save them as PNG")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")
