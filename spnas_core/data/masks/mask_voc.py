"""Pascal VOC with masks: JPEGImages/NAME.jpg, SegmentationClass/NAME.png, and lists of names in ImageSets/Segmentation/SPLIT.txt.

Value 255 is the void between objects, ignored; the names are the 21 of VOC, unless labelmap.txt (CVAT, Datumaro) has others: lines of
NAME:R,G,B:PARTS:ACTIONS in the order of their numbers; Datumaro 1.13.12 may leave colours out, and paints in those of VOC. A mask in these
colours is read by them, as these programs write it and as optimisers of files renumber its palette.
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf, section 3.2
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from functools import partial

from spnas_core.data.findings import found
from spnas_core.data.masks.mask_layout import MaskLayout, RawMasks, by_key, judge_names, pair_masks
from spnas_core.data.masks.mask_samples import StoredMask
from spnas_core.data.split_folders import splits_by_folders
from spnas_core.data.split_names import SPLITS, usual_name
from spnas_core.data.tree import FileTree, lines_of, printable
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading

VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_MASKS, _IMAGES = "segmentationclass", "jpegimages"
_Colour = tuple[int, int, int]


def open_mask_voc(tree: FileTree, reading: Reading) -> MaskLayout | None:
    """Read a data set in this layout; None where there is no such folder. UserError for several of them."""
    folders = sorted(folder for folder in tree.folders if posixpath.basename(folder).lower() == _MASKS)
    if not folders:
        return None
    top = posixpath.dirname(folders[0])
    if len(folders) > 1:
        raise UserError(f"{tree.url}: expected one data set, got {', '.join(map(printable, folders))}: name one of them")
    named, colours, malformed = _label_map(tree, top)
    images = next((folder for folder in tree.folders if folder.lower() == posixpath.join(top, _IMAGES).lower()), top)
    inside = (name for name in tree.folders.get(images, ()) if not name.startswith(f"{folders[0]}/"))
    pictures = by_key(inside, images)
    masks = by_key(tree.folders[folders[0]], folders[0])
    stored = partial(StoredMask, colours=colours)
    lists = _lists(tree, top, set(reading.splits.values()))
    sources = [_listed(tree, split, lines, pictures, masks, stored) for split, lines in lists.items()]
    if not lists:
        splits = splits_by_folders([name for key in masks for name in pictures.get(key, ())])
        sources = [_listed(tree, split, list(by_key(some, images)), pictures, masks, stored) for split, some in splits.items()]
    known, findings = judge_names(named, "labelmap.txt")
    findings += found("malformed", "data", malformed)
    used = {key for lines in lists.values() for key in lines}
    unlisted = [printable(names[0]) for key, names in masks.items() if lists and key not in used]
    return MaskLayout("Pascal VOC", tree.url, known, tuple(sources), (*findings, *found("lone-mask", "data", unlisted)))


def voc_colour(number: int) -> tuple[int, int, int]:
    """Colour of a category: its bits, dealt out to red, green and blue from the highest bit down (VOCcolormap.m of the development kit)."""
    red, green, blue = (sum((number >> (3 * place + channel) & 1) << (7 - place) for place in range(8)) for channel in range(3))
    return red, green, blue


def _listed(
    tree: FileTree,
    split: str,
    lines: Sequence[str],
    pictures: Mapping[str, Sequence[str]],
    masks: Mapping[str, Sequence[str]],
    stored: "partial[StoredMask]",
) -> RawMasks:
    """Pair what a list names; a picture that it names and that is not there is told."""
    keys = list(dict.fromkeys(lines))
    some = {key: pictures[key] for key in keys if key in pictures}
    raw = pair_masks(tree, split, some, {key: masks[key] for key in keys if key in masks}, stored)
    lost = [printable(key) for key in keys if key not in pictures and key not in masks]
    repeated = [printable(key) for number, key in enumerate(lines) if key in lines[:number]] if len(keys) < len(lines) else []
    extra = [*found("list-of-images", split, lost), *found("repeated-line", split, repeated)]
    return RawMasks(split, raw.pairs, (*raw.findings, *extra))


def _lists(tree: FileTree, top: str, chosen: set[str]) -> dict[str, list[str]]:
    """Lines of the lists of the splits; trainval is train where there is no list of that.

    Of other names those count that are `chosen`, or share no line with train, val and test.
    """
    folder = posixpath.join(top, "imagesets", "segmentation")
    texts = [name for name in tree.ending(".txt") if posixpath.dirname(name).lower() == folder.lower()]
    lists = {posixpath.splitext(posixpath.basename(name))[0]: [_key(line) for line in lines_of(tree.text(name))] for name in texts}
    if "trainval" in lists and not {"train", "val"} & lists.keys() and not chosen:
        lists["train"] = lists.pop("trainval")
    usual = {split: lines for split, lines in lists.items() if usual_name(split) in SPLITS or split in chosen}
    return lists if not usual else {split: lines for split, lines in lists.items() if split in usual or _apart(lines, usual)}


def _apart(lines: Sequence[str], others: Mapping[str, Sequence[str]]) -> bool:
    return not any(set(lines) & set(other) for other in others.values())


def _key(line: str) -> str:
    """Name that a line means: without a suffix, folders above and the quotes that Datumaro writes around blanks."""
    bare = line.strip('"').replace("\\", "/")
    return posixpath.splitext(bare)[0] if posixpath.splitext(bare)[1].lower() in (".jpg", ".jpeg", ".png") else bare


def _label_map(tree: FileTree, top: str) -> tuple[dict[int, str], dict[_Colour, int], list[str]]:
    """Names by number, the value of each colour, and what is wrong with labelmap.txt; VOC's own where there is none.

    A line without a colour has VOC's of its number. Black is the background, whatever its line says, where no other category has it.
    """
    place = tree.names.find(posixpath.join(top, "labelmap.txt"))
    lines = [line for line in lines_of(tree.text(place)) if not line.startswith("#")] if place else [f"{name}:" for name in VOC_NAMES]
    names: dict[int, str] = {}
    colours: dict[_Colour, int] = {}
    malformed = []
    for number, line in enumerate(lines):
        match = re.fullmatch(r"([^:]+):(?:(\d{1,3}),(\d{1,3}),(\d{1,3}))?(?::.*)?", line)
        if not match:
            malformed.append(f"labelmap.txt: expected NAME:R,G,B:PARTS:ACTIONS, got {printable(line)!r}")
            continue
        names[number] = match[1].strip()
        colour = (int(match[2]), int(match[3]), int(match[4])) if match[2] else voc_colour(number)
        if colours.setdefault(colour, number) != number:
            malformed.append(f"labelmap.txt: expected a colour of its own for {names[number]!r}, got that of {names[colours[colour]]!r}")
    background = next((number for number, name in names.items() if name.lower() == "background"), None)
    if background is not None:
        colours.setdefault((0, 0, 0), background)
    colours.setdefault(voc_colour(255), 255)
    return names, colours, malformed
