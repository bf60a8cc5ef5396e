"""JPEGs at a fraction of their size: where, that nothing else changes, and that what is shown is the same."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from data_sets import document, encoded, make, write
from PIL import Image, ImageOps

from spnas_core.data import crops, images, loader, splits
from spnas_core.data.jpeg import shrink
from spnas_core.data.opening import PictureError
from spnas_core.data.pipeline import ImageCache
from spnas_core.errors import UserError


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with detail at every scale, none of it finer than some px: 1/f noise."""
    rng = np.random.default_rng(seed)
    result = np.zeros((height, width, 3))
    for share, (h, w) in zip((0.5, 0.3, 0.2), ((3, 4), (12, 16), (48, 64)), strict=True):
        grid = Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
        result += share * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(result.astype(np.uint8))


def plainly(path: Path) -> images.Pixels:
    """Pixels as they were decoded before fractions were known."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def fraction(path: Path, ratio: float) -> tuple[images.Pixels, int]:
    picture, step = images.decode_reduced(path, lambda width, height: ratio)
    return np.asarray(picture), step


@pytest.mark.parametrize("size", [(640, 480), (641, 479), (320, 256), (37, 91)])
def test_below_a_ratio_of_six_nothing_changes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(photograph(*size), quality=90))
    for ratio in (0.3, 1.0, 2.0, 3.75, 5.999):
        pixels, step = fraction(path, ratio)
        assert step == 1
        np.testing.assert_array_equal(pixels, plainly(path))


def test_the_fraction_leaves_three_times_what_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(photograph(640, 480)))
    found = {ratio: fraction(path, ratio) for ratio in (6.0, 11.9, 12.0, 23.9, 24.0, 1000.0)}
    assert {ratio: step for ratio, (_, step) in found.items()} == {6.0: 2, 11.9: 2, 12.0: 4, 23.9: 4, 24.0: 8, 1000.0: 8}
    assert all(pixels.shape == (480 // step, 640 // step, 3) for pixels, step in found.values())


@pytest.mark.parametrize(("size", "step"), [((640, 481), 1), ((642, 480), 2), ((644, 484), 4), ((640, 427), 1), ((648, 488), 8)])
def test_only_a_fraction_that_divides_both_sides_is_taken(tmp_path: Path, size: tuple[int, int], step: int) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(photograph(*size)))
    assert fraction(path, 100.0)[1] == step


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP", "GIF"])
def test_other_formats_are_decoded_whole(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encoded(photograph(640, 480), kind))
    pixels, step = fraction(path, 100.0)
    assert (step, pixels.shape) == (1, (480, 640, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_fraction_shows_the_same_picture_turned_the_same_way(tmp_path: Path, orientation: int, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(photograph(640, 480).convert(mode), quality=95, exif=exif))
    seen: list[tuple[int, int]] = []

    def ratio(width: int, height: int) -> float:
        seen.append((width, height))
        return 12.0

    picture, step = images.decode_reduced(path, ratio)
    pixels, whole = np.asarray(picture), plainly(path)
    assert seen == [whole.shape[1::-1]]
    assert (pixels.shape[0] * step, pixels.shape[1] * step) == whole.shape[:2]
    h, w = whole.shape[0] // 12, whole.shape[1] // 12
    difference = np.abs(images.resize(pixels, h, w).astype(int) - images.resize(whole, h, w))
    assert difference.mean() < 0.6
    assert difference.max() <= 6


def test_a_truncated_file_is_told_at_a_fraction_too(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(photograph(640, 480))[:-2000])
    with pytest.raises(PictureError, match="expected a whole image file"):
        fraction(path, 24.0)


def test_a_picture_without_a_size_to_halve_is_left_alone() -> None:
    assert shrink(Image.new("RGB", (64, 64)), 100.0) == 1


def split_of(root: Path, picture: Image.Image, box: list[float]) -> splits.Split:
    data = document(1, boxes=1)
    data["images"][0].update(width=picture.width, height=picture.height)
    data["annotations"][0]["bbox"] = box
    make(str(root), data)
    write(f"{root}/images/{data['images'][0]['file_name']}", encoded(picture, quality=95))
    return splits.open_split(str(root), "train")


def whole_batch(path: str, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    pixels = plainly(Path(path))
    hw = images.fitted_size(*pixels.shape[:2], size)
    return images.normalise(images.resize(pixels, *hw), hw, np.zeros((3, *size), np.float32))


def test_batches_at_a_fraction_are_nearly_those_of_the_whole_picture(tmp_path: Path) -> None:
    split = split_of(tmp_path, photograph(1600, 1200), [400, 300, 800, 600])
    for size, limit in (((256, 320), 0.0), ((96, 128), 0.03), ((48, 64), 0.03)):  # ratios of 5, 12.5 and 25
        (batch,) = loader.eval_batches(split, size, 1)
        difference = np.abs(batch.images[0] - whole_batch(split.samples[0].file, size))
        assert difference.mean() <= limit
        np.testing.assert_allclose(batch.scale, [[batch.image_hw[0, 1] / 1600, batch.image_hw[0, 0] / 1200]])


def test_the_annotated_size_is_that_of_the_whole_picture(tmp_path: Path) -> None:
    split = split_of(tmp_path, photograph(1600, 1200), [400, 300, 800, 600])
    path = Path(split.samples[0].file)
    path.write_bytes(encoded(photograph(800, 600)))
    with pytest.raises(UserError, match="annotation says 1600x1200 px, the file has 800x600"):
        list(loader.eval_batches(split, (48, 64), 1))


def test_crops_take_a_fraction_that_all_crops_of_the_picture_allow(tmp_path: Path) -> None:
    picture = photograph(1600, 1200)
    split = split_of(tmp_path, picture, [400, 300, 640, 640])  # a window of 800 px
    whole = Image.fromarray(plainly(Path(split.samples[0].file)))
    for size, step in ((160, 1), (64, 4), (32, 8)):
        results = [next(crops.eval_crops(crops.open_crops(split, size), 1, cache)) for cache in (None, ImageCache(), ImageCache(10))]
        assert all(np.array_equal(results[0].images, result.images) for result in results)
        expected = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=(320, 220, 1120, 1020), reducing_gap=3.0))
        difference = np.abs(results[0].images[0] - images.normalise(expected, (size, size)))
        assert difference.max() == 0 if step == 1 else 0 < difference.mean() < 0.03
    small = crops.Crops(64, ("a",), ((split.samples[0].file, None, 0), (split.samples[0].file, (10.0, 10.0, 100.0, 100.0), 0)))
    (batch,) = crops.eval_crops(small, 2)
    expected = np.asarray(whole.resize((64, 64), Image.Resampling.BILINEAR, box=(200, 0, 1400, 1200), reducing_gap=3.0))
    np.testing.assert_array_equal(batch.images[0], images.normalise(expected, (64, 64)))
