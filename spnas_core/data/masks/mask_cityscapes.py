"""Cityscapes as it is unpacked: leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and gtFine/SPLIT/CITY/NAME_gtFine_labelTrainIds.png.

The values are the train ids of the 19 categories that its benchmark scores; 255 is ignored. The package itself has labelIds alone, of 34
categories; csCreateTrainIdLabelImgs of cityscapesScripts writes the others (https://github.com/mcordts/cityscapesScripts).
"""

import posixpath

from spnas_core.data.findings import found
from spnas_core.data.masks.mask_layout import MaskLayout, RawMasks, pair_masks
from spnas_core.data.split_names import usual_name
from spnas_core.data.tree import FileTree
from spnas_core.settings.reading import Reading

TRAIN_NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky"),
    *("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
_IMAGES, _MASKS = "leftimg8bit", "gtfine"
_IMAGE, _MASK, _IDS = "_leftimg8bit.png", "_gtfine_labeltrainids.png", "_gtfine_labelids.png"


def open_cityscapes(tree: FileTree, reading: Reading) -> MaskLayout | None:
    """Read a data set in this layout; None where there are no such folders."""
    del reading  # the folders say all
    images = _by_scene(tree, _IMAGES, _IMAGE)
    masks, numbered = _by_scene(tree, _MASKS, _MASK), _by_scene(tree, _MASKS, _IDS)
    if not images or not (masks or numbered):
        return None
    splits = dict.fromkeys(scene.split("/")[0] for scene in images)
    return MaskLayout("Cityscapes", tree.url, TRAIN_NAMES, tuple(_split(tree, split, images, masks, numbered) for split in splits))


def _by_scene(tree: FileTree, folder: str, ending: str) -> dict[str, list[str]]:
    """Paths by SPLIT/CITY/NAME of the files below a folder that have an ending."""
    scenes: dict[str, list[str]] = {}
    for name in tree.pictures:
        parts = name.split("/")
        lower = [part.lower() for part in parts[:-1]]
        if folder in lower and name.lower().endswith(ending) and len(inner := parts[lower.index(folder) + 1 :]) > 1:
            scenes.setdefault(posixpath.join(*inner)[: -len(ending)], []).append(name)
    return scenes


def _split(
    tree: FileTree, split: str, images: dict[str, list[str]], masks: dict[str, list[str]], numbered: dict[str, list[str]]
) -> RawMasks:
    own, drawn, bare = ({key: names for key, names in some.items() if key.startswith(f"{split}/")} for some in (images, masks, numbered))
    raw = pair_masks(tree, split, own, drawn)
    lacking = [names[0] for key, names in bare.items() if key not in drawn]
    if not lacking or (usual_name(split) == "test" and not drawn):
        return raw
    rest = tuple(finding for finding in raw.findings if finding.kind not in ("no-masks", "missing-mask"))
    return RawMasks(split, raw.pairs, (*rest, *found("train-ids", split, lacking)))
