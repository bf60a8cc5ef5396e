"""The door to image files: what is let in, and in one line what is wrong with a file that is not read.

Pillow's own limit of pixels is one number of the whole process, and a warning of the whole process below twice that. So it is off, and
each picture is held to its own rules by its header, before any pixel is decoded: threads with other rules may decode at once.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading
from spnas_core.store.retries import insist, passes

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)  # where Pillow refuses a picture; from half of it on it warns
Image.MAX_IMAGE_PIXELS = None
FORMATS = "expected 8- or 16-bit pixels"
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
_BITS, _SAMPLES, _PLANES, _FORMAT = 258, 277, 284, 339  # TIFF 6.0: BitsPerSample, SamplesPerPixel, PlanarConfiguration, SampleFormat
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex integer", 6: "complex"}
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class PictureRules:
    """How image files are read: settings of `Reading`."""

    max_pixels: int | None = None  # of the largest picture that is decoded; None: `MOST_PIXELS`
    bits: int = 16  # that 16-bit values use: 8 to 16

    @property
    def most(self) -> int:
        """Pixels of the largest picture that is decoded."""
        return self.max_pixels or MOST_PIXELS


PLAIN_RULES = PictureRules()


def picture_rules(reading: Reading) -> PictureRules:
    """Rules of the settings of a data set."""
    return PictureRules(reading.max_pixels, reading.bits)


class PictureError(UserError):
    """An image file that is not read; `kind` is that of its finding in `spnas check`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def open_picture(source: Path | io.BytesIO, rules: PictureRules) -> ImageFile.ImageFile:
    """Image of a file whose header is read; PictureError for too many pixels, and for a TIFF file of pixels that are not read."""
    image = open_header(source)
    try:
        check_pixels(image.size, rules)
    except PictureError:
        image.close()
        raise
    return image


def open_header(source: Path | io.BytesIO) -> ImageFile.ImageFile:
    """Image of a file of any size whose header is read; PictureError for a TIFF file of pixels that are not read."""
    try:
        image = Image.open(source)
    except UnidentifiedImageError as error:
        if form := _tiff_format(source):
            raise PictureError("pixel-format", f"{FORMATS} of 1, 3 or 4 channels, got a TIFF file with {form}; save it as PNG") from error
        empty = not (source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes)
        raise UnidentifiedImageError("an empty file" if empty else "a file of no format that Pillow knows") from error
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _widen_planes(image)
    return image


def check_pixels(size: tuple[int, int], rules: PictureRules) -> None:
    """PictureError for a picture of more pixels than the rules let in."""
    width, height = size
    if (pixels := width * height) > rules.most:
        text = f"expected at most {rules.most} pixels (data.max_pixels), got {width}x{height}; --set data.max_pixels={pixels} lets it in"
        raise PictureError("too-many-pixels", text)


def read_whole(read: Callable[[], _Found], name: str) -> _Found:
    """Read an image file; PictureError, which names it, where that fails, StoreError where its disk does not answer."""

    def once() -> _Found:
        try:
            return read()
        except PictureError as error:
            raise PictureError(error.kind, f"image {name}: {error}") from error
        except Image.DecompressionBombError as error:  # Pillow's limit, if another part of the program has set it again
            raise PictureError("too-many-pixels", f"image {name}: expected fewer pixels, got: {_one_line(error)}") from error
        except _BROKEN as error:
            if passes(error):
                raise
            raise PictureError("broken-image", f"image {name}: expected a whole image file, got: {_one_line(error)}") from error

    return insist(once, f"image {name}: read")


def _widen_planes(image: TiffImagePlugin.TiffImageFile) -> None:
    """Mend how Pillow (13.0) reads 16-bit channels that lie one after the other, uncompressed: as if they had 8 bits."""
    if image.tag_v2.get(_PLANES) == 2 and set(image.tag_v2.get(_BITS, ())) == {16}:
        wide = ";16B" if image.tag_v2.prefix == b"MM" else ";16L"
        image.tile = [with_raw_mode(tile, raw_mode(tile) + wide) if raw_mode(tile) in tuple("RGBA") else tile for tile in image.tile]


def raw_mode(tile: ImageFile._Tile) -> str:
    """Pillow's name for how the pixels of a part of a file are stored: RGB, I;16B, ..."""
    return str(tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args)


def with_raw_mode(tile: ImageFile._Tile, raw: str) -> ImageFile._Tile:
    """Part of a file, its pixels read as stored in another way."""
    return tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)


def _tiff_format(source: Path | io.BytesIO) -> str:
    """Channels, bits and kind of numbers of a TIFF file that Pillow does not know; empty of another file."""
    content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    if content[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ""
    tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if b"+" in content[:4] else 8])
    stream = io.BytesIO(content)
    stream.seek(tags.next)
    tags.load(stream)
    bits = sorted(set(tags.get(_BITS, (1,))))
    kinds = sorted({_SAMPLE_FORMATS.get(code, "other") for code in tags.get(_FORMAT, (1,))})
    channels = tags.get(_SAMPLES, 1)
    plural = "s" * (channels != 1)
    return f"{channels} channel{plural} of {'/'.join(map(str, bits))}-bit {'/'.join(kinds)} values"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
