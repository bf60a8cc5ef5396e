"""Roboflow's semantic masks: SPLIT/NAME.jpg and SPLIT/NAME_mask.png side by side, with the names in SPLIT/_classes.csv.

Lines of that file are a value and a name: "0, background" below "Pixel Value, Class".
"""

import posixpath

from spnas_core.data.findings import found
from spnas_core.data.masks.mask_layout import MaskLayout, by_key, judge_names, pair_masks
from spnas_core.data.split_folders import splits_by_folders
from spnas_core.data.tree import FileTree, lines_of, printable
from spnas_core.settings.reading import Reading

_MASK, _NAMES = "_mask", "_classes.csv"


def open_mask_roboflow(tree: FileTree, reading: Reading) -> MaskLayout | None:
    """Read a data set in this layout; None where no such file of names lies beside pictures."""
    del reading  # the folders and these files say all
    listed = {name: names for name in tree.ending(_NAMES) if (names := _names(tree, name))}
    places = {posixpath.dirname(name) for name in listed}
    inside = [picture for picture in tree.pictures if posixpath.dirname(picture) in places]
    if not inside:
        return None
    order = sorted(listed, key=lambda name: ("train" not in name.lower(), name))
    names = listed[order[0]]
    other = [f"{printable(name)} and {printable(order[0])}" for name in order if listed[name] != names]
    sources = []
    for split, some in splits_by_folders(inside).items():
        masks = {key.removesuffix(_MASK): paths for key, paths in by_key(some, "").items() if key.endswith(_MASK)}
        pictures = {key: paths for key, paths in by_key(some, "").items() if not key.endswith(_MASK)}
        sources.append(pair_masks(tree, split, pictures, masks))
    known, findings = judge_names(names, order[0])
    return MaskLayout("Roboflow", tree.url, known, tuple(sources), (*findings, *found("unlike-names", "data", other)))


def _names(tree: FileTree, name: str) -> dict[int, str]:
    """Names by value; nothing of a file of another meaning."""
    head, *lines = lines_of(tree.text(name)) or [""]
    pairs = [[part.strip() for part in line.split(",", 1)] for line in lines]
    if not head.lower().replace(" ", "").startswith("pixelvalue"):
        return {}
    return {int(pair[0]): pair[1] for pair in pairs if len(pair) == 2 and pair[0].isdecimal() and pair[1]}
