"""Judgements over what looks at the images have shown: their files, sizes and rotation, and pictures that are there twice.

Two files hold the same picture if their bytes are the same. They hold nearly the same if their thumbnails (16x16 grey px, mean and contrast
taken away) correlate by at least 0.98: so do a picture and its copy saved anew, resized or touched up, and neighbouring frames of a
video. Of two different photographs of one kind (blood under the same microscope) the closest pair of 364 is at 0.75.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spnas_core.data.findings import Finding, found
from spnas_core.data.images import THUMBNAIL, ImageFact
from spnas_core.data.raw_split import RawSplit

_SIMILAR = 0.98
FLAT = 2.0  # standard deviation of grey levels, of 255, under which there is nothing to compare
ROWS = 2048  # of a block of the table of correlations
SWAPS, TURNS = (5, 6, 7, 8), (2, 3, 4)  # EXIF orientations that change the size, and that do not

_Seen = Mapping[str, ImageFact | str]


def judge_images(raw: RawSplit, entries: Sequence[Mapping[str, Any]], seen: _Seen) -> list[Finding]:
    """Judge the image files of one split; `entries` are its images as annotated, `seen` the looks by URL."""
    kinds: dict[str, list[str]] = {kind: [] for kind in ("missing-image", "broken-image")}
    looks: dict[str, ImageFact] = {}
    for name, url in raw.files.items():
        look = seen[url] if url else None
        if look is None:
            kinds["missing-image"].append(name)
        elif isinstance(look, str):
            kinds["broken-image"].append(f"{name}: {look}")
        else:
            looks[name] = look
    for entry in entries:
        if look := looks.get(entry["file_name"]):
            kind, text = _judge_size(look, (entry["width"], entry["height"]))
            if kind:
                kinds.setdefault(kind, []).append(f"{entry['file_name']}: {text}")
    return [finding for kind, examples in kinds.items() for finding in found(kind, raw.split, examples)]


def _judge_size(look: ImageFact, annotated: tuple[int, int]) -> tuple[str, str]:
    """Kind of what is wrong or to be known about one image, or an empty text; and more about it."""
    text = f"annotated {annotated[0]}x{annotated[1]}, the file has {look.size[0]}x{look.size[1]} px"
    if look.size == annotated:
        square = look.size[0] == look.size[1]
        if look.orientation in TURNS or (look.orientation in SWAPS and square):
            return "unsure-rotation", f"orientation {look.orientation}, which does not show in the size"
        return ("rotated", f"orientation {look.orientation}") if look.orientation in SWAPS else ("", "")
    if look.orientation in SWAPS and look.size[::-1] == annotated:
        return "drawn-unrotated", f"{text} as shown, orientation {look.orientation}"
    return "wrong-size", text


def judge_twins(sources: Sequence[RawSplit], seen: _Seen) -> list[Finding]:
    """Find pictures that are there twice, in one split or in two; each image of the later split is counted once."""
    looks = {raw.split: _looks(raw, seen) for raw in sources}
    features = {split: _features(list(those.values())) for split, those in looks.items()}
    findings = []
    for first, second in itertools.combinations_with_replacement(looks, 2):
        apart = first != second
        same = _same(looks[first], looks[second], apart)
        names = list(looks[first]), list(looks[second])
        near = [
            f"{names[0][i]} and {names[1][j]}, correlation {value:.3f}"
            for j, (i, value) in _nearest(features[first], features[second], apart).items()
            if names[1][j] not in same
        ]
        where = f"{first} and {second}" if apart else first
        findings += found("leak" if apart else "duplicate-image", where, [f"{one} and {other}" for other, one in same.items()])
        findings += found("similar-leak" if apart else "similar-image", where, near)
    return findings


def _looks(raw: RawSplit, seen: _Seen) -> dict[str, ImageFact]:
    """Look at each image of a split by its file name; of several names of one file the first counts."""
    urls = {url: name for name, url in reversed(raw.files.items()) if url}
    return {name: look for url, name in reversed(urls.items()) if isinstance(look := seen[url], ImageFact)}


def _same(first: Mapping[str, ImageFact], second: Mapping[str, ImageFact], apart: bool) -> dict[str, str]:
    """By name in the second split, the name of the image of the first split that has the same bytes."""
    known: dict[str, str] = {}
    if apart:
        known = {look.sha256: name for name, look in reversed(list(first.items()))}
        return {name: known[look.sha256] for name, look in second.items() if look.sha256 in known}
    return {name: one for name, look in second.items() if (one := known.setdefault(look.sha256, name)) != name}


def _features(looks: Sequence[ImageFact]) -> npt.NDArray[np.float32]:
    """Thumbnails (n, 256) of mean 0 and length 1; those of flat pictures are zero."""
    grey = np.array([look.thumbnail.ravel() for look in looks], np.float32).reshape(-1, THUMBNAIL**2)
    grey -= grey.mean(axis=1, keepdims=True)
    flat = grey.std(axis=1) < FLAT
    grey /= np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), 1e-6)
    grey[flat] = 0
    return grey


def _nearest(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], apart: bool) -> dict[int, tuple[int, float]]:
    """By row of `second`, the most similar row of `first` (only rows before it, where they are one split) and their correlation."""
    if not len(first):
        return {}
    nearest: dict[int, tuple[int, float]] = {}
    for start in range(0, len(second), ROWS):
        table = second[start : start + ROWS] @ first[: None if apart else start + ROWS].T
        if not apart:
            table[np.arange(table.shape[1]) >= np.arange(start, start + len(table))[:, None]] = -1
        best = table.argmax(axis=1)
        values = table[np.arange(len(table)), best]
        nearest |= {start + int(row): (int(best[row]), float(values[row])) for row in np.flatnonzero(values >= _SIMILAR)}
    return nearest
