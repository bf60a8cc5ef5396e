"""The layout of a segmentation data set, recognised by its folders; COCO's shapes count where there are no files of masks.

    Cityscapes  leftImg8bit and gtFine; `mask_cityscapes.py`
    Pascal VOC  SegmentationClass beside JPEGImages; `mask_voc.py`
    Roboflow    NAME_mask.png beside NAME.jpg, and _classes.csv; `mask_roboflow.py`
    folders     images and masks (or another usual name), ADE20K's own among them; `mask_folders.py`
    COCO        shapes of annotation files; `mask_coco.py`

The first that fits is read.
"""

from collections.abc import Callable
from dataclasses import replace

from spnas_core.data import files
from spnas_core.data.coco import find_coco_root
from spnas_core.data.findings import found
from spnas_core.data.listings import Listings
from spnas_core.data.masks.mask_cityscapes import open_cityscapes
from spnas_core.data.masks.mask_coco import open_mask_coco
from spnas_core.data.masks.mask_folders import open_mask_folders
from spnas_core.data.masks.mask_layout import MaskLayout, RawMasks
from spnas_core.data.masks.mask_roboflow import open_mask_roboflow
from spnas_core.data.masks.mask_voc import open_mask_voc
from spnas_core.data.matching import stem_of
from spnas_core.data.split_file import SplitFile, find_split_file
from spnas_core.data.split_names import name_splits
from spnas_core.data.tree import FileTree, list_tree, printable
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading

_READERS: tuple[Callable[[FileTree, Reading], MaskLayout | None], ...] = (
    open_cityscapes,
    open_mask_voc,
    open_mask_roboflow,
    open_mask_folders,
)
_KNOWN = "images/SPLIT and masks/SPLIT with a YAML file of names, or in the layout of Pascal VOC, Cityscapes, ADE20K, Roboflow or COCO"


def open_mask_layout(url: str, reading: Reading | None = None, divided: bool = True) -> MaskLayout:
    """Read all splits of the segmentation data set at `url`, by their names here; `divided` by its split file, if it has one.

    UserError where it is in no known layout.
    """
    reading = reading or Reading()
    system, root = files.open_url(url)
    layout = _by_folders(list_tree(system, root.rstrip("/") or "/"), reading)
    if layout is None:
        listings = Listings(system)
        inner, annotated = find_coco_root(listings, root, reading.annotations)
        layout = open_mask_coco(files.url_of(system, root).rstrip("/"), listings, inner, annotated, reading) if annotated else None
    if layout is None:
        names = ", ".join(map(printable, sorted(files.list_folder(system, root))[:8])) or "nothing"
        raise UserError(f"{files.url_of(system, root).rstrip('/')}: expected images with masks, as {_KNOWN}; there is {names}")
    layout = _named(layout, reading)
    given = find_split_file(Listings(system), root.rstrip("/") or "/", reading.split_file) if divided else None
    return layout if given is None else _parts(layout, given)


def _by_folders(tree: FileTree, reading: Reading) -> MaskLayout | None:
    """Read a data set by the first layout of mask files that fits, its splits by their own names; None where none does."""
    return next((layout for read in _READERS if (layout := read(tree, reading))), None)


def has_masks(url: str, reading: Reading | None = None) -> bool:
    """Whether the data set at `url` has files of masks, and none of boxes: what a check takes it for that is not told."""
    reading = reading or Reading()
    system, root = files.open_url(url)
    if reading.annotations or find_coco_root(Listings(system), root, {})[1]:
        return False
    tree = list_tree(system, root.rstrip("/") or "/")
    stems = {stem_of(name).lower() for name in tree.pictures}
    boxes = any(stem_of(name).lower() in stems for name in tree.ending(".xml", ".txt", ".json"))
    return not boxes and _by_folders(tree, reading) is not None


def _parts(layout: MaskLayout, given: SplitFile) -> MaskLayout:
    """Divide the splits as a split file says; those that it does not name stay. The findings of a split go to its first part."""
    own = {raw.split: raw for raw in layout.sources}
    if gone := sorted(given.sources - own.keys()):
        raise UserError(f"{given.url}: expected splits of {layout.url}, {', '.join(own)}, got {gone[0]!r}")
    parts: list[RawMasks] = []
    for split, part in given.splits.items():
        raw = own[part.of]
        pairs = tuple(raw.pairs[row] for row in given.rows(split, [pair.name for pair in raw.pairs]))
        first = all(one.found_as != raw.found_as for one in parts)
        parts.append(RawMasks(split, pairs, raw.findings if first else (), raw.found_as))
    rest = [raw for raw in layout.sources if raw.split not in given.sources]
    return replace(layout, sources=(*parts, *rest), findings=(*layout.findings, *found("split-file", "data", [given.url])))


def _named(layout: MaskLayout, reading: Reading) -> MaskLayout:
    names = name_splits([raw.split for raw in layout.sources], reading.splits, layout.url)
    by_own = {raw.split: raw for raw in layout.sources}
    return replace(layout, sources=tuple(_renamed(by_own[own], split) for own, split in names.items()))


def _renamed(raw: RawMasks, split: str) -> RawMasks:
    findings = tuple(replace(one, where=split) if one.where == raw.split else one for one in raw.findings)
    return RawMasks(split, raw.pairs, findings, raw.split)
