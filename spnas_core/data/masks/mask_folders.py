"""Images and masks in two folders that mirror each other, read from any place.

    images/SPLIT/NAME.jpg    masks/SPLIT/NAME.png    data.yaml: names, masks_dir, and places of the splits

The folder of the masks is what `masks_dir` names in place of `images` (https://docs.ultralytics.com/datasets/semantic), else one of the
usual names. Splits are those that the YAML file names, else folders that are named for splits.

ADE20K's own folders, images/training and annotations/training beside objectInfo150.txt, have 0 for what is ignored, and category k - 1
under value k (https://github.com/CSAILVision/sceneparsing).
"""

import posixpath
from collections.abc import Mapping, Sequence
from functools import partial

from spnas_core.data.findings import found
from spnas_core.data.masks.mask_layout import MaskLayout, RawMasks, by_key, judge_names, pair_masks
from spnas_core.data.masks.mask_samples import StoredMask
from spnas_core.data.split_folders import splits_by_folders
from spnas_core.data.tree import FileTree, lines_of, printable
from spnas_core.data.yolo_described import CLASS_FILES, Described, class_lines, named_classes, read_described
from spnas_core.data.yolo_folders import Listed, named_splits
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading

IMAGE_FOLDERS = ("images", "img_dir", "image", "imgs")
MASK_FOLDERS = ("masks", "ann_dir", "mask", "annotations", "labels", "segmentation", "segmentations")
ADE_NAMES = "objectInfo150.txt"


def open_mask_folders(tree: FileTree, reading: Reading) -> MaskLayout | None:
    """Read a data set in this layout; None where no folder of masks is beside one of images."""
    del reading  # the folders and the YAML file say all
    described, broken = read_described(tree)
    given = next((str(one.document["masks_dir"]).strip("/") for one in described if one.document.get("masks_dir")), None)
    places = _places(tree, given)
    if not places and given:
        raise UserError(
            f"{tree.url}: expected folders images and {printable(given)} side by side, as masks_dir of the YAML file says, got none"
        )
    if not places:
        return None
    ade = next((name for name in tree.ending(ADE_NAMES.lower())), None)
    names = _ade_names(tree, ade) if ade else _names(tree, described)
    if ade:
        described = []
    listed, absent, _, _ = named_splits(tree, described)
    inside = [picture for images in places for picture in tree.folders[images]]
    splits = listed or {split: Listed(some) for split, some in splits_by_folders(inside).items()}
    sources = tuple(_split(tree, split, some, places, bool(ade)) for split, some in splits.items())
    known, findings = judge_names(names, f"no {'names in ' + described[0].name if described else 'data.yaml with names'}")
    findings += [*found("malformed", "data", broken), *found("list-of-images", "data", absent)]
    return MaskLayout("ADE20K" if ade else "masks", tree.url, known, sources, tuple(findings))


def _places(tree: FileTree, given: str | None) -> dict[str, str]:
    """Folder of masks by folder of images, for each pair of them."""
    places: dict[str, str] = {}
    for folder in tree.folders:
        above, word = posixpath.split(folder)
        if word.lower() in IMAGE_FOLDERS:
            beside = (posixpath.normpath(posixpath.join(above, name)) for name in ([given] if given else MASK_FOLDERS))
            masks = next((name for name in beside if name in tree.folders and name != folder), None)
            places |= {folder: masks} if masks else {}
    return places


def _split(tree: FileTree, split: str, listed: Listed, places: Mapping[str, str], zero_ignored: bool) -> RawMasks:
    """Pair the pictures of a split with the masks at the same paths; masks beside them without a picture belong to it too."""
    pictures: dict[str, list[str]] = {}
    masks: dict[str, list[str]] = {}
    for images, folder in places.items():
        own = by_key((name for name in listed.pictures if name.startswith(f"{images}/")), images)
        every = by_key(tree.folders[folder], folder)
        others = by_key(tree.folders[images], images).keys()
        near = {posixpath.dirname(key) for key in own}
        pictures |= {f"{images}/{key}": names for key, names in own.items()}
        some = {key: names for key, names in every.items() if key in own or (key not in others and posixpath.dirname(key) in near)}
        masks |= {f"{images}/{key}": names for key, names in some.items()}
    raw = pair_masks(tree, split, pictures, masks, partial(StoredMask, zero_ignored=zero_ignored))
    extra = [*found("list-of-images", split, list(map(printable, listed.missing))), *found("repeated-line", split, listed.repeated)]
    strange = [name for name in listed.pictures if not any(name.startswith(f"{images}/") for images in places)]
    extra += found("missing-mask", split, list(map(printable, strange)))
    return RawMasks(split, raw.pairs, (*raw.findings, *extra))


def _names(tree: FileTree, described: Sequence[Described]) -> dict[int, str]:
    """Names of the categories by number, of the YAML file or of a list of names in the data set."""
    place = next((name for name in CLASS_FILES if name in tree.entries), None)
    lines = class_lines(tree, place) if place else []
    return named_classes(tree, described) or {number: line for number, line in enumerate(lines) if line}


def _ade_names(tree: FileTree, place: str) -> dict[int, str]:
    """Names of the 150 categories, the first of each line's synonyms; lines are Idx, Ratio, Train, Val, Stuff, Name between tabs."""
    rows = [line.split("\t") for line in lines_of(tree.text(place))]
    return {int(row[0]) - 1: row[-1].split(",")[0].strip() for row in rows if len(row) > 1 and row[0].strip().isdigit()}
