"""Classification data for reignite: crops of a detection split, or a folder per class (ImageNet layout).

Shapes: B images of S x S px, K classes; labels count from 0. Determinism as in `loader`.
"""

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from spnas_core.data import files, images
from spnas_core.data.images import SUFFIXES, Floats, Ints
from spnas_core.data.loader import ALL, epoch_order
from spnas_core.data.opening import PLAIN_RULES, PictureRules
from spnas_core.data.pipeline import ImageCache, fill_batches
from spnas_core.data.samples import Split
from spnas_core.errors import UserError
from spnas_core.store.storage import sha256_file

CONTEXT = 1.25  # side of a crop in longer sides of its box
MIN_SIDE = 4.0  # px

Window = tuple[float, float, float, float]  # x1, y1, x2, y2, px of the original image
Wanted = Callable[[int], Iterable[int]] | None  # rows of a step's batch, all of them by default


class ClassBatch(NamedTuple):
    """Images and classes."""

    images: Floats  # (B, 3, S, S) normalised
    labels: Ints  # (B,) in 0..K-1; -1 = padding image


@dataclass(frozen=True, eq=False)
class Crops:
    """A list of (file, window, label); the window None is the largest square in the middle."""

    size: int
    class_names: tuple[str, ...]
    items: tuple[tuple[str, Window | None, int], ...]
    rules: PictureRules = PLAIN_RULES

    @cached_property
    def of_file(self) -> dict[str, tuple[int, ...]]:
        """Indexes of the crops of each file."""
        crops: dict[str, list[int]] = {}
        for index, (file, _, _) in enumerate(self.items):
            crops.setdefault(file, []).append(index)
        return {file: tuple(indexes) for file, indexes in crops.items()}


def open_crops(split: Split, size: int) -> Crops:
    """Every box of a detection split, with some context around it; UserError where the split has no box."""
    items = tuple(
        (sample.file, crop_window(box, sample.width, sample.height), int(label) - 1)
        for sample in split.samples
        for box, label in zip(sample.boxes, sample.labels, strict=True)
    )
    if not items:
        raise UserError(f"split {split.name!r}: expected boxes to crop for the classifier, got none")
    return Crops(size, split.class_names, items, split.rules)


def open_class_folder(
    url: str, split: str, size: int, class_names: Sequence[str] | None = None, rules: PictureRules = PLAIN_RULES
) -> Crops:
    """Images ``URL/SPLIT/CLASS/*``; classes by name, or those of `class_names` (give those of train when opening val).

    UserError: no such folder, a class that is not in `class_names`, no images.
    """
    system, root = files.open_url(url)
    top = files.join_path(root, split)
    where = files.url_of(system, top)
    folders = sorted(name for name, entry in files.list_folder(system, top).items() if entry["type"] == "directory")
    if not folders:
        raise UserError(f"{where}: expected a folder per class, got none")
    names = tuple(class_names) if class_names is not None else tuple(folders)
    if unknown := [name for name in folders if name not in names]:
        raise UserError(f"{where}: expected the classes {', '.join(names)}; got {unknown[0]!r} too")
    items = []
    for folder in folders:
        listing = files.list_folder(system, files.join_path(top, folder))
        pictures = [e["name"] for name, e in sorted(listing.items()) if posixpath.splitext(name)[1].lower() in SUFFIXES]
        if not pictures:
            raise UserError(f"{where}/{folder}: expected images ({', '.join(SUFFIXES)}), got none")
        items += [(files.url_of(system, path), None, names.index(folder)) for path in pictures]
    return Crops(size, names, tuple(items), rules)


def count(url: str, split: str) -> int:
    """Files in the folders of classes of a split."""
    system, root = files.open_url(url)
    return len(files.files_below(system, files.join_path(root, split)))


def fingerprint_folder(url: str, full: bool = False) -> str:
    """Sha256 (hex) of the names and sizes of the images for train and val, and if `full` of their contents, wherever the folder lies."""
    system, root = files.open_url(url)

    def facts(top: str, path: str, size: int) -> list[Any]:
        return [posixpath.relpath(path, top), size, *([sha256_file(files.local_file(files.url_of(system, path)))] if full else [])]

    tops = {split: files.join_path(root, split) for split in ("train", "val")}
    parts = [
        [split, sorted(facts(top, path, size) for path, size in files.files_below(system, top).items())] for split, top in tops.items()
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def crop_window(box: Floats, width: int, height: int) -> Window:
    """Square around a box, `CONTEXT` times its longer side, at least `MIN_SIDE`; moved, then cut, to lie inside its image."""
    x1, y1, x2, y2 = map(float, box)
    side = max(MIN_SIDE, CONTEXT * max(x2 - x1, y2 - y1))
    left = min(max(0.0, (x1 + x2 - side) / 2), max(0.0, width - side))
    top = min(max(0.0, (y1 + y2 - side) / 2), max(0.0, height - side))
    return left, top, min(float(width), left + side), min(float(height), top + side)


def train_crops(
    crops: Crops,
    batch: int,
    seed: int,
    epoch: int,
    start_step: int = 0,
    cache: ImageCache | None = None,
    threads: int = 2,
    wanted: Wanted = None,
) -> Iterator[ClassBatch]:
    """Full batches of one epoch from `start_step` on, shuffled, half of the images mirrored; rows that are not `wanted` are zeros."""
    order = epoch_order(len(crops.items), batch, seed, epoch)
    flips = np.random.default_rng((seed, epoch, 2)).random(len(order)) < 0.5
    return _batches(crops, order, flips, batch, range(start_step, len(order) // batch), cache, threads, wanted)


def eval_crops(crops: Crops, batch: int, cache: ImageCache | None = None, threads: int = 2, share: slice = ALL) -> Iterator[ClassBatch]:
    """Every crop once, in order, the last batch filled up with padding images (label -1); of the batches only `share`."""
    order = np.arange(len(crops.items))
    numbers = range(-(-len(order) // batch))[share]
    return _batches(crops, order, np.zeros(len(order), bool), batch, numbers, cache, threads, None)


def draw_mixup(count: int, alpha: float, rng: np.random.Generator) -> tuple[np.float32, npt.NDArray[np.int64]]:
    """Share that each of `count` images keeps of itself, and the row (count,) of its partner in the mix."""
    return np.float32(rng.beta(alpha, alpha)), rng.permutation(count)


def mixup(pictures: Floats, onehot: Floats, alpha: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Mix each image (B, 3, S, S) and its class weights (B, K) with another of the batch, by one share ~ Beta(alpha, alpha); 0 = not.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    if alpha == 0:
        return pictures, onehot
    share, other = draw_mixup(len(pictures), alpha, rng)
    return share * pictures + (1 - share) * pictures[other], share * onehot + (1 - share) * onehot[other]


def _batches(
    crops: Crops,
    order: npt.NDArray[np.int64],
    flips: npt.NDArray[np.bool_],
    batch: int,
    numbers: range,
    cache: ImageCache | None,
    threads: int,
    wanted: Wanted,
) -> Iterator[ClassBatch]:
    def begin(number: int) -> tuple[ClassBatch, dict[int, int]]:
        arrays = ClassBatch(np.zeros((batch, 3, crops.size, crops.size), np.float32), np.full(batch, -1, np.int32))
        places = dict(enumerate(range(number * batch, min((number + 1) * batch, len(order)))))
        for row, place in places.items():
            arrays.labels[row] = crops.items[order[place]][2]
        return arrays, places if wanted is None else {int(row): places[int(row)] for row in wanted(number)}

    def fill(arrays: ClassBatch, row: int, place: int) -> None:
        pixels = _picture(crops, int(order[place]), cache)
        images.normalise(pixels[:, ::-1] if flips[place] else pixels, (crops.size, crops.size), arrays.images[row])

    return fill_batches(numbers, begin, fill, threads)


def _picture(crops: Crops, index: int, cache: ImageCache | None) -> images.Pixels:
    """One crop (S, S, 3). Where the cache has room, all crops of an image are made at once, so that it is decoded once."""
    key = ("crop", crops.size, *crops.items[index])
    kept = cache.get(key) if cache else None
    if kept is not None:
        return kept
    file, window, _ = crops.items[index]
    siblings = crops.of_file[file]

    def ratio(width: int, height: int) -> float:
        """Least of all crops of the file, so that a crop is the same whichever of them are made."""
        windows = (_inside(crops.items[sibling][1], width, height) for sibling in siblings)
        return min(min(right - left, bottom - top) for left, top, right, bottom in windows) / crops.size

    whole, step = images.decode_reduced(files.local_file(file), ratio, file, crops.rules)
    if cache and cache.has_room(len(siblings) * crops.size**2 * 3):
        for sibling in siblings:
            cache.put(("crop", crops.size, *crops.items[sibling]), _cut(whole, crops.items[sibling][1], crops.size, step))
    return _cut(whole, window, crops.size, step)


def _cut(whole: Image.Image, window: Window | None, size: int, step: int) -> images.Pixels:
    """One crop (S, S, 3); a px of `whole` is `step` px of the file, in which the window is measured."""
    left, top, right, bottom = _inside(window, whole.width * step, whole.height * step)
    box = left / step, top / step, right / step, bottom / step
    return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0))


def _inside(window: Window | None, width: int, height: int) -> Window:
    """Give back the window, or for None the largest square in the middle of an image of `width` x `height` px."""
    if window is not None:
        return window
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
