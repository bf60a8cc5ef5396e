"""Pictures: facts of an image file, decoding to RGB, resizing into the network input, normalising; and the array types of data.

Shapes: H, W = network input px; h, w = valid px of one image inside it (top left; the rest is padding).
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from spnas_core.errors import UserError
from spnas_core.store.retries import insist, passes

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")  # of image files
_Found = TypeVar("_Found")

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet, RGB in [0, 1]; torchvision's
STD = np.array([0.229, 0.224, 0.225], np.float32)
_GAIN, _OFFSET = 1.0 / (255.0 * STD), -MEAN / STD
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
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


def decode_image(path: Path, name: str = "") -> Pixels:
    """RGB pixels (H, W, 3) of an image file, its EXIF rotation applied; grey, palette, CMYK, alpha and 16 bit become 8-bit RGB.

    Alpha is dropped, 16-bit values keep their upper byte. UserError names the file (as `name`, if given) that is truncated,
    missing or no image; a disk that does not answer is waited for, and then a StoreError.
    """

    def pixels() -> Pixels:
        with Image.open(path) as image:
            image.load()
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))

    return _whole(pixels, str(name or path))


def probe(path: Path, name: str = "") -> tuple[int, int]:
    """Width and height after EXIF rotation, px; reads all of the file, so that a truncated one is a UserError (JPEG at 1/8 size: fast)."""
    return look(path, name).size


def look(path: Path, name: str = "") -> ImageFact:
    """Facts of an image file, read to its end, a JPEG at 1/8 size.

    UserError for a file that is truncated, missing or no image; also for a JPEG whose end was lost and filled with other bytes, of which
    a decoder shows the part that is there.
    """

    def seen() -> ImageFact:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
            image.load()
            if image.format in ("JPEG", "MPO") and not _has_end(content):
                raise ValueError("no end-of-image marker: the end of the file is lost")
            orientation = image.getexif().get(_ORIENTATION, 1)
            grey = _to_rgb(image).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        size = _rotated((width, height), orientation)
        return ImageFact(size, orientation, hashlib.sha256(content).hexdigest(), np.asarray(grey, np.float32))

    return _whole(seen, str(name or path))


def header_size(path: Path, name: str = "") -> tuple[int, int]:
    """Width and height after EXIF rotation, px, by the header of an image file; UserError for a file that has none, or is missing.

    A PNG file is read to its end, where its EXIF data may stand; so is a TIFF file, of which Pillow turns the size in between.
    """

    def size() -> tuple[int, int]:
        with Image.open(path) as image:
            if image.format == "TIFF":
                image.load()
            return _rotated(image.size, image.getexif().get(_ORIENTATION, 1))

    return _whole(size, str(name or path))


def _rotated(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation in _ROTATED else size


def _has_end(content: bytes) -> bool:
    """Whether a JPEG file has an end-of-image marker after its pixels begin; thumbnails before may have theirs, and anything may follow.

    The markers are those of ITU-T T.81, annex B.
    """
    place = 2
    while content[place : place + 1] == b"\xff" and place + 1 < len(content):
        marker = content[place + 1]
        if marker == 0xDA:  # start of scan; in compressed pixels 0xff is never followed by 0xd9
            return content.find(b"\xff\xd9", place) >= 0
        if marker == 0xFF:  # filling
            place += 1
        else:
            alone = marker == 0x01 or 0xD0 <= marker <= 0xD8  # others have a length
            place += 2 if alone else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return True  # what the decoder took is none of these


def _whole(read: Callable[[], _Found], name: str) -> _Found:
    """Read an image file; UserError where it is broken, StoreError where its disk does not answer."""

    def once() -> _Found:
        try:
            return read()
        except _BROKEN as error:
            if passes(error):
                raise
            raise UserError(f"image {name}: expected a whole image file, got: {_one_line(error)}") from error

    return insist(once, f"image {name}: read")


def check_size(decoded: tuple[int, int], annotated: tuple[int, int], name: str) -> None:
    """UserError unless the decoded (width, height) is the annotated one."""
    if decoded == annotated:
        return
    (width, height), (w, h) = decoded, annotated
    hint = " (swapped: boxes must be drawn on the image after its EXIF rotation)" if (h, w) == decoded else ""
    raise UserError(f"image {name}: the annotation says {w}x{h} px, the file has {width}x{height}{hint}")


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Bilinear, antialiased where it shrinks; (h, w, 3) -> (height, width, 3)."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0))


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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bit (PNG, TIFF), as I;16 or in 32-bit integers
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
