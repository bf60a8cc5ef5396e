"""Batches of a detection split: decoded, resized, flipped and normalised by threads, a few batches ahead of the training.

Shapes: B images, M boxes (padded), (H, W) network input. Boxes are float32 xyxy in px of the network input; label 0 is padding.
Order, flips and scales are a pure function of (seed, epoch, position in the epoch): a training that continues at step n gets the
batches of an uninterrupted one.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spnas_core.cost import Size
from spnas_core.data import files, images
from spnas_core.data.augment import keep_largest, place
from spnas_core.data.images import Floats, Ints
from spnas_core.data.opening import PictureRules
from spnas_core.data.pipeline import ImageCache, fill_batches
from spnas_core.data.samples import Sample, Split
from spnas_core.settings.training import Recipe

_log = logging.getLogger("spnas_core")

ALL = slice(None)
PIXELS = 1 << 19  # of an evaluation batch
BY_OPERATORS = 24  # evaluation batches of a net that are computed without a graph on the CPU: to compile it takes about as long


class Batch(NamedTuple):
    """Padded arrays of B images."""

    images: Floats  # (B, 3, H, W) normalised, zeros beyond the valid part
    image_hw: Floats  # (B, 2) valid height and width, px of the network input; (H, W) for a padding image
    boxes: Floats  # (B, M, 4); M = 0 in evaluation
    labels: Ints  # (B, M)
    ids: npt.NDArray[np.int64]  # (B,) image ids, -1 = padding image
    scale: Floats  # (B, 2) network px per original px in x and y


def steps_per_epoch(samples: int, batch: int) -> int:
    """Full batches of an epoch; one at least (a split smaller than a batch repeats)."""
    return max(1, samples // batch)


def batch_size(image_size: Size) -> int:
    """Images per evaluation batch: about half a million pixels in all, at most 8 images."""
    return max(1, min(8, PIXELS // (image_size[0] * image_size[1])))


def epoch_order(samples: int, batch: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Index of the sample at each position of an epoch: (steps * batch,)."""
    order: npt.NDArray[np.int64] = np.random.default_rng((seed, epoch, 0)).permutation(samples)
    positions = np.arange(steps_per_epoch(samples, batch) * batch)
    return np.asarray(order[positions % samples])


def train_batches(
    split: Split,
    size: Size,
    recipe: Recipe,
    max_boxes: int,
    seed: int,
    epoch: int,
    start_step: int = 0,
    cache: ImageCache | None = None,
    threads: int = 2,
    share: slice = ALL,
) -> Iterator[Batch]:
    """Full batches of one epoch from `start_step` on, shuffled, with the flips and scales of `recipe`; of each only the rows `share`.

    Of an image with more than `max_boxes` boxes the largest are kept; the number of such images is logged (once per `cache`).
    """
    _tell_of_crowded(split, max_boxes, cache)
    order = epoch_order(len(split.samples), recipe.batch, seed, epoch)

    def begin(first: int) -> tuple[Batch, dict[int, int]]:
        positions = range(first, first + recipe.batch)[share]
        return empty_batch(len(positions), size, max_boxes), dict(enumerate(positions))

    def fill(batch: Batch, row: int, position: int) -> None:
        rng = np.random.default_rng((seed, epoch, 1, position))
        _fill_train(batch, row, split.samples[order[position]], size, recipe, rng, cache, split.rules)

    return fill_batches(range(start_step * recipe.batch, len(order), recipe.batch), begin, fill, threads)


def eval_batches(
    split: Split,
    size: Size,
    batch: int,
    cache: ImageCache | None = None,
    threads: int = 2,
    share: slice = ALL,
) -> Iterator[Batch]:
    """Every image once, in the order of the split, the last batch filled up with padding images (id -1); of the batches only `share`."""

    def begin(first: int) -> tuple[Batch, dict[int, Sample]]:
        return empty_batch(batch, size, 0), dict(enumerate(split.samples[first : first + batch]))

    def fill(arrays: Batch, row: int, sample: Sample) -> None:
        fill_row(arrays, row, _stored(sample, size, 1.0, cache, split.rules), (sample.height, sample.width), sample.image_id)

    return fill_batches(range(0, len(split.samples), batch)[share], begin, fill, threads)


def empty_batch(batch: int, size: Size, max_boxes: int) -> Batch:
    """Batch of padding images without boxes."""
    return Batch(
        images=np.zeros((batch, 3, *size), np.float32),
        image_hw=np.full((batch, 2), size, np.float32),
        boxes=np.zeros((batch, max_boxes, 4), np.float32),
        labels=np.zeros((batch, max_boxes), np.int32),
        ids=np.full(batch, -1, np.int64),
        scale=np.ones((batch, 2), np.float32),
    )


def fill_row(batch: Batch, row: int, pixels: images.Pixels, original: Size, number: int) -> None:
    """Put image `number`, of height and width `original`, px, into a row of a batch; `pixels` (h, w, 3) are resized already."""
    h, w = pixels.shape[:2]
    images.normalise(pixels, (h, w), batch.images[row])
    batch.image_hw[row] = h, w
    batch.ids[row] = number
    batch.scale[row] = w / original[1], h / original[0]


def to_results(
    ids: npt.NDArray[np.int64],
    boxes: Floats,
    scores: Floats,
    labels: Ints,
    scale: Floats,
    categories: Sequence[tuple[int, str]],
) -> list[dict[str, Any]]:
    """COCO results of padded detections: (B,), (B, D, 4) xyxy network px, (B, D), (B, D) with 0 = padding, (B, 2).

    Boxes become xywh in px of the original image, rounded to a thousandth; labels become category ids.
    """
    image, slot = np.nonzero((labels > 0) & (ids[:, None] >= 0))
    xyxy = boxes[image, slot].astype(np.float64) / np.tile(scale.astype(np.float64), 2)[image]
    xywh = np.round(np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1), 3)
    category = np.array([0, *(number for number, _ in categories)], np.int64)[labels[image, slot]]
    rows = zip(ids[image].tolist(), category.tolist(), xywh.tolist(), scores[image, slot].astype(np.float64).tolist(), strict=True)
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]


def _stored(sample: Sample, size: Size, factor: float, cache: ImageCache | None, rules: PictureRules) -> images.Pixels:
    """Image resized to fill `size` times `factor`, without padding: from the cache, or decoded, checked and kept there."""
    h, w = images.fitted_size(sample.height, sample.width, size, factor)
    key = (sample.file, h, w)
    kept = cache.get(key) if cache else None
    if kept is None:
        path = files.local_file(sample.file)
        picture, step = images.decode_reduced(path, lambda width, height: min(width / w, height / h), sample.file, rules)
        images.check_size((picture.width * step, picture.height * step), (sample.width, sample.height), sample.file)
        kept = images.resize(picture, h, w)
        if cache:
            cache.put(key, kept)
    return kept


def _fill_train(
    batch: Batch,
    row: int,
    sample: Sample,
    size: Size,
    recipe: Recipe,
    rng: np.random.Generator,
    cache: ImageCache | None,
    rules: PictureRules,
) -> None:
    scales = recipe.scales or (1.0,)
    pixels = _stored(sample, size, max(1.0, *scales), cache, rules)
    factor = scales[rng.integers(len(scales))]
    placed = place(pixels, sample, size, factor, recipe.flip and rng.random() < 0.5, rng)
    boxes, labels = keep_largest(placed.boxes, placed.labels, batch.labels.shape[1])
    h, w = placed.pixels.shape[:2]
    images.normalise(placed.pixels, (h, w), batch.images[row])
    batch.image_hw[row] = h, w
    batch.boxes[row, : len(boxes)] = boxes
    batch.labels[row, : len(labels)] = labels
    batch.ids[row] = sample.image_id
    batch.scale[row] = placed.scale


def _tell_of_crowded(split: Split, max_boxes: int, cache: ImageCache | None) -> None:
    crowded = int((split.box_counts > max_boxes).sum())
    text = f"{crowded} images of split {split.name!r} have more than max_boxes = {max_boxes} boxes; the largest are kept"
    if crowded and (cache is None or text not in cache.told):
        _log.warning(text)
        if cache is not None:
            cache.told.add(text)
