"""Pixels of more than 8 bits: what is kept of them, by the bits that they use, and what is told of other pixels."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_pictures import Array, chunk, png16, tiff

from spnas_core.check.images import judge_images
from spnas_core.data import images
from spnas_core.data.image_facts import ImageFacts
from spnas_core.data.opening import PictureError, PictureRules
from spnas_core.data.raw_split import ImageFile, RawSplit

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 65536, (9, 13, 4), dtype=np.uint16)
GREY = COLOURS[..., 0]
CASES = Path(__file__).parents[2] / "shared" / "cases" / "19-pixel-formats" / "images"
Writer = Callable[[Array], bytes]


def pgm(values: Array) -> bytes:
    return b"P5 %d %d 65535\n" % (values.shape[1], values.shape[0]) + values.astype(">u2").tobytes()


GREYS: dict[str, Writer] = {
    "PNG": png16,
    "PNG with alpha": lambda values: png16(np.stack([values, values[::-1]], axis=2)),
    "TIFF": tiff,
    "TIFF, big endian": lambda values: tiff(values, ">"),
    "TIFF, compressed": lambda values: tiff(values, deflated=True),
    "TIFF, 32 bits": lambda values: tiff(values.astype(np.uint32)),
    "TIFF, signed": lambda values: tiff((values >> 1).astype(np.int16)),
    "PGM": pgm,
}
COLOURED: dict[str, Writer] = {
    "PNG": png16,
    "TIFF": tiff,
    "TIFF, big endian": lambda values: tiff(values, ">"),
    "TIFF, compressed": lambda values: tiff(values, deflated=True),
    "TIFF, compressed, big endian": lambda values: tiff(values, ">", deflated=True),
    "TIFF, in planes": lambda values: tiff(values, planes=True),
    "TIFF, in planes, big endian": lambda values: tiff(values, ">", planes=True),
}


def decoded(tmp_path: Path, content: bytes, bits: int = 16) -> images.Pixels:
    path = tmp_path / "picture"
    path.write_bytes(content)
    return images.decode_image(path, rules=PictureRules(bits=bits))


def facts(tmp_path: Path, content: bytes, bits: int = 16) -> images.ImageFact:
    path = tmp_path / "picture"
    path.write_bytes(content)
    return images.look(path, rules=PictureRules(bits=bits))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", GREYS)
def test_grey_is_stretched_by_the_bits_in_use(tmp_path: Path, kind: str, bits: int) -> None:
    values = GREY >> (16 - bits)
    stored = values >> 1 if kind == "TIFF, signed" else values
    result = decoded(tmp_path, GREYS[kind](values), bits)
    np.testing.assert_array_equal(result, np.repeat((stored >> (bits - 8))[..., None], 3, axis=2))
    extent = facts(tmp_path, GREYS[kind](values), bits).extent
    assert extent == (stored.min(), stored.max())


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", COLOURED)
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_are_stretched_by_the_bits_in_use(tmp_path: Path, kind: str, bits: int, channels: int) -> None:
    values = COLOURS[..., :channels] >> (16 - bits)
    np.testing.assert_array_equal(decoded(tmp_path, COLOURED[kind](values), bits), values[..., :3] >> (bits - 8))
    assert facts(tmp_path, COLOURED[kind](values), bits).extent == (values[..., :3].min(), values[..., :3].max())


def test_the_whole_range_is_stretched_over_all_levels_and_what_is_beyond_is_white(tmp_path: Path) -> None:
    values = np.array([[0, 15, 16, 2048, 4095, 4096, 65535]], np.uint16)
    for content in (png16(values), tiff(values)):
        assert decoded(tmp_path, content, 12)[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255, 255]
        assert decoded(tmp_path, content)[0, :, 0].tolist() == [0, 0, 0, 8, 15, 16, 255]
    coloured = np.repeat(values[..., None], 3, axis=2)
    assert decoded(tmp_path, png16(coloured), 12)[0, :, 1].tolist() == [0, 0, 1, 128, 255, 255, 255]
    signed = tiff(np.array([[-5, 0, 4095, 70000]], np.int32))
    assert decoded(tmp_path, signed)[0, :, 0].tolist() == [0, 0, 15, 255]
    assert facts(tmp_path, signed).extent == (-5, 70000)


def test_compressed_planes_are_read_with_all_bits_and_refused_with_fewer(tmp_path: Path) -> None:
    """Of these Pillow gives the upper bytes alone, in whatever order it is asked to read them."""
    content = tiff(COLOURS[..., :3], planes=True, deflated=True)
    np.testing.assert_array_equal(decoded(tmp_path, content), COLOURS[..., :3] >> 8)
    assert facts(tmp_path, tiff(COLOURS[..., :3] >> 4, planes=True, deflated=True)).extent == (255, 4095)
    for read in (decoded, facts):
        with pytest.raises(PictureError, match=r"lower bytes can be read for data\.bits=12, got"):
            read(tmp_path, content, 12)


def test_turned_pictures_have_both_bytes_turned(tmp_path: Path) -> None:
    values = COLOURS[..., :3] >> 4
    result = decoded(tmp_path, tiff(values, t274=6), 12)
    np.testing.assert_array_equal(result, np.rot90(values >> 4, -1))
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = png16(values, chunk(b"eXIf", exif.tobytes()[6:]))
    np.testing.assert_array_equal(decoded(tmp_path, turned, 12), np.rot90(values >> 4))


def test_white_may_be_zero(tmp_path: Path) -> None:
    """TIFF 6.0, PhotometricInterpretation 0; Pillow heeds it in pictures of 8 bits alone."""
    np.testing.assert_array_equal(decoded(tmp_path, tiff(GREY, t262=0))[..., 0], 255 - (GREY >> 8))
    np.testing.assert_array_equal(decoded(tmp_path, tiff((GREY >> 8).astype(np.uint8), t262=0))[..., 0], 255 - (GREY >> 8))
    np.testing.assert_array_equal(decoded(tmp_path, tiff(GREY >> 4, t262=0), 12)[..., 0], 255 - (GREY >> 8))


def test_packed_twelve_bits_say_so_themselves(tmp_path: Path) -> None:
    packed = bytes([0x00, 0x10, 0x02, 0x80, 0x0F, 0xFF])  # 0x001 0x002 0x800 0xfff
    content = tiff(np.zeros((2, 2), np.uint16), pixels=packed, bits=12)
    for bits in (12, 16):
        assert decoded(tmp_path, content, bits)[..., 0].tolist() == [[0, 0], [128, 255]]
    assert facts(tmp_path, content).extent is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (tiff(GREY.astype(np.float32)), "floating-point pixels; scale them"),
        (tiff(GREY.astype(np.float32), ">"), "floating-point pixels; scale them"),
        (tiff(GREY.astype(np.float64)), "1 channel of 64-bit floating-point values"),
        (tiff((GREY / 65535).astype(np.float16)), "1 channel of 16-bit floating-point values"),
        (tiff(COLOURS[..., :3].astype(np.float32)), "3 channels of 32-bit floating-point values"),
        (tiff(np.zeros((4, 4, 5), np.uint16)), "5 channels of 16-bit unsigned values"),
        (tiff(np.zeros((4, 4), np.complex64)), "1 channel of 64-bit complex values"),
        (tiff(GREY.astype(np.uint32), ">"), "1 channel of 32-bit unsigned values"),
    ],
)
def test_other_pixels_are_told_in_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "picture.tif"
    path.write_bytes(content)
    for read in (images.decode_image, images.look, images.probe):
        with pytest.raises(PictureError, match=rf"^image the-url: expected 8- or 16-bit pixels[^\n]*, got [^\n]*{told}[^\n]*$") as caught:
            read(path, "the-url")
        assert caught.value.kind == "pixel-format"


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "JPEG2000"), ("RGB", "JPEG2000"), ("LAB", "TIFF"), ("YCbCr", "TIFF")])
def test_formats_of_other_kinds(tmp_path: Path, mode: str, kind: str) -> None:
    stream = io.BytesIO()
    source = Image.fromarray((COLOURS[..., :3] >> 8).astype(np.uint8))
    (Image.fromarray(GREY) if mode == "I;16" else source if mode == "RGB" else source.convert(mode) if mode == "YCbCr" else lab()).save(
        stream, kind
    )
    result = decoded(tmp_path, stream.getvalue()).astype(int)
    expected = (GREY >> 8)[..., None] if mode == "I;16" else np.asarray(source)
    assert np.abs(result - (expected if mode != "LAB" else 119)).max() < 8


def lab() -> Image.Image:
    return Image.merge("LAB", [Image.new("L", (13, 9), value) for value in (127, 128, 128)])  # L* = 50: sRGB 119


@pytest.mark.skipif(not CASES.exists(), reason="needs the shared cases")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_shared_pictures() -> None:
    reference = images.decode_image(CASES / "rgb.png").astype(int)
    grey = images.decode_image(CASES / "grey.png").astype(int)
    used = {"grey16-10bit.tif": 10, "grey16-12bit.png": 12}
    for path in sorted(CASES.iterdir()):
        if path.name == "float.tif":
            with pytest.raises(PictureError, match="floating-point"):
                images.decode_image(path)
            continue
        result = images.decode_image(path, rules=PictureRules(bits=used.get(path.name, 16))).astype(int)
        if "bilevel" not in path.name and path.name != "palette.png":
            distance = np.abs(result - (grey if "grey" in path.name else reference)).mean()
            assert distance < 5, path.name


def judged(tmp_path: Path, contents: list[bytes], bits: int = 16) -> dict[str, tuple[int, str]]:
    rules = PictureRules(bits=bits)
    files = {}
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.png"
        path.write_bytes(content)
        files[path.name] = ImageFile(str(path), len(content))
    seen = ImageFacts(1, rules).at(file.url for file in files.values())
    findings = judge_images(RawSplit("train", {}, dict(files)), [], seen, rules)
    return {one.kind: (one.count, one.first) for one in findings}


def test_check_tells_of_dark_pictures_and_of_values_that_are_cut(tmp_path: Path) -> None:
    top = np.full((4, 4), 1, np.uint16)
    of = {bits: png16(top * (2**bits - 1)) for bits in (8, 10, 12, 13, 14, 15, 16)}
    coloured = png16(np.repeat(top[..., None] * 3000, 3, axis=2))
    assert judged(tmp_path, [of[16], of[15], of[13]]) == {}
    assert judged(tmp_path, [of[12], of[10]]) == {"few-bits": (2, "0.png: values up to 4095; --set data.bits=12 fits all")}
    assert judged(tmp_path, [of[13], of[10]])["few-bits"] == (2, "0.png: values up to 8191; --set data.bits=14 fits all")
    assert judged(tmp_path, [of[16], coloured, of[14]]) == {
        "few-bits": (1, "1.png: values up to 3000; --set data.bits=12 fits all but 2 that use more")
    }
    assert judged(tmp_path, [of[12], of[10]], 12) == {}
    assert judged(tmp_path, [of[10], of[8]], 12)["few-bits"][1].endswith("data.bits=10 fits all")
    assert judged(tmp_path, [of[12], of[13]], 12) == {"cut-values": (1, "1.png: values of 8191 to 8191, data.bits=12 holds 0 to 4095")}
    assert judged(tmp_path, [tiff(np.array([[-1, 40000]], np.int32))]).keys() == {"cut-values"}
    assert judged(tmp_path, [of[8]], 8) == judged(tmp_path, [png16(top * 0), of[16]]) == {}
