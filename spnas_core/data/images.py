"""Pictures: facts of an image file, decoding to RGB, resizing into the network input, normalising; and the array types of data.

Shapes: H, W = network input px; h, w = valid px of one image inside it (top left; the rest is padding).
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from spnas_core.data.depth import deep_values, eight_bit_rgb, in_eight_bits, lower_bytes, stored_depth
from spnas_core.data.jpeg import Ratio, has_end, shrink
from spnas_core.data.opening import PLAIN_RULES, PictureRules, check_pixels, open_header, open_picture, read_whole
from spnas_core.errors import UserError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
SUFFIXES = (  # of image files
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif"),
    *(".pgm", ".ppm", ".pbm", ".pnm", ".tga"),
)

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet, RGB in [0, 1]; torchvision's
STD = np.array([0.229, 0.224, 0.225], np.float32)
_GAIN, _OFFSET = 1.0 / (255.0 * STD), -MEAN / STD
_ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112
THUMBNAIL = 16  # side of a thumbnail, px


@dataclass(frozen=True, eq=False)
class ImageFact:
    """Facts of one image file, read to its end."""

    size: tuple[int, int]  # width and height after EXIF rotation, px
    orientation: int  # of EXIF; 1 = shown as stored
    sha256: str  # of the file
    thumbnail: npt.NDArray[np.float32]  # (16, 16) grey, as stored, 0 to 255
    extent: tuple[int, int] | None = None  # lowest and highest value of a picture of more than 8 bits whose format does not say how many


def decode_image(path: Path, name: str = "", rules: PictureRules = PLAIN_RULES) -> Pixels:
    """RGB pixels (H, W, 3) of an image file, its EXIF rotation applied; grey, palette, CMYK, alpha and 16 bit become 8-bit RGB.

    Alpha is dropped; of 16-bit values the upper 8 of the bits that the rules say are kept, larger ones become white. PictureError, a
    UserError, names the file (as `name`, if given) that is truncated, missing, no image or against the rules; a disk that does not
    answer is waited for, and then a StoreError.
    """
    return np.asarray(decode_reduced(path, lambda width, height: 1.0, name, rules)[0])


def decode_reduced(path: Path, ratio: Ratio, name: str = "", rules: PictureRules = PLAIN_RULES) -> tuple[Image.Image, int]:
    """As `decode_image`, for a resizing by `ratio`: a JPEG perhaps at 1/2, 1/4 or 1/8 of its size; and how many of its px a px is.

    `ratio` tells from width and height, px after EXIF rotation, how many px of the file become one. Below 6 the size stays. The image
    is Pillow's own, RGB: between its decoding and its resizing an array would cost two copies of all pixels.
    """

    def decoded() -> tuple[Image.Image, int]:
        with open_picture(path, rules) as image:
            depth, step, orientation = stored_depth(image), 1, _orientation(image)
            if image.format in ("JPEG", "MPO"):
                step = shrink(image, ratio(*_rotated(image.size, orientation)))
            ImageOps.exif_transpose(image, in_place=True)
            values = None
            if image.mode.startswith("I") or rules.bits < 16:  # else the upper bytes of colours are all that is needed
                values = deep_values(image, depth, rules, lambda: ImageOps.exif_transpose(lower_bytes(path, rules)))
            return eight_bit_rgb(image) if values is None else in_eight_bits(values, depth, rules), step

    return read_whole(decoded, str(name or path))


def probe(path: Path, name: str = "", rules: PictureRules = PLAIN_RULES) -> tuple[int, int]:
    """Width and height after EXIF rotation, px; reads all of the file, so that a truncated one is a UserError (JPEG at 1/8 size: fast)."""
    return look(path, name, rules).size


def look(path: Path, name: str = "", rules: PictureRules = PLAIN_RULES) -> ImageFact:
    """Facts of an image file, read to its end, a JPEG at 1/8 size.

    PictureError, a UserError, for a file that is truncated, missing, no image or against the rules; also for a JPEG whose end was lost
    and filled with other bytes, of which a decoder shows the part that is there.
    """

    def seen() -> ImageFact:
        content = path.read_bytes()
        with open_picture(io.BytesIO(content), rules) as image:
            depth, (width, height) = stored_depth(image), image.size
            image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
            image.load()
            if image.format in ("JPEG", "MPO") and not has_end(content):
                raise ValueError("no end-of-image marker: the end of the file is lost")
            orientation = _orientation(image)
            values = deep_values(image, depth, rules, lambda: lower_bytes(io.BytesIO(content), rules))
            rgb = eight_bit_rgb(image) if values is None else in_eight_bits(values, depth, rules)
            grey = rgb.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        extent = None if values is None or depth.says_bits else (int(values.min()), int(values.max()))
        size = _rotated((width, height), orientation)
        return ImageFact(size, orientation, hashlib.sha256(content).hexdigest(), np.asarray(grey, np.float32), extent)

    return read_whole(seen, str(name or path))


def header_size(path: Path, name: str = "", rules: PictureRules = PLAIN_RULES) -> tuple[int, int]:
    """Width and height after EXIF rotation, px, by the header of an image file; UserError for a file that has none, or is missing.

    A PNG file is read to its end, where its EXIF data may stand; so is a TIFF file, of which Pillow turns the size in between. Of
    such a file with more pixels than the rules let in, which no other function reads, it is what the header says.
    """

    def size() -> tuple[int, int]:
        with open_header(path) as image:
            if image.format in ("PNG", "TIFF"):
                try:
                    check_pixels(image.size, rules)
                except UserError:
                    return image.size
            if image.format == "TIFF":
                image.load()
            return _rotated(image.size, _orientation(image))

    return read_whole(size, str(name or path))


def _orientation(image: Image.Image) -> int:
    """Orientation of EXIF, 1 where there is none; one that is written as a text is made a number, which Pillow heeds alone."""
    exif = image.getexif()
    value = exif.get(_ORIENTATION, 1)
    if isinstance(value, str):
        digits = value.strip(" \0")
        exif[_ORIENTATION] = value = int(digits) if digits in tuple("12345678") else 1
    return value if isinstance(value, int) else 1


def _rotated(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation in _ROTATED else size


def check_size(decoded: tuple[int, int], annotated: tuple[int, int], name: str) -> None:
    """UserError unless the decoded (width, height) is the annotated one."""
    if decoded == annotated:
        return
    (width, height), (w, h) = decoded, annotated
    hint = " (swapped: boxes must be drawn on the image after its EXIF rotation)" if (h, w) == decoded else ""
    raise UserError(f"image {name}: the annotation says {w}x{h} px, the file has {width}x{height}{hint}")


def resize(image: Pixels | Image.Image, height: int, width: int) -> Pixels:
    """Bilinear, antialiased where it shrinks; an image, or its pixels (h, w, 3) -> (height, width, 3)."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if picture.size == (width, height):
        return np.asarray(image)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0))


def fitted_size(height: int, width: int, size: tuple[int, int], factor: float = 1.0) -> tuple[int, int]:
    """(h, w) of an image of `height` x `width` px that fills `size` (H, W) with its aspect ratio kept, times `factor`."""
    ratio = min(size[0] / height, size[1] / width) * factor
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def normalise(image: Pixels, hw: tuple[int, int], out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """ImageNet mean and standard deviation: uint8 (H, W, 3) -> float32 (3, H, W), zeros beyond the valid `hw`.

    `image` may have only its valid part where `out`, an array of zeros, is given and filled.
    """
    h, w = hw
    result = np.zeros((3, *image.shape[:2]), np.float32) if out is None else out
    for channel in range(3):
        valid = result[channel, :h, :w]
        np.multiply(image[:h, :w, channel], _GAIN[channel], out=valid, dtype=np.float32)
        valid += _OFFSET[channel]
    return result
