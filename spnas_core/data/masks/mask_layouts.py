"""The layout of a segmentation data set, recognised by its folders."""

from collections.abc import Callable
from dataclasses import replace

from spnas_core.data import files
from spnas_core.data.masks.mask_folders import open_mask_folders
from spnas_core.data.masks.mask_layout import MaskLayout, RawMasks
from spnas_core.data.split_names import name_splits
from spnas_core.data.tree import FileTree, list_tree, printable
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading

_READERS: tuple[Callable[[FileTree], MaskLayout | None], ...] = (open_mask_folders,)
KNOWN = "images/SPLIT and masks/SPLIT with a YAML file of names"


def open_mask_layout(url: str, reading: Reading | None = None) -> MaskLayout:
    """Read all splits of the segmentation data set at `url`, by their names here; UserError where it is in no known layout."""
    reading = reading or Reading()
    layout = find_mask_layout(url)
    if layout is None:
        system, root = files.open_url(url)
        names = ", ".join(map(printable, sorted(files.list_folder(system, root))[:8])) or "nothing"
        raise UserError(f"{files.url_of(system, root).rstrip('/')}: expected images with masks, as {KNOWN}; there is {names}")
    return _named(layout, reading)


def find_mask_layout(url: str) -> MaskLayout | None:
    """Read the data set at `url` by the first layout of mask files that fits, its splits by their own names; None where none does."""
    system, root = files.open_url(url)
    tree = list_tree(system, root.rstrip("/") or "/")
    return next((layout for read in _READERS if (layout := read(tree))), None)


def _named(layout: MaskLayout, reading: Reading) -> MaskLayout:
    names = name_splits([raw.split for raw in layout.sources], reading.splits, layout.url)
    by_own = {raw.split: raw for raw in layout.sources}
    return replace(layout, sources=tuple(_renamed(by_own[own], split) for own, split in names.items()))


def _renamed(raw: RawMasks, split: str) -> RawMasks:
    findings = tuple(replace(one, where=split) if one.where == raw.split else one for one in raw.findings)
    return RawMasks(split, raw.pairs, findings, raw.split)
