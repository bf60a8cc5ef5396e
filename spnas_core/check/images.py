"""Findings about image files: missing and broken ones, sizes and rotation, and pictures that occur twice.

Two files hold the same picture if their bytes are the same. They hold nearly the same if their thumbnails (16x16 grey px, mean and contrast
taken away) correlate by at least 0.98: so do a picture and its copy saved anew, resized or touched up, and neighbouring frames of a
video. Of two different photographs of one kind (blood under the same microscope) the closest pair of 364 is at 0.75.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spnas_core.check.twins import nearest_row, similar_rows, unit_thumbnails
from spnas_core.data.findings import Finding, found
from spnas_core.data.image_facts import Unread
from spnas_core.data.images import THUMBNAIL, Floats, ImageFact
from spnas_core.data.opening import PLAIN_RULES, PictureRules
from spnas_core.data.raw_split import RawSplit

SWAPS, TURNS = (5, 6, 7, 8), (2, 3, 4)  # EXIF orientations that change the size, and that do not
STEPS = (8, 10, 12, 14, 16)  # that the setting data.bits can have

_Seen = Mapping[str, ImageFact | Unread]


def judge_images(raw: RawSplit, entries: Sequence[Mapping[str, Any]], seen: _Seen, rules: PictureRules = PLAIN_RULES) -> list[Finding]:
    """All findings about the image files of one split; `entries` are its images as annotated, `seen` the facts by URL, by these rules."""
    kinds: dict[str, list[str]] = {kind: [] for kind in ("missing-image", "broken-image")}
    facts: dict[str, ImageFact] = {}
    for name, file in raw.files.items():
        fact = seen[file.url] if file else None
        if fact is None:
            kinds["missing-image"].append(name)
        elif isinstance(fact, Unread):
            kinds.setdefault(fact.kind, []).append(f"{name}: {fact.text}")
        else:
            facts[name] = fact
    for entry in entries:
        if fact := facts.get(entry["file_name"]):
            kind, text = _judge_size(fact, (entry["width"], entry["height"]))
            if kind:
                kinds.setdefault(kind, []).append(f"{entry['file_name']}: {text}")
    findings = [finding for kind, examples in kinds.items() for finding in found(kind, raw.split, examples)]
    return findings + _judge_bits(raw.split, {name: fact.extent for name, fact in facts.items() if fact.extent}, rules.bits)


def _judge_bits(split: str, extents: Mapping[str, tuple[int, int]], bits: int) -> list[Finding]:
    """Find pictures of more than 8 bits that are nearly black, and those whose values are cut; by the lowest and highest value of each.

    Nearly black are those of a split whose values need fewer bits than the setting (8, 10, 12 or 14), and where some do use all of them,
    those of at most a sixteenth of the levels.
    """
    used = {name: highest.bit_length() for name, (_, highest) in extents.items()}
    fitting = [step for step in STEPS if step < bits]
    most = fitting[-1] if fitting and max(used.values(), default=0) <= fitting[-1] else bits - 4
    dark = {name: need for name, need in used.items() if 0 < need <= most and fitting}
    fit = next((step for step in STEPS if step >= max(dark.values(), default=0)), bits)
    more = sum(need > fit for need in used.values())
    fits = f"--set data.bits={fit} fits all" + (f" but {more} that use more" if more else "")
    texts = [f"{name}: values up to {extents[name][1]}; {fits}" for name in dark]
    cut = [
        f"{name}: values of {lowest} to {highest}, data.bits={bits} holds 0 to {2**bits - 1}"
        for name, (lowest, highest) in extents.items()
        if lowest < 0 or highest >= 2**bits
    ]
    return found("few-bits", split, texts) + found("cut-values", split, cut)


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
    features = {split: _features(those) for split, those in facts.items()}
    findings = []
    for first, second in itertools.combinations_with_replacement(facts, 2):
        apart = first != second
        where = f"{first} and {second}" if apart else first
        same = _same(facts[first], facts[second], apart)
        findings += found("leak" if apart else "duplicate-image", where, [f"{earlier} and {later}" for later, earlier in same.items()])
        findings += _judge_near(where, facts[second], features[first], features[second], apart)
    return findings


@dataclass(frozen=True, eq=False)
class _Features:
    """Thumbnails of a split, once for each content: the first name of each, its digest, and the thumbnail (n, 256)."""

    names: tuple[str, ...]
    digests: tuple[str, ...]
    grey: Floats


def _features(facts: Mapping[str, ImageFact]) -> _Features:
    firsts = {fact.sha256: name for name, fact in reversed(list(facts.items()))}
    names = tuple(reversed(firsts.values()))
    grey = np.array([facts[name].thumbnail.ravel() for name in names], np.float32).reshape(-1, THUMBNAIL**2)
    return _Features(names, tuple(reversed(firsts)), unit_thumbnails(grey))


def _judge_near(where: str, facts: Mapping[str, ImageFact], first: _Features, second: _Features, apart: bool) -> list[Finding]:
    """Find the pictures of a split, `facts`, that are nearly one of another split, or an earlier one of the same split."""
    known = set(first.digests) if apart else set()
    asked = np.array([row for row, digest in enumerate(second.digests) if digest not in known], np.int64)
    near = asked[similar_rows(first.grey, second.grey[asked], apart)]
    if not len(near):
        return []
    row = int(near[0])
    twin, value = nearest_row(first.grey if apart else first.grey[:row], second.grey[row])
    names = Counter(fact.sha256 for fact in facts.values()) if apart else Counter(second.digests)
    count = sum(names[second.digests[number]] for number in near)
    text = f"{first.names[twin]} and {second.names[row]}, correlation {value:.3f}"
    return [Finding("similar-leak" if apart else "similar-image", where, count, text)]


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
