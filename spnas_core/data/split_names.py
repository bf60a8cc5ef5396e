"""Names of splits: what a data set calls them, and what they are called here (train, val, test)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spnas_core.errors import UserError

SPLITS = ("train", "val", "test")
UNSPLIT = "all"  # the one split of a data set that is not split
_OTHERS = {
    "train": ("training", "trainset", "trn"),
    "val": ("valid", "validation", "validate", "valset", "dev", "eval", "minival"),
    "test": ("testing", "testset", "tst"),
}
_SPLIT_OF = {name: split for split, others in _OTHERS.items() for name in (split, *others)}


def usual_name(name: str) -> str:
    """Name of a split here: train of ``Training``, ``train2017``, ``autosplit_train`` or ``train_v2``; others stay as they are."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    known = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    return known.pop() if len(known) == 1 else name


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of splits here: train, val and test first, the others by name."""
    return tuple(sorted(names, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)))


def name_splits(found: Sequence[str], chosen: Mapping[Any, str], where: str) -> dict[str, str]:
    """Name here of each split that a data set has under the names `found`, in the order train, val, test, others.

    The only split is the whole, if it is called neither. `chosen` has names of the data set by names here, as a user has set them. Of
    several splits with one usual name the one that is called so has it, and the others keep their own. UserError for a chosen name that is
    not found, and for several of train or val of which none is called so. One that is called so and not chosen is left out.
    """
    if len(found) == 1 and not chosen and usual_name(found[0]) not in SPLITS:
        return {found[0]: UNSPLIT}
    for split, name in chosen.items():
        if name not in found:
            raise UserError(f"{where}: expected a split {name!r}, which is to be {split}, got {', '.join(found) or 'none'}")
    names = {name: split for split, name in chosen.items()}
    wanted: dict[str, list[str]] = {}
    for name in found:
        if name not in names and usual_name(name) not in chosen:
            wanted.setdefault(usual_name(name), []).append(name)
    for split, some in wanted.items():
        if len(some) > 1 and split not in some and split != "test":  # a run does without it
            text = f"{', '.join(sorted(some))}; choose one: --set data.splits.{split}={sorted(some)[0]}"
            raise UserError(f"{where}: expected one split to be {split}, got {text}")
        names |= {name: split if name == split or len(some) == 1 else name for name in some}
    names |= {name: name for name in found if name not in names and name not in chosen}
    own = {split: name for name, split in names.items()}
    return {own[split]: split for split in in_order(own)}
