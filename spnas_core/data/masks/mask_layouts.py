"""The layout of a segmentation data set, recognised by its folders; COCO's shapes count where there are no files of masks.

    Cityscapes  leftImg8bit and gtFine; `mask_cityscapes.py`
    Pascal VOC  SegmentationClass beside JPEGImages; `mask_voc.py`
    folders     images and masks (or another usual name), ADE20K's own among them; `mask_folders.py`
    COCO        shapes of annotation files; `mask_coco.py`

The first that fits is read.
"""

from collections.abc import Callable
from dataclasses import replace

from spnas_core.data import files
from spnas_core.data.coco import find_coco_root
from spnas_core.data.listings import Listings
from spnas_core.data.masks.mask_cityscapes import open_cityscapes
from spnas_core.data.masks.mask_coco import open_mask_coco
from spnas_core.data.masks.mask_folders import open_mask_folders
from spnas_core.data.masks.mask_layout import MaskLayout, RawMasks
from spnas_core.data.masks.mask_voc import open_mask_voc
from spnas_core.data.split_names import name_splits
from spnas_core.data.tree import FileTree, list_tree, printable
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading

_READERS: tuple[Callable[[FileTree, Reading], MaskLayout | None], ...] = (open_cityscapes, open_mask_voc, open_mask_folders)
_KNOWN = "images/SPLIT and masks/SPLIT with a YAML file of names, or in the layout of Pascal VOC, Cityscapes, ADE20K or COCO"


def open_mask_layout(url: str, reading: Reading | None = None) -> MaskLayout:
    """Read all splits of the segmentation data set at `url`, by their names here; UserError where it is in no known layout."""
    reading = reading or Reading()
    layout = find_mask_layout(url, reading)
    system, root = files.open_url(url)
    if layout is None:
        listings = Listings(system)
        inner, annotated = find_coco_root(listings, root, reading.annotations)
        layout = open_mask_coco(files.url_of(system, root).rstrip("/"), listings, inner, annotated, reading) if annotated else None
    if layout is None:
        names = ", ".join(map(printable, sorted(files.list_folder(system, root))[:8])) or "nothing"
        raise UserError(f"{files.url_of(system, root).rstrip('/')}: expected images with masks, as {_KNOWN}; there is {names}")
    return _named(layout, reading)


def find_mask_layout(url: str, reading: Reading) -> MaskLayout | None:
    """Read the data set at `url` by the first layout of mask files that fits, its splits by their own names; None where none does."""
    system, root = files.open_url(url)
    tree = list_tree(system, root.rstrip("/") or "/")
    return next((layout for read in _READERS if (layout := read(tree, reading))), None)


def _named(layout: MaskLayout, reading: Reading) -> MaskLayout:
    names = name_splits([raw.split for raw in layout.sources], reading.splits, layout.url)
    by_own = {raw.split: raw for raw in layout.sources}
    return replace(layout, sources=tuple(_renamed(by_own[own], split) for own, split in names.items()))


def _renamed(raw: RawMasks, split: str) -> RawMasks:
    findings = tuple(replace(one, where=split) if one.where == raw.split else one for one in raw.findings)
    return RawMasks(split, raw.pairs, findings, raw.split)
