"""Batches of a detection split: decoded, resized, flipped and normalised by threads, a few batches ahead of the training.

Shapes: B images, M boxes (padded), (H, W) network input. Boxes are float32 xyxy in px of the network input; label 0 is padding.
Order, flips and scales are a pure function of (seed, epoch, position in the epoch): a training that goes on at step n sees the
batches that it would have seen.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spnas_core.data import files, images
from spnas_core.data.augment import keep_largest, place
from spnas_core.data.coco import Sample, Split
from spnas_core.data.pipeline import BatchPlan, ImageCache, stream
from spnas_core.settings.training import Recipe

_log = logging.getLogger("spnas_core")

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Size = tuple[int, int]
ALL = slice(None)


class Batch(NamedTuple):
    """Padded arrays of B images."""

    images: Floats  # (B, 3, H, W) normalised, zeros beyond the valid part
    image_hw: Floats  # (B, 2) valid height and width, px of the network input; (H, W) for a padding image
    boxes: Floats  # (B, M, 4); M = 0 in evaluation
    labels: Ints  # (B, M)
    ids: npt.NDArray[np.int64]  # (B,) image ids, -1 = padding image
    scale: Floats  # (B, 2) network px per original px in x and y


def steps_per_epoch(samples: int, batch: int) -> int:
    """Full batches of an epoch; one at least (a split smaller than a batch is gone through again)."""
    return max(1, samples // batch)


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

    def plans() -> Iterator[BatchPlan[Batch]]:
        for first in range(start_step * recipe.batch, len(order), recipe.batch):
            rows = range(recipe.batch)[share]
            batch = empty_batch(len(rows), size, max_boxes)
            calls = [_train_call(batch, place, first + row) for place, row in enumerate(rows)]
            yield batch, calls

    def _train_call(batch: Batch, row: int, position: int) -> Callable[[], None]:
        sample = split.samples[order[position]]
        rng = np.random.default_rng((seed, epoch, 1, position))
        return lambda: _fill_train(batch, row, sample, size, recipe, rng, cache)

    return stream(plans(), threads)


def eval_batches(
    split: Split, size: Size, batch: int, cache: ImageCache | None = None, threads: int = 2, share: slice = ALL
) -> Iterator[Batch]:
    """Every image once, in the order of the split, the last batch filled up with padding images (id -1); of the batches only `share`."""

    def plans() -> Iterator[BatchPlan[Batch]]:
        for first in range(0, len(split.samples), batch)[share]:
            arrays = empty_batch(batch, size, 0)
            yield arrays, [_eval_call(arrays, row, sample) for row, sample in enumerate(split.samples[first : first + batch])]

    def _eval_call(arrays: Batch, row: int, sample: Sample) -> Callable[[], None]:
        return lambda: _fill_eval(arrays, row, sample, size, cache)

    return stream(plans(), threads)


def empty_batch(batch: int, size: Size, max_boxes: int) -> Batch:
    """Make a batch of padding images without boxes."""
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


def _stored(sample: Sample, size: Size, factor: float, cache: ImageCache | None) -> images.Pixels:
    """Get the image resized to fill `size` times `factor`, without padding, from the cache; or decode, check and keep it."""
    h, w = images.fitted_size(sample.height, sample.width, size, factor)
    key = (sample.file, h, w)
    kept = cache.get(key) if cache else None
    if kept is None:
        pixels = images.decode_image(files.local_file(sample.file), sample.file)
        images.check_size((pixels.shape[1], pixels.shape[0]), (sample.width, sample.height), sample.file)
        kept = images.resize(pixels, h, w)
        if cache:
            cache.put(key, kept)
    return kept


def _fill_train(
    batch: Batch, row: int, sample: Sample, size: Size, recipe: Recipe, rng: np.random.Generator, cache: ImageCache | None
) -> None:
    scales = recipe.scales or (1.0,)
    pixels = _stored(sample, size, max(1.0, *scales), cache)
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


def _fill_eval(batch: Batch, row: int, sample: Sample, size: Size, cache: ImageCache | None) -> None:
    fill_row(batch, row, _stored(sample, size, 1.0, cache), (sample.height, sample.width), sample.image_id)


def _tell_of_crowded(split: Split, max_boxes: int, cache: ImageCache | None) -> None:
    crowded = sum(len(sample.boxes) > max_boxes for sample in split.samples)
    text = f"{crowded} images of split {split.name!r} have more than max_boxes = {max_boxes} boxes; the largest are kept"
    if crowded and (cache is None or text not in cache.told):
        _log.warning(text)
        if cache is not None:
            cache.told.add(text)
