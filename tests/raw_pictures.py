"""Image files that Pillow cannot write: PNG of 16-bit colours, TIFF of every kind of numbers, a header that says any size."""

import struct
import zlib
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


def with_channels(values: Array) -> Array:
    return values if values.ndim == 3 else values[..., None]


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_header(width: int, height: int, bits: int = 8, colour: int = 0) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def png16(values: Array, *chunks: bytes) -> bytes:
    """PNG of uint16 values (h, w) or (h, w, c): grey, grey with alpha, RGB, RGB with alpha."""
    whole = with_channels(values)
    height, width, channels = whole.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in whole)
    head = png_header(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    return head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: Array, order: str = "<", planes: bool = False, deflated: bool = False, pixels: bytes | None = None, **tags: int) -> bytes:
    """TIFF of values (h, w) or (h, w, c), its channels one after the other if `planes`; other `tags` are called ``t262``, ..."""
    whole = with_channels(values)
    height, width, channels = whole.shape
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[whole.dtype.kind]
    stored = whole.astype(whole.dtype.newbyteorder(order))  # type: ignore[call-overload]
    parts = [stored[..., k].tobytes() for k in range(channels)] if planes else [stored.tobytes()]
    parts = [zlib.compress(part) for part in parts] if deflated else parts if pixels is None else [pixels]
    bits = tags.pop("bits", whole.dtype.itemsize * 8)
    entries: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * channels),
        259: ("H", [8 if deflated else 1]),
        262: ("H", [2 if channels >= 3 else 1]),
        273: ("I", [0] * len(parts)),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", [len(part) for part in parts]),
        284: ("H", [2 if planes else 1]),
        339: ("H", [kind] * channels),
        **({338: ("H", [2])} if channels == 4 else {}),
        **{int(name[1:]): ("H", [value]) for name, value in tags.items()},
    }
    place = 8 + 2 + 12 * len(entries) + 4
    sizes = {tag: struct.calcsize("<" + code) * len(numbers) for tag, (code, numbers) in entries.items()}
    start = place + sum(size for size in sizes.values() if size > 4)
    entries[273] = ("I", [start + sum(map(len, parts[:k])) for k in range(len(parts))])
    table, beside = b"", b""
    for tag, (code, numbers) in sorted(entries.items()):
        content = struct.pack(order + code * len(numbers), *numbers)
        if len(content) > 4:
            content, beside = struct.pack(order + "I", place + len(beside)), beside + content
        table += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[code], len(numbers)) + content.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return head + table + bytes(4) + beside + b"".join(parts)
