"""Splits that the folders of pictures are named for."""

import posixpath
from collections import defaultdict
from collections.abc import Sequence

from spnas_core.data.split_names import SPLITS, UNSPLIT, usual_name
from spnas_core.data.tree import printable


def splits_by_folders(pictures: Sequence[str]) -> dict[str, list[str]]:
    """Pictures of each split: of the folders beside one that is named for a split, by the folder's own name; else all are one split.

    Pictures that lie in none of these folders are left out; where that were most of them, the folders are no splits. Where test alone is
    named, and all others lie beside its folder, these are not split yet.
    """
    folder_of = {picture: posixpath.dirname(picture) for picture in pictures}
    parts_of = {folder: folder.split("/") if folder else [] for folder in set(folder_of.values())}
    levels = {folder: next((n for n, part in enumerate(parts) if usual_name(part) in SPLITS), None) for folder, parts in parts_of.items()}
    level = min((n for n in levels.values() if n is not None), default=None)
    if level is None:
        return {UNSPLIT: list(pictures)} if pictures else {}
    above = {tuple(parts_of[folder][:level]) for folder, n in levels.items() if n == level}
    split_of = {
        folder: printable(parts[level]) for folder, parts in parts_of.items() if len(parts) > level and tuple(parts[:level]) in above
    }
    splits: dict[str, list[str]] = defaultdict(list)
    for picture, folder in folder_of.items():
        if folder in split_of:
            splits[split_of[folder]].append(picture)
    rest = [picture for picture, folder in folder_of.items() if folder not in split_of]
    beside = all(tuple(parts_of[folder_of[picture]]) in above for picture in rest)
    if rest and beside and {usual_name(name) for name in splits} & set(SPLITS) == {"test"} and UNSPLIT not in splits:
        return {UNSPLIT: rest, **splits}
    if 2 * sum(map(len, splits.values())) < len(pictures):
        return {UNSPLIT: list(pictures)}
    return dict(splits)
