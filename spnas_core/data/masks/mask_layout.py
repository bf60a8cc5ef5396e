"""A segmentation data set as its files have it, in any layout: images paired with masks, and what is wrong about the pairing."""

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spnas_core.data.findings import Finding, found
from spnas_core.data.masks.decoding import MASK_SUFFIXES
from spnas_core.data.masks.mask_samples import MaskSource, StoredMask
from spnas_core.data.raw_split import ImageFile
from spnas_core.data.split_names import usual_name
from spnas_core.data.tree import FileTree, printable

MOST_CLASSES = 255  # numbers 0 to 254


class MaskPair(NamedTuple):
    """An image and its mask."""

    name: str
    image: ImageFile
    source: MaskSource


@dataclass(frozen=True, eq=False)
class RawMasks:
    """One split: its pairs in the order of their names, and the findings of its reading."""

    split: str
    pairs: tuple[MaskPair, ...]
    findings: tuple[Finding, ...] = ()
    found_as: str = ""  # the data set's own name of the split


@dataclass(frozen=True, eq=False)
class MaskLayout:
    """All splits of a data set, the names of its categories by number, and the findings that belong to no split."""

    name: str
    url: str
    names: tuple[str, ...]
    sources: tuple[RawMasks, ...]
    findings: tuple[Finding, ...] = ()


def pair_masks(
    tree: FileTree,
    split: str,
    pictures: Mapping[str, Sequence[str]],
    masks: Mapping[str, Sequence[str]],
    stored: Callable[[ImageFile], StoredMask] = StoredMask,
) -> RawMasks:
    """Pair the pictures of a split with masks of the same key, each a list of paths; what has no partner is told."""
    pairs: list[MaskPair] = []
    missing: list[str] = []
    several, shared = [], []
    for key, names in pictures.items():
        some = lossless(masks.get(key, ()))
        if not some:
            missing += map(printable, names)
        elif len(some) > 1:
            several.append(f"{printable(names[0])}: {', '.join(map(printable, some[:3]))}")
        else:
            pairs += [MaskPair(name, tree.image(name), stored(tree.image(some[0]))) for name in names]
            shared += [f"{printable(some[0])} of {', '.join(map(printable, names[:3]))}"] if len(names) > 1 else []
    lone = [printable(name) for key, names in masks.items() if key not in pictures for name in names]
    findings = [*found("two-masks", split, several), *found("shared-mask", split, shared), *found("lone-mask", split, lone)]
    findings += found("missing-mask", split, missing) if pairs else nothing_paired(split, len(pictures))
    return RawMasks(split, tuple(sorted(pairs, key=lambda pair: pair.name)), tuple(findings))


def nothing_paired(split: str, images: int) -> list[Finding]:
    """One finding about a split without any mask; a run does without such a test split."""
    return found("unscored-test" if usual_name(split) == "test" and images else "no-masks", split, [f"{images} images"])


def lossless(names: Iterable[str]) -> list[str]:
    """Paths of masks of one image: those in a lossless format, where there is one."""
    some = list(names)
    return [name for name in some if name.lower().endswith(MASK_SUFFIXES)] or some


def by_key(names: Iterable[str], folder: str) -> dict[str, list[str]]:
    """Paths below a folder by the rest of the path without its suffix."""
    keys: dict[str, list[str]] = {}
    for name in names:
        keys.setdefault(posixpath.splitext(posixpath.relpath(name, folder or "."))[0], []).append(name)
    return keys


def judge_names(names: Mapping[int, str], place: str) -> tuple[tuple[str, ...], list[Finding]]:
    """Names of the categories 0, 1, ... of those that a file lists by number, and what is wrong with them."""
    if not names:
        return (), found("no-names", "data", [place])
    last = max(names)
    findings = found("too-many-names", "data", [f"{names[last]}: number {last}"] if last >= MOST_CLASSES else [])
    if findings:
        return (), findings
    findings += found("name-missing", "data", [f"{number}, of 0 to {last}" for number in range(last) if number not in names])
    first: dict[str, int] = {}
    twice = [f"{name!r}: {first[name]} and {number}" for number, name in sorted(names.items()) if first.setdefault(name, number) != number]
    findings += found("name-twice", "data", twice)
    return tuple(names.get(number, "") for number in range(last + 1)), findings
