"""Flip and multi-scale of one training image: pure functions of the image and the generator passed in.

Boxes: float32 xyxy, px of the original image on the way in, of the network input on the way out.
"""

from typing import NamedTuple

import numpy as np

from spnas_core.data import images
from spnas_core.data.images import Floats, Ints
from spnas_core.data.samples import Sample

KEPT_AREA = 0.25  # a box that a crop cuts to less than this part of its area is left out


class Placed(NamedTuple):
    """The valid part of one network input, and its boxes."""

    pixels: images.Pixels  # (h, w, 3) with h <= H and w <= W
    boxes: Floats
    labels: Ints
    scale: tuple[float, float]  # network px per original px in x and y


def place(pixels: images.Pixels, sample: Sample, size: tuple[int, int], factor: float, flip: bool, rng: np.random.Generator) -> Placed:
    """Image at `factor` times the size that fills the input (H, W); a larger one is cut to a random window.

    `pixels` is the image at its size between epochs.
    """
    h, w = images.fitted_size(sample.height, sample.width, size, factor)
    pixels = images.resize(pixels, h, w)
    scale = (w / sample.width, h / sample.height)
    boxes = sample.boxes * np.array([*scale, *scale], np.float32)
    labels = sample.labels
    if h > size[0] or w > size[1]:
        top, left = int(rng.integers(max(0, h - size[0]) + 1)), int(rng.integers(max(0, w - size[1]) + 1))
        pixels = pixels[top : top + size[0], left : left + size[1]]
        boxes, labels = crop_boxes(boxes, labels, (left, top), pixels.shape[:2])
    if flip:
        pixels = pixels[:, ::-1]
        boxes = flip_boxes(boxes, pixels.shape[1])
    return Placed(pixels, boxes, labels, scale)


def flip_boxes(boxes: Floats, width: int) -> Floats:
    """Mirror boxes (n, 4) in an image of `width` px; its own inverse."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1, dtype=np.float32)


def crop_boxes(boxes: Floats, labels: Ints, corner: tuple[int, int], hw: tuple[int, ...]) -> tuple[Floats, Ints]:
    """Boxes inside the window of `hw` px at `corner` (left, top), relative to it; clipped, or left out where too little remains."""
    moved = boxes - np.array([*corner, *corner], np.float32)
    inside = np.clip(moved, 0, np.array([hw[1], hw[0], hw[1], hw[0]], np.float32))
    keep = (area(inside) >= KEPT_AREA * area(moved)) & (inside[:, 2:] > inside[:, :2]).all(axis=1)
    return inside[keep], labels[keep]


def keep_largest(boxes: Floats, labels: Ints, most: int) -> tuple[Floats, Ints]:
    """At most `most` boxes: the largest by area, in their order."""
    if len(boxes) <= most:
        return boxes, labels
    chosen = np.sort(np.argsort(-area(boxes), kind="stable")[:most])
    return boxes[chosen], labels[chosen]


def area(boxes: Floats) -> Floats:
    """Area of each box (n, 4) -> (n,), px squared."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), np.float32)
