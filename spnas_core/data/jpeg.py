"""JPEG files: whether their end is there, and decoding at a fraction of their size, which leaves out most of the work."""

from collections.abc import Callable

from PIL import Image

GAP = 3.0  # px of the fraction per px that is wanted, at least; as `reducing_gap` of Pillow's resizing
Ratio = Callable[[int, int], float]  # px of the file per px that is wanted, from its width and height after EXIF rotation


def has_end(content: bytes) -> bool:
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


def shrink(image: Image.Image, ratio: float) -> int:
    """Have an opened JPEG decoded at 1/2, 1/4 or 1/8 of its size, for a resizing by `ratio`; how many of its px are one px then.

    Only where that divides both sides, so that no pixel at an edge stands for less, and leaves `GAP` times what is wanted.
    """
    if image.format in ("JPEG", "MPO"):
        width, height = image.size
        for step in (8, 4, 2):
            if width % step == height % step == 0 and ratio >= GAP * step:
                image.draft(None, (width // step, height // step))
                return width // image.size[0]
    return 1
