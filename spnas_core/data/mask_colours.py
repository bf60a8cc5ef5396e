"""Colours of classes, and masks laid over images. Source: the colour map of Pascal VOC's development kit (VOCcode/VOClabelcolormap.m)."""

import numpy as np

from spnas_core.data.images import Pixels

SHARE = 0.55  # of a mask's colour in an overlay


def class_colours(count: int) -> list[tuple[int, int, int]]:
    """RGB colour of each of `count` classes: the bits of its number, three by three, from the highest bit of the channels on."""
    found = []
    for number in range(count):
        channels = [0, 0, 0]
        for place in range(8):
            for channel in range(3):
                channels[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
        found.append((channels[0], channels[1], channels[2]))
    return found


def palette(count: int) -> list[int]:
    """Palette of a PNG of classes: 256 colours, those beyond `count` classes grey."""
    colours = [*class_colours(count), *((224, 224, 224),) * (256 - count)]
    return [channel for colour in colours for channel in colour]


def overlay(pixels: Pixels, classes: Pixels, count: int) -> Pixels:
    """Lay classes (h, w) over an image (h, w, 3) of that size; where a class is none of `count`, the image stays."""
    table = np.array([*class_colours(count), (0, 0, 0)], np.float32)
    known = classes < count
    colours = table[np.where(known, classes, count)]
    share = np.where(known, np.float32(SHARE), np.float32(0))[..., None]
    found: Pixels = np.rint(pixels * (1 - share) + colours * share).astype(np.uint8)
    return found
