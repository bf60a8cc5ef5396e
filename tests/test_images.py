"""Decoding of every kind of image, resizing and normalising."""

import struct

import numpy as np
import pytest
from data_sets import encoded, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spnas_core.data import images
from spnas_core.errors import UserError


def decoded(tmp_path, image, kind, **options):
    path = tmp_path / "image"
    path.write_bytes(encoded(image, kind, **options))
    assert images.probe(path) == images.decode_image(path).shape[1::-1]
    result = images.decode_image(path)
    assert result.dtype == np.uint8
    assert result.shape[2] == 3
    return result


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_rgb_is_exact(tmp_path, kind):
    np.testing.assert_array_equal(decoded(tmp_path, picture(), kind), np.asarray(picture()))


@pytest.mark.parametrize(("mode", "kind"), [("L", "JPEG"), ("L", "PNG"), ("LA", "PNG"), ("1", "PNG")])
def test_grey_becomes_three_equal_channels(tmp_path, mode, kind):
    result = decoded(tmp_path, picture().convert(mode), kind)
    np.testing.assert_array_equal(result[..., 0], result[..., 1])
    np.testing.assert_array_equal(result[..., 0], result[..., 2])
    assert np.abs(result[..., 0].astype(int) - np.asarray(picture().convert(mode).convert("L"))).max() < 12


@pytest.mark.parametrize("transparency", [None, 0, bytes(range(200))])
def test_palette(tmp_path, transparency):
    image = picture().quantize(200)
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decoded(tmp_path, image, "PNG", **options), np.asarray(image.convert("RGB")))


def test_cmyk(tmp_path):
    image = picture().convert("CMYK")
    result = decoded(tmp_path, image, "JPEG", quality=100)
    assert np.abs(result.astype(int) - np.asarray(picture())).max() < 20


def test_alpha_is_dropped(tmp_path):
    image = picture()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    np.testing.assert_array_equal(decoded(tmp_path, image, "PNG"), np.asarray(picture()))


@pytest.mark.parametrize(("kind", "dtype"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32)])
def test_sixteen_bits_keep_their_upper_byte(tmp_path, kind, dtype):
    values = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(dtype)
    np.testing.assert_array_equal(decoded(tmp_path, Image.fromarray(values), kind)[..., 1], values >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path, orientation):
    image = picture()
    operation = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored turned left: a viewer turns it right
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    exif = image.getexif()
    exif[0x0112] = orientation
    stored = image.transpose(operation) if operation is not None else image
    for kind in ("PNG", "JPEG"):
        result = decoded(tmp_path, stored, kind, exif=exif)
        assert result.shape == (48, 64, 3)
        assert np.abs(result.astype(int) - np.asarray(image)).mean() < 6


@pytest.mark.parametrize("content", [b"", b"no image", encoded(picture())[:300], encoded(picture(), "PNG")[:500], b"\x89PNG\r\n\x1a\n1234"])
def test_what_is_no_whole_image_is_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    for read in (images.decode_image, images.probe):
        with pytest.raises(UserError, match=r"^image the-url: expected a whole image file, got: [^\n]+$"):
            read(path, "the-url")
        with pytest.raises(UserError, match=r"broken.jpg: expected a whole"):
            read(path)


def test_missing_and_floating_point_files(tmp_path):
    with pytest.raises(UserError, match=r"none.jpg.*No such file"):
        images.decode_image(tmp_path / "none.jpg")
    (tmp_path / "f.tif").write_bytes(encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))
    with pytest.raises(UserError, match="floating-point pixels"):
        images.decode_image(tmp_path / "f.tif")


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    factor=st.floats(0.3, 1.0),
)
def test_a_fitted_image_keeps_its_ratio_and_its_colour(height, width, size, factor):
    h, w = images.fitted_size(height, width, size, factor)
    assert 1 <= h <= size[0]
    assert 1 <= w <= size[1]
    resized = images.resize(np.full((height, width, 3), 200, np.uint8), h, w)
    assert resized.shape == (h, w, 3)
    assert (resized == 200).all()
    padded = images.normalise(resized, (h, w), np.zeros((3, *size), np.float32))
    assert padded[:, :h, :w].all()
    assert not padded[:, h:].any()
    assert not padded[:, :, w:].any()
    ratio = factor * min(size[0] / height, size[1] / width)
    assert abs(h - max(1, height * ratio)) <= 0.5 + 1e-9
    assert abs(w - max(1, width * ratio)) <= 0.5 + 1e-9
    if factor == 1.0:
        assert h == size[0] or w == size[1]


def test_resizing_is_bilinear_and_leaves_the_right_size_alone():
    image = np.asarray(picture())
    np.testing.assert_array_equal(images.resize(image, 48, 64), image)
    step = np.zeros((2, 2, 3), np.uint8)
    step[:, 1] = 100
    assert images.resize(step, 4, 4)[0, :, 0].tolist() == [0, 25, 75, 100]


def test_normalise():
    image = np.asarray(picture()).copy()
    result = images.normalise(image, (40, 50))
    assert result.shape == (3, 48, 64)
    assert result.dtype == np.float32
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(result[:, :40, :50], (((image / 255) - mean) / std).transpose(2, 0, 1)[:, :40, :50], atol=2e-6)
    assert not result[:, 40:].any()
    assert not result[:, :, 50:].any()


@pytest.mark.parametrize(("text", "turned"), [("6", True), ("8\0", True), ("1", False), ("9", False), ("top", False)])
def test_an_orientation_that_is_a_text_is_heeded(tmp_path, text, turned):
    """A type that EXIF does not allow and tools write all the same; Pillow heeds numbers alone."""
    value = text.encode().ljust(4, b"\0")
    entry = struct.pack("<HHHI4s", 1, 0x0112, 2, 2, value) if len(text) < 4 else struct.pack("<HHHI4s", 1, 0x0112, 2, 4, value)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry + struct.pack("<I", 0)
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(picture(64, 48), exif=exif))
    size = (48, 64) if turned else (64, 48)
    assert images.header_size(path) == images.probe(path) == size
    assert images.decode_image(path).shape[:2] == size[::-1]
