"""COCO's shapes drawn as masks: polygons and RLE, the small over the large; what no shape covers is the background.

The categories are those of train, by ascending id; a background is appended where none is called so. Crowds are drawn as all others.
Polygons are filled by pycocotools.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from pycocotools import mask as rle

from spnas_core.data import coco_raw
from spnas_core.data.coco import CocoFile
from spnas_core.data.entries import fault
from spnas_core.data.findings import Finding, found
from spnas_core.data.image_facts import header_sizes
from spnas_core.data.images import Pixels
from spnas_core.data.listings import Listings
from spnas_core.data.masks.mask_layout import MaskLayout, MaskPair, RawMasks, judge_names, nothing_paired
from spnas_core.data.opening import PictureRules, picture_rules
from spnas_core.data.raw_split import ImageFile, RawSplit
from spnas_core.data.samples import match_categories
from spnas_core.job import canonical_json
from spnas_core.settings.reading import Reading

BACKGROUND = "background"
_Shape = tuple[int, Any]  # category, and polygons or an RLE


@dataclass(frozen=True, eq=False)
class DrawnMask:
    """Mask that is drawn of shapes when it is asked for."""

    place: str
    hw: tuple[int, int]
    background: int
    shapes: tuple[_Shape, ...]
    file: ImageFile | None = None

    def identity(self) -> str:
        """Sha256 (hex) of the shapes."""
        return hashlib.sha256(canonical_json([self.hw, self.background, self.shapes]).encode()).hexdigest()

    def values(self, rules: PictureRules) -> Pixels:
        """Values (h, w)."""
        del rules  # of files
        mask = np.full(self.hw, self.background, np.uint8)
        areas = [(number, _area(shape, self.hw)) for number, shape in self.shapes]
        for number, inside in sorted(areas, key=lambda one: -int(one[1].sum())):  # of equal ones the later over the earlier
            mask[inside] = number
        return mask


def open_mask_coco(url: str, listings: Listings, root: str, found_files: Mapping[str, CocoFile], reading: Reading) -> MaskLayout:
    """Read the annotation files `found_files` of the data set at `root`."""
    sizes = partial(header_sizes, rules=picture_rules(reading))
    raws = [coco_raw.read_raw(listings, root, file, reading, sizes) for file in found_files.values()]
    first = next((raw for raw in raws if raw.split.startswith("train")), raws[0])
    names = [str(kind["name"]) for kind in sorted(_sound(first, "categories"), key=lambda kind: int(kind["id"]))]
    names += [BACKGROUND] if BACKGROUND not in names else []
    known, findings = judge_names(dict(enumerate(names)), "no categories")
    return MaskLayout("COCO", url, known, tuple(_split(raw, known) for raw in raws), tuple(findings))


def _split(raw: RawSplit, names: Sequence[str]) -> RawMasks:
    findings = list(raw.findings)
    kinds, images = _sound(raw, "categories"), _sound(raw, "images")
    matches = match_categories([kind["name"] for kind in kinds], names)
    numbers = {kind["id"]: match for kind, match in zip(kinds, matches, strict=True)}
    findings += found("other-names", raw.split, [kind["name"] for kind, match in zip(kinds, matches, strict=True) if match is None])
    size_of = {image["id"]: (image["height"], image["width"]) for image in images}
    shapes = _shapes(raw, numbers, size_of, findings)
    background = names.index(BACKGROUND) if BACKGROUND in names else 0
    pairs = []
    for image in images:
        if file := raw.files.get(image["file_name"]):
            drawn = DrawnMask(f"of {file.url}", size_of[image["id"]], background, tuple(shapes.get(image["id"], ())))
            pairs.append(MaskPair(image["file_name"], file, drawn))
    findings += found("missing-image", raw.split, [name for name, file in raw.files.items() if file is None])
    findings += [] if pairs and shapes else nothing_paired(raw.split, len(images))
    return RawMasks(raw.split, tuple(sorted(pairs, key=lambda pair: pair.name)) if shapes else (), tuple(findings))


def _shapes(
    raw: RawSplit, numbers: Mapping[int, int | None], size_of: Mapping[int, tuple[int, int]], findings: list[Finding]
) -> dict[int, list[_Shape]]:
    """Shapes of each image by its id; of categories without a number they are left out."""
    shapes: dict[int, list[_Shape]] = {}
    faults, alone, homeless, undefined = [], [], [], []
    for mark in _sound(raw, "annotations"):
        text, shape = f"annotation {mark.get('id')}", mark.get("segmentation")
        if mark["image_id"] not in size_of:
            homeless.append(text)
        elif mark["category_id"] not in numbers:
            undefined.append(text)
        elif not shape:
            alone.append(text)
        elif wrong := _fault(shape, size_of[mark["image_id"]]):
            faults.append(f"{text}: {wrong}")
        elif (number := numbers[mark["category_id"]]) is not None:
            shapes.setdefault(mark["image_id"], []).append((number, shape))
    for kind, examples in (("bad-shape", faults), ("box-alone", alone), ("dangling-image", homeless), ("undefined-category", undefined)):
        findings += found(kind, raw.split, examples)
    return shapes


def _sound(raw: RawSplit, key: str) -> list[dict[str, Any]]:
    """Well-formed entries of a list of the document."""
    listed = raw.document.get(key) if isinstance(raw.document, dict) else None
    return [entry for entry in listed if not fault(entry, key)] if isinstance(listed, list) else []


def _fault(shape: Any, hw: tuple[int, int]) -> str:
    """Fault that keeps a shape from being drawn; an empty text for a sound one."""
    if isinstance(shape, dict):
        if shape.get("size") != list(hw):
            return f"expected an RLE of {list(hw)}, got {shape.get('size')}"
        counts = shape.get("counts")
        if isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in counts):
            return "" if sum(counts) == hw[0] * hw[1] else f"expected runs of {hw[0] * hw[1]} px in all, got {sum(counts)}"
        total = packed_pixels(counts) if isinstance(counts, str) else None
        return "" if total == hw[0] * hw[1] else f"expected packed runs of {hw[0] * hw[1]} px in all, got {total}"
    good = isinstance(shape, list) and all(isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0 for one in shape)
    if not good or not all(isinstance(value, int | float) and abs(value) < 1e6 for one in shape for value in one):
        return "expected polygons of at least three points [x, y, ...]"
    return ""


def packed_pixels(text: str) -> int | None:
    """Sum of the runs that a compressed RLE says; None for a text that is none.

    A run is written in groups of five bits, the lowest first, as characters from "0" on whose sixth bit says that more follow; from the
    fourth on it is the difference to the run before the last (maskApi.c of pycocotools, which trusts it).
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
            if runs[-1] < 0:
                return None
    return sum(runs) if not shift and runs else None


def _area(shape: Any, hw: tuple[int, int]) -> Any:
    """Pixels (h, w) inside of a shape."""
    if isinstance(shape, dict) and isinstance(shape["counts"], str):
        return rle.decode({"size": list(hw), "counts": shape["counts"].encode()}).astype(bool)
    coded = rle.frPyObjects(shape, *hw)
    return rle.decode(rle.merge(coded) if isinstance(coded, list) else coded).astype(bool)
