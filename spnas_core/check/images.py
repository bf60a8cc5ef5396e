"""Findings about image files: missing and broken ones, sizes and rotation, and pictures that occur twice.

Two files hold the same picture if their bytes are the same. They hold nearly the same if their thumbnails (16x16 grey px, mean and contrast
taken away) correlate by at least 0.98: so do a picture and its copy saved anew, resized or touched up, and neighbouring frames of a
video. Of two different photographs of one kind (blood under the same microscope) the closest pair of 364 is at 0.75.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spnas_core.data.findings import Finding, found
from spnas_core.data.images import THUMBNAIL, Floats, ImageFact
from spnas_core.data.raw_split import RawSplit

_SIMILAR = 0.98
FLAT = 2.0  # standard deviation of grey levels, of 255, under which there is nothing to compare
ROWS = 2048  # of a block of the table of correlations
SWAPS, TURNS = (5, 6, 7, 8), (2, 3, 4)  # EXIF orientations that change the size, and that do not

_Seen = Mapping[str, ImageFact | str]


def judge_images(raw: RawSplit, entries: Sequence[Mapping[str, Any]], seen: _Seen) -> list[Finding]:
    """All findings about the image files of one split; `entries` are its images as annotated, `seen` the facts by URL."""
    kinds: dict[str, list[str]] = {kind: [] for kind in ("missing-image", "broken-image")}
    facts: dict[str, ImageFact] = {}
    for name, file in raw.files.items():
        fact = seen[file.url] if file else None
        if fact is None:
            kinds["missing-image"].append(name)
        elif isinstance(fact, str):
            kinds["broken-image"].append(f"{name}: {fact}")
        else:
            facts[name] = fact
    for entry in entries:
        if fact := facts.get(entry["file_name"]):
            kind, text = _judge_size(fact, (entry["width"], entry["height"]))
            if kind:
                kinds.setdefault(kind, []).append(f"{entry['file_name']}: {text}")
    return [finding for kind, examples in kinds.items() for finding in found(kind, raw.split, examples)]


def _judge_size(fact: ImageFact, annotated: tuple[int, int]) -> tuple[str, str]:
    """Kind of the finding about one image (empty: none) and its details."""
    text = f"annotated {annotated[0]}x{annotated[1]}, the file has {fact.size[0]}x{fact.size[1]} px"
    if fact.size == annotated:
        square = fact.size[0] == fact.size[1]
        if fact.orientation in TURNS or (fact.orientation in SWAPS and square):
            return "unsure-rotation", f"orientation {fact.orientation}, which does not show in the size"
        return ("rotated", f"orientation {fact.orientation}") if fact.orientation in SWAPS else ("", "")
    if fact.orientation in SWAPS and fact.size[::-1] == annotated:
        return "drawn-unrotated", f"{text} as shown, orientation {fact.orientation}"
    return "wrong-size", text


def judge_twins(sources: Sequence[RawSplit], seen: _Seen) -> list[Finding]:
    """All findings about pictures that occur twice, in one split or in two; each image of the later split counts once."""
    facts = {raw.split: _facts(raw, seen) for raw in sources}
    features = {split: _features(list(those.values())) for split, those in facts.items()}
    findings = []
    for first, second in itertools.combinations_with_replacement(facts, 2):
        apart = first != second
        same = _same(facts[first], facts[second], apart)
        names = list(facts[first]), list(facts[second])
        near = [
            f"{names[0][i]} and {names[1][j]}, correlation {value:.3f}"
            for j, (i, value) in _nearest(features[first], features[second], apart).items()
            if names[1][j] not in same
        ]
        where = f"{first} and {second}" if apart else first
        findings += found("leak" if apart else "duplicate-image", where, [f"{earlier} and {later}" for later, earlier in same.items()])
        findings += found("similar-leak" if apart else "similar-image", where, near)
    return findings


def _facts(raw: RawSplit, seen: _Seen) -> dict[str, ImageFact]:
    """Facts of the images of a split by file name; of several names of one file the first counts."""
    urls = {file.url: name for name, file in reversed(raw.files.items()) if file}
    return {name: fact for url, name in reversed(urls.items()) if isinstance(fact := seen[url], ImageFact)}


def _same(first: Mapping[str, ImageFact], second: Mapping[str, ImageFact], apart: bool) -> dict[str, str]:
    """By name in the second split, the name of the image of the first split that has the same bytes."""
    known: dict[str, str] = {}
    if apart:
        known = {fact.sha256: name for name, fact in reversed(list(first.items()))}
        return {name: known[fact.sha256] for name, fact in second.items() if fact.sha256 in known}
    return {name: twin for name, fact in second.items() if (twin := known.setdefault(fact.sha256, name)) != name}


def _features(facts: Sequence[ImageFact]) -> Floats:
    """Thumbnails (n, 256) of mean 0 and length 1; those of flat pictures are zero."""
    grey = np.array([fact.thumbnail.ravel() for fact in facts], np.float32).reshape(-1, THUMBNAIL**2)
    grey -= grey.mean(axis=1, keepdims=True)
    flat = grey.std(axis=1) < FLAT
    grey /= np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), 1e-6)
    grey[flat] = 0
    return grey


def _nearest(first: Floats, second: Floats, apart: bool) -> dict[int, tuple[int, float]]:
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
