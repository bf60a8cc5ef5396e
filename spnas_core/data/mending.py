"""Mending of COCO documents: what is wrong and can be meant in one way only is put right, and told.

    numbers in quotes; ids that are texts or 1.0, are missing or used again; sizes that are missing (measured); corners in the wrong order;
    boxes that are missing where a polygon is there; flags as texts; root categories, which have no box and stand above others

What could be meant in several ways stays as it is, and is an error of `annotations.py`.
"""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from spnas_core.data.columns import LARGEST_ID
from spnas_core.data.entries import fault
from spnas_core.data.findings import Finding, found
from spnas_core.data.meanings import box_of_polygons, choose_numbers, number_of_text, whole_number

Measure = Callable[[Sequence[str]], Mapping[str, tuple[int, int] | None]]  # width and height of images by file name, px
Entry = dict[str, Any]
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1}


def mend_document(document: Any, split: str, measure: Measure) -> tuple[Any, list[Finding]]:
    """Copy of a parsed annotation file with all mended that can be, and a finding for each kind of what was; other values stay."""
    if isinstance(document, dict) and "annotations" not in document:  # as of a test split that others score
        document = {**document, "annotations": []}
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in ("images", "categories", "annotations")):
        return document, []
    mender = _Mender()
    images = [dict(entry) if isinstance(entry, dict) else entry for entry in document["images"]]
    kinds = [dict(entry) if isinstance(entry, dict) else entry for entry in document["categories"]]
    marks = [dict(entry) if isinstance(entry, dict) else entry for entry in document["annotations"]]
    mender.ids(images, marks, "image_id")
    mender.ids(kinds, marks, "category_id")
    mender.names(images)
    images = mender.merged(mender.without_repeats(images, "file_name"), marks)
    kinds = mender.without_repeats(kinds, "name")
    mender.sizes(images, measure)
    for number, mark in enumerate(marks):
        if isinstance(mark, dict):
            mender.mark(mark, f"annotation {mark.get('id', number)}")
    mender.numbers_of_marks(marks)
    kinds = mender.without_roots(kinds, marks)
    mended = {**document, "images": images, "categories": kinds, "annotations": marks}
    return mended, [finding for kind, examples in mender.examples.items() for finding in found(kind, split, examples)]


class _Mender:
    """Mends entries in place, and keeps what it did as examples by kind of finding."""

    def __init__(self) -> None:
        self.examples: dict[str, list[str]] = {}

    def tell(self, kind: str, example: str) -> None:
        self.examples.setdefault(kind, []).append(example)

    def ids(self, entries: Iterable[Any], marks: Iterable[Any], key: str) -> None:
        """Make the ids of images or categories whole numbers, in the entries and in the annotations that name them."""
        own = [entry["id"] for entry in entries if isinstance(entry, dict) and "id" in entry]
        named = [mark[key] for mark in marks if isinstance(mark, dict) and key in mark]
        if all(type(one) is int for one in own) and all(type(one) is int for one in named):
            return
        number = choose_numbers(own)
        for holder, name in ((entries, "id"), (marks, key)):
            for entry in holder:
                if isinstance(entry, dict) and name in entry:
                    old, new = entry[name], number(entry[name])
                    if new is not None and (type(old) is not int or new != old):
                        entry[name] = new
                        self.tell("other-id", f"{name} {old!r}, read as {new}")

    def names(self, images: Iterable[Any]) -> None:
        """File names that are in a URL alone, as in LVIS: its last folder and name."""
        for image in images:
            if isinstance(image, dict) and "file_name" not in image and isinstance(image.get("coco_url"), str):
                image["file_name"] = "/".join(image["coco_url"].rsplit("/", 2)[-2:])
                self.tell("name-of-url", f"{image['coco_url']}, read as {image['file_name']}")

    def without_repeats(self, entries: Sequence[Any], name: str) -> list[Any]:
        """Entries of which those that only repeat an earlier one's id and name are left out."""
        seen: set[Any] = set()
        kept = []
        for entry in entries:
            key = (entry.get("id"), entry.get(name)) if isinstance(entry, dict) else None
            if key and type(key[0]) is int and isinstance(key[1], str):
                if key in seen:
                    self.tell("repeated-entry", f"{name} {key[1]!r}, id {key[0]}")
                    continue
                seen.add(key)
            kept.append(entry)
        return kept

    def merged(self, images: Sequence[Any], marks: Iterable[Any]) -> list[Any]:
        """Images without further entries of one file and size; their annotations go to the first entry."""
        first: dict[Any, int] = {}
        numbers: dict[int, int] = {}
        kept = []
        for image in images:
            if isinstance(image, dict) and type(image.get("id")) is int and isinstance(name := image.get("file_name"), str):
                number = first.setdefault((posixpath.normpath(name), repr(image.get("width")), repr(image.get("height"))), image["id"])
                if number != image["id"]:
                    numbers[image["id"]] = number
                    self.tell("repeated-image", f"{name}, ids {number} and {image['id']}")
                    continue
            kept.append(image)
        for mark in marks if numbers else ():
            if isinstance(mark, dict) and type(mark.get("image_id")) is int:
                mark["image_id"] = numbers.get(mark["image_id"], mark["image_id"])
        return kept

    def sizes(self, images: Iterable[Any], measure: Measure) -> None:
        """Width and height as whole numbers; of the picture where the entry has none."""
        unknown = []
        for image in images:
            if not isinstance(image, dict):
                continue
            for side in ("width", "height"):
                if side in image and type(image[side]) is not int and (value := whole_number(image[side])) is not None:
                    self.tell("quoted-number", f"{side} {image[side]!r} of {image.get('file_name')!r}")
                    image[side] = value
            if any(image.get(side) in (None, 0) for side in ("width", "height")) and not fault(
                {**image, "width": 1, "height": 1}, "images"
            ):
                unknown.append(image)
        measured = measure([image["file_name"] for image in unknown]) if unknown else {}
        for image in unknown:
            if size := measured.get(image["file_name"]):
                image["width"], image["height"] = size
                self.tell("missing-size", f"{image['file_name']}, {size[0]}x{size[1]} px by the picture")

    def mark(self, mark: Entry, name: str) -> None:
        """Flag, area and box of one annotation."""
        if type(flag := mark.get("iscrowd", 0)) is not int:
            value = 0 if flag is None else _FLAGS.get(str(flag).strip().lower()) if isinstance(flag, str | bool) else whole_number(flag)
            if value is not None:
                mark["iscrowd"] = value
                self.tell("text-flag", f"iscrowd {flag!r} of {name}, read as {value}")
        if isinstance(mark.get("area"), str):
            mark["area"] = number_of_text(mark["area"])
        box = mark.get("bbox")
        if not box and (extent := box_of_polygons(mark.get("segmentation"))):
            mark["bbox"] = extent
            self.tell("box-of-polygon", f"{name}, bbox {extent}")
        elif isinstance(box, list) and any(isinstance(value, str) for value in box):
            values = [number_of_text(value) if isinstance(value, str) else value for value in box]
            if None not in values:
                mark["bbox"] = values
                self.tell("quoted-number", f"bbox {box} of {name}")
        if not fault({**mark, "image_id": 0, "category_id": 0}, "annotations") and min(mark["bbox"][2:]) < 0:
            x, y, w, h = mark["bbox"]
            mark["bbox"] = [min(x, x + w), min(y, y + h), abs(w), abs(h)]
            self.tell("swapped-corners", f"{name}, bbox {[x, y, w, h]}")

    def numbers_of_marks(self, marks: Sequence[Any]) -> None:
        """Give all annotations new numbers where some id is missing, used again or no whole number: nothing else names them."""
        ids = [mark.get("id") for mark in marks if isinstance(mark, dict)]
        if not any(one is not None for one in ids):
            return
        good = [one for one in ids if type(one) is int and 0 <= one <= LARGEST_ID]
        again = [one for one, count in Counter(good).items() if count > 1]
        if len(good) == len(ids) and not again:
            return
        self.examples["annotation-id"] = [f"id {one}" for one in again] or ["an id that is missing, or no whole number"]
        for number, mark in enumerate((mark for mark in marks if isinstance(mark, dict)), start=1):
            mark["id"] = number

    def without_roots(self, kinds: Sequence[Any], marks: Sequence[Any]) -> list[Any]:
        """Categories without those that stand above others and have no box."""
        sound = [kind for kind in kinds if not fault(kind, "categories")]
        used = {
            mark.get("category_id") for mark in marks if isinstance(mark, dict) and not isinstance(mark.get("category_id"), list | dict)
        }
        roots = root_categories([(kind["id"], kind["name"], str(kind.get("supercategory") or "")) for kind in sound], used)
        for number, name in roots:
            self.tell("root-category", f"{name}, id {number}")
        return [kind for kind in kinds if not isinstance(kind, dict) or (kind.get("id"), kind.get("name")) not in roots]


def root_categories(kinds: Sequence[tuple[int, str, str]], used: set[Any]) -> list[tuple[int, str]]:
    """(id, name) of the categories (id, name, supercategory) that no box has, and that are supercategories of others."""
    return [
        (number, name)
        for number, name, parent in kinds
        if number not in used and parent != name and any(above == name and other != number for other, _, above in kinds)
    ]
