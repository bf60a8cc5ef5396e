"""Batches of a segmentation split: decoded, resized, cut, flipped and normalised by threads, a few batches ahead of the training.

Shapes: B images, (H, W) network input, K categories. An image keeps its aspect ratio and lies at the top left; beyond it the image is zero
after normalisation and the mask 255, ignored. Images are resized bilinearly, masks to the nearest pixel. As in `loader.py`, the order,
scales, cuts and flips are a pure function of (seed, epoch, position in the epoch).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from spnas_core.cost import Size
from spnas_core.data import files, images
from spnas_core.data.images import Floats, Ints, Pixels
from spnas_core.data.loader import ALL, epoch_order
from spnas_core.data.masks.decoding import IGNORED
from spnas_core.data.masks.mask_samples import MaskSample, MaskSplit
from spnas_core.data.pipeline import ImageCache, fill_batches
from spnas_core.errors import UserError
from spnas_core.settings.training import Recipe


class MaskBatch(NamedTuple):
    """Padded arrays of B images."""

    images: Floats  # (B, 3, H, W) normalised, zeros beyond the valid part
    image_hw: Floats  # (B, 2) valid height and width, px of the network input; (H, W) for a padding image
    masks: Ints  # (B, H, W) categories, 255 = ignored and beyond the valid part; (B, 0, 0) in evaluation
    ids: npt.NDArray[np.int64]  # (B,) places of the images in their split, -1 = padding image
    own_hw: npt.NDArray[np.int64]  # (B, 2) height and width of the images themselves, px; (1, 1) for a padding image


def mask_train_batches(
    split: MaskSplit,
    size: Size,
    recipe: Recipe,
    seed: int,
    epoch: int,
    start_step: int = 0,
    cache: ImageCache | None = None,
    threads: int = 2,
    share: slice = ALL,
) -> Iterator[MaskBatch]:
    """Full batches of one epoch from `start_step` on, shuffled, with the flips and scales of `recipe`; of each only the rows `share`."""
    order = epoch_order(len(split.samples), recipe.batch, seed, epoch)

    def begin(first: int) -> tuple[MaskBatch, dict[int, int]]:
        positions = range(first, first + recipe.batch)[share]
        return empty_mask_batch(len(positions), size, size), dict(enumerate(positions))

    def fill(batch: MaskBatch, row: int, position: int) -> None:
        rng = np.random.default_rng((seed, epoch, 1, position))
        _fill_masked(batch, row, split.samples[order[position]], size, recipe, rng, cache)

    return fill_batches(range(start_step * recipe.batch, len(order), recipe.batch), begin, fill, threads)


def mask_eval_batches(
    split: MaskSplit, size: Size, batch: int, cache: ImageCache | None = None, threads: int = 2, share: slice = ALL
) -> Iterator[MaskBatch]:
    """Every image once, in the order of the split, without masks, which count at the images' own sizes (`MaskSample.mask`).

    The last batch is filled up with padding images (id -1); of the batches only `share`.
    """

    def begin(first: int) -> tuple[MaskBatch, dict[int, MaskSample]]:
        return empty_mask_batch(batch, size, (0, 0)), dict(enumerate(split.samples[first : first + batch]))

    def fill(arrays: MaskBatch, row: int, sample: MaskSample) -> None:
        pixels, own = _kept_image(sample, size, 1.0, cache)
        _fill_image(arrays, row, pixels, own, sample.image_id)

    return fill_batches(range(0, len(split.samples), batch)[share], begin, fill, threads)


def empty_mask_batch(batch: int, size: Size, mask_size: Size) -> MaskBatch:
    """Batch of padding images whose masks are ignored."""
    return MaskBatch(
        images=np.zeros((batch, 3, *size), np.float32),
        image_hw=np.full((batch, 2), size, np.float32),
        masks=np.full((batch, *mask_size), IGNORED, np.int32),
        ids=np.full(batch, -1, np.int64),
        own_hw=np.ones((batch, 2), np.int64),
    )


def restore_prediction(scores: Floats, image_hw: Floats, size: Size, own_hw: tuple[int, int]) -> Pixels:
    """Category with the highest score of each pixel of an image itself, (h, w), of scores (K, H', W') of the network input.

    The scores may have any stride, H / H'; their valid part, that of `image_hw` px of the input `size`, is resized bilinearly to `own_hw`,
    one category after the other. Of equal scores the first category counts.
    """
    height, width = scores.shape[1:]
    box = (0.0, 0.0, float(image_hw[1]) * width / size[1], float(image_hw[0]) * height / size[0])
    best = np.full(own_hw, -np.inf, np.float32)
    chosen = np.zeros(own_hw, np.uint8)
    for number, plane in enumerate(scores):
        picture = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        values = np.asarray(picture.resize((own_hw[1], own_hw[0]), Image.Resampling.BILINEAR, box))
        better = values > best
        best[better] = values[better]
        chosen[better] = number
    return chosen


def resize_mask(mask: Pixels, height: int, width: int) -> Pixels:
    """Value of the nearest pixel: (h, w) -> (height, width)."""
    picture = Image.fromarray(mask)
    return mask if picture.size == (width, height) else np.asarray(picture.resize((width, height), Image.Resampling.NEAREST))


def _fill_image(batch: MaskBatch, row: int, pixels: Pixels, own: Size, number: int) -> None:
    h, w = pixels.shape[:2]
    images.normalise(pixels, (h, w), batch.images[row])
    batch.image_hw[row] = h, w
    batch.ids[row] = number
    batch.own_hw[row] = own


def _fill_masked(
    batch: MaskBatch, row: int, sample: MaskSample, size: Size, recipe: Recipe, rng: np.random.Generator, cache: ImageCache | None
) -> None:
    scales = recipe.scales or (1.0,)
    most = max(1.0, *scales)
    pixels, own = _kept_image(sample, size, most, cache)
    mask = _kept(cache, (sample.file, sample.source.place, size, most), lambda: _fitted_mask(sample, own, size, most))
    factor = scales[rng.integers(len(scales))]
    pixels, mask = place_masked(pixels, mask, images.fitted_size(*own, size, factor), size, recipe.flip and rng.random() < 0.5, rng)
    _fill_image(batch, row, pixels, own, sample.image_id)
    batch.masks[row, : mask.shape[0], : mask.shape[1]] = mask


def place_masked(pixels: Pixels, mask: Pixels, hw: Size, size: Size, flip: bool, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Image and mask at `hw` px; cut to a random window of the input (H, W) where that is larger, and perhaps mirrored."""
    pixels, mask = images.resize(pixels, *hw), resize_mask(mask, *hw)
    if hw[0] > size[0] or hw[1] > size[1]:
        top, left = int(rng.integers(max(0, hw[0] - size[0]) + 1)), int(rng.integers(max(0, hw[1] - size[1]) + 1))
        window = slice(top, top + size[0]), slice(left, left + size[1])
        pixels, mask = pixels[window], mask[window]
    return (pixels[:, ::-1], mask[:, ::-1]) if flip else (pixels, mask)


def _kept_image(sample: MaskSample, size: Size, factor: float, cache: ImageCache | None) -> tuple[Pixels, Size]:
    """Image resized to fill `size` times `factor`, without padding, and its own height and width: of the cache, or decoded and kept."""
    keys = (sample.file, size, factor), (sample.file, "height and width")
    pixels, side = (cache.get(keys[0]), cache.get(keys[1])) if cache else (None, None)
    if pixels is not None and side is not None:
        height, width = side.view(np.uint32).tolist()
        return pixels, (height, width)

    def ratio(width: int, height: int) -> float:
        h, w = images.fitted_size(height, width, size, factor)
        return min(width / w, height / h)

    picture, step = images.decode_reduced(files.local_file(sample.file), ratio, sample.file, sample.rules)
    own = picture.height * step, picture.width * step
    pixels = images.resize(picture, *images.fitted_size(*own, size, factor))
    if cache:
        cache.put(keys[1], np.array(own, np.uint32).view(np.uint8))
        cache.put(keys[0], pixels)
    return pixels, own


def _fitted_mask(sample: MaskSample, own: Size, size: Size, factor: float) -> Pixels:
    mask = sample.mask()
    if mask.shape != own:
        h, w = mask.shape
        text = f"expected {own[1]}x{own[0]} px as its image {sample.file} after EXIF rotation, got {w}x{h}"
        raise UserError(f"mask {sample.source.place}: {text}")
    return resize_mask(mask, *images.fitted_size(*own, size, factor))


def _kept(cache: ImageCache | None, key: object, make: Callable[[], Pixels]) -> Pixels:
    kept = cache.get(key) if cache else None
    if kept is None:
        kept = make()
        if cache:
            cache.put(key, kept)
    return kept
