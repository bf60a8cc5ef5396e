"""Facts of the images and masks of a split, read to their ends, and what is wrong with them."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from spnas_core.data import files
from spnas_core.data.columns import Longs
from spnas_core.data.findings import Finding, found
from spnas_core.data.image_facts import REMOTE, ImageFacts, Unread
from spnas_core.data.images import ImageFact
from spnas_core.data.masks.decoding import IGNORED, MaskFact, look_at_mask
from spnas_core.data.masks.mask_layout import MaskPair
from spnas_core.data.masks.mask_samples import MaskSplit
from spnas_core.data.raw_split import ImageFile
from spnas_core.errors import UserError
from spnas_core.store.storage import cache_folder

_SWAPS, _TURNS = (5, 6, 7, 8), (2, 3, 4)  # EXIF orientations that change the size, and that do not
_SETTLED = 2.0  # s after its last change from which on a file's time tells its next one


class PairFacts(NamedTuple):
    """Facts of an image and of its mask, or what is wrong with them."""

    name: str
    image: ImageFact | Unread
    mask: MaskFact | Unread


def look_at_pairs(pairs: Sequence[MaskPair], facts: ImageFacts) -> list[PairFacts]:
    """Facts of pairs, each file read once."""
    seen = facts.at(pair.image.url for pair in pairs)
    remote = any("://" in pair.source.place for pair in pairs)
    with ThreadPoolExecutor(REMOTE if remote else facts.threads or os.cpu_count() or 1, thread_name_prefix="spnas-look") as pool:
        masks = list(pool.map(lambda pair: look_at_mask(pair.source.values, pair.source.place, facts.rules), pairs))
    return [PairFacts(pair.name, seen[pair.image.url], mask) for pair, mask in zip(pairs, masks, strict=True)]


def judge_masks(split: str, pairs: Sequence[PairFacts], classes: int) -> list[Finding]:
    """All findings about the masks of one split whose values from 0 to `classes` - 1 have names."""
    kinds: dict[str, list[str]] = {}
    for name, image, mask in pairs:
        if isinstance(mask, Unread):
            kinds.setdefault(mask.kind, []).append(f"{name}: {mask.text}")
            continue
        if isinstance(image, ImageFact) and (wrong := _judge_fit(image, mask.size)):
            kinds.setdefault(wrong[0], []).append(f"{name}: {wrong[1]}")
        if beyond := _beyond(mask.counts, classes):
            kinds.setdefault("unnamed-value", []).append(f"{name}: value {beyond[0]} on {mask.counts[beyond[0]]:,} px, of {classes} names")
        if mask.counts[IGNORED] == mask.counts.sum():
            kinds.setdefault("all-ignored", []).append(name)
    read = [pair for pair in pairs if isinstance(pair.mask, MaskFact)]
    total = sum_values(read)
    if read and not total[:IGNORED].any():
        kinds["nothing-counts"] = [f"{len(read)} masks"]
        kinds.pop("all-ignored")
    elif total[0] and total[IGNORED] and total[1:IGNORED].sum() == 0 and classes > 1:
        kinds["stretched-mask"] = [pair.name for pair in read if isinstance(pair.mask, MaskFact) and pair.mask.counts[IGNORED]]
        kinds.pop("all-ignored", None)
    return [finding for kind, examples in kinds.items() for finding in found(kind, split, examples)]


def sum_values(pairs: Iterable[PairFacts]) -> Longs:
    """How often each value occurs in all masks that can be read (256,)."""
    counts = [pair.mask.counts for pair in pairs if isinstance(pair.mask, MaskFact)]
    return np.sum(counts, axis=0, dtype=np.int64) if counts else np.zeros(256, np.int64)


def _beyond(counts: Longs, classes: int) -> list[int]:
    return [int(value) for value in np.flatnonzero(counts[:IGNORED]) if value >= classes]


def _judge_fit(image: ImageFact, size: tuple[int, int]) -> tuple[str, str] | None:
    """Kind of the finding about a mask beside its image, and its details; None where they fit."""
    text = f"the mask has {size[0]}x{size[1]} px, the image {image.size[0]}x{image.size[1]} as shown"
    turned = image.orientation in _SWAPS
    if image.size != size:
        unturned = turned and image.size[::-1] == size
        return ("mask-unturned", f"{text}, orientation {image.orientation}") if unturned else ("mask-size", text)
    if image.orientation in _TURNS or (turned and size[0] == size[1]):
        return "mask-unsure-turn", f"orientation {image.orientation}, which does not show in the size"
    return None


def verify_masks(split: MaskSplit, threads: int = 4) -> None:
    """Read every image and mask to its end, once per machine as long as they stay the same; UserError for an error of `spnas check`."""
    mark = cache_folder("verified") / f"{_identity(split)}.masks"
    if mark.exists():
        return
    pairs = [MaskPair(one.name, ImageFile(one.file, one.file_size), one.source) for one in split.samples]
    facts = look_at_pairs(pairs, ImageFacts(threads, split.rules))
    if broken := [f"image {pair.name}: {pair.image.text}" for pair in facts if isinstance(pair.image, Unread)]:
        raise UserError(broken[0] + (f" (and {len(broken) - 1} more images of split {split.name!r})" if len(broken) > 1 else ""))
    classes = split.samples[0].classes if split.samples else 0
    if errors := [finding for finding in judge_masks(split.name, facts, classes) if finding.severity == "error"]:
        raise UserError(errors[0].line)
    with contextlib.suppress(OSError):
        newest = max(
            (files.local_file(url).stat().st_mtime for one in split.samples for url in _urls(one.file, one.source.file)), default=0
        )
        if time.time() - newest > _SETTLED:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def _identity(split: MaskSplit) -> str:
    """Sha256 (hex) of what tells these images and masks from others: what the masks hold, and place, size and time of the images."""
    places = []
    for sample in split.samples:
        path = files.local_file(sample.file)
        facts = path.stat() if path.exists() else None
        places.append([str(path), facts and [facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns]])
    rules = [split.rules.most, split.rules.bits]
    return hashlib.sha256(json.dumps([split.digest, places, rules]).encode()).hexdigest()


def _urls(image: str, mask: ImageFile | None) -> list[str]:
    return [image, *([mask.url] if mask else [])]
