"""The limit of pixels: by each picture's own rules, by its header, and told apart from a broken file."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from data_sets import encoded
from PIL import Image
from raw_pictures import chunk, png_header, tiff

from spnas_core.data import image_facts, images
from spnas_core.data.opening import MOST_PIXELS, PictureError, PictureRules

HUGE = png_header(20_000, 10_000, 1) + chunk(b"IDAT", b"")


def test_pillows_limit_is_where_it_refuses(tmp_path: Path) -> None:
    assert MOST_PIXELS == 2 * 89_478_485
    path = tmp_path / "huge.png"
    path.write_bytes(HUGE)
    for read in (images.decode_image, images.look, images.probe):
        with pytest.raises(PictureError) as caught:
            read(path, "the-url")
        assert caught.value.kind == "too-many-pixels"
        expected = "expected at most 178956970 pixels (data.max_pixels), got 20000x10000; --set data.max_pixels=200000000 lets it in"
        assert str(caught.value) == f"image the-url: {expected}"
    with pytest.raises(PictureError, match="expected a whole image file") as caught:
        images.decode_image(path, rules=PictureRules(max_pixels=200_000_000))
    assert caught.value.kind == "broken-image"
    assert images.header_size(path) == (20_000, 10_000)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"])
def test_a_picture_over_pillows_warning_is_read_without_one(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns from half of its limit on, and a warning is an error in these tests; the limit itself is what the rules say."""
    path = tmp_path / "picture"
    path.write_bytes(encoded(Image.new("RGB", (40, 30), "red"), kind))
    for most in (1200, None):
        rules = PictureRules(max_pixels=most)
        assert images.decode_image(path, rules=rules).shape == (30, 40, 3)
        assert images.probe(path, rules=rules) == images.header_size(path, rules=rules) == (40, 30)
    for read in (images.decode_image, images.probe):
        with pytest.raises(PictureError, match=r"expected at most 1199 pixels \(data.max_pixels\), got 40x30"):
            read(path, rules=PictureRules(max_pixels=1199))
    assert images.header_size(path, rules=PictureRules(max_pixels=1199)) == (40, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # by another part of the program
    with pytest.raises(PictureError, match="expected fewer pixels") as caught:
        images.decode_image(path)
    assert caught.value.kind == "too-many-pixels"


def test_a_picture_between_pillows_warning_and_its_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 9_000)).save(path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert images.probe(path) == (10_000, 9_000)
    assert told == []


def test_threads_with_different_rules_decode_at_once(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(Image.new("RGB", (40, 30)), "PNG"))

    def read(number: int) -> bool:
        try:
            return images.decode_image(path, rules=PictureRules(max_pixels=1199 + number % 2)).size == 3600
        except PictureError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(400))) == [False, True] * 200


def test_facts_name_the_kind_of_the_fault(tmp_path: Path) -> None:
    contents = {
        "huge.png": HUGE,
        "float.tif": tiff(np.zeros((4, 4), np.float32)),
        "text.jpg": b"<html>",
        "whole.png": encoded(Image.new("RGB", (40, 30)), "PNG"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    urls = {name: str(tmp_path / name) for name in (*contents, "none.jpg")}
    seen = image_facts.ImageFacts(2).at(urls.values())
    kinds = {name: fact.kind for name, url in urls.items() if isinstance(fact := seen[url], image_facts.Unread)}
    broken = dict.fromkeys(("text.jpg", "none.jpg"), "broken-image")
    assert kinds == {"huge.png": "too-many-pixels", "float.tif": "pixel-format", **broken}
    low = image_facts.ImageFacts(2, PictureRules(max_pixels=9)).at([urls["whole.png"]])[urls["whole.png"]]
    assert low == ("too-many-pixels", "expected at most 9 pixels (data.max_pixels), got 40x30; --set data.max_pixels=1200 lets it in")
    assert image_facts.header_sizes(urls.values())[urls["huge.png"]] == (20_000, 10_000)
