"""Pascal VOC, read as COCO documents.

    DATA/Annotations/NAME.xml    DATA/JPEGImages/NAME.jpg    DATA/ImageSets/Main/{train,val,test,trainval}.txt

Pixels count from 1 and a box has its last pixel inside (VOC2012 development kit, section 4.3), so xmin 1, xmax 500 spans an image of
500 px: [0, 500]. Where any corner of the data set is at 0, all of it was counted from 0, and corners are taken as they are.
Objects marked `difficult` become crowds. http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from spnas_core.data import files
from spnas_core.data.findings import Finding, found
from spnas_core.data.images import SUFFIXES
from spnas_core.data.raw_split import ImageFile, ImageSizes, Layout, RawSplit, marked

FOLDERS = ("Annotations", "JPEGImages", "ImageSets")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Page:
    """One XML file: (name, corners, difficult) of each object, and the faults of its text."""

    size: tuple[int, int] | None
    file_name: str
    objects: tuple[tuple[str, tuple[float, ...], bool], ...]
    malformed: tuple[str, ...] = ()


def open_voc(system: Any, root: str, sizes: ImageSizes) -> Layout | None:
    """Read a data set in this layout; None where there are no XML files."""
    folder = files.join_path(root, "Annotations")
    entries = files.list_folder(system, folder)
    stems = sorted(name.removesuffix(".xml") for name, entry in entries.items() if name.endswith(".xml") and entry["type"] == "file")
    if not stems:
        return None
    with ThreadPoolExecutor(16, thread_name_prefix="spnas-read") as pool:
        read = pool.map(lambda stem: read_page(files.read_file(system, f"{folder}/{stem}.xml"), f"{stem}.xml"), stems)
        pages = dict(zip(stems, read, strict=True))
    pictures = files.list_folder(system, files.join_path(root, "JPEGImages"))
    by_stem = {posixpath.splitext(name)[0]: name for name in sorted(pictures) if name.lower().endswith(SUFFIXES)}
    corners = [corners for page in pages.values() for _, corners, _ in page.objects]
    first = 0 if any(min(box[:2]) == 0 for box in corners) else 1
    kinds = {name: number for number, name in enumerate(sorted({name for page in pages.values() for name, _, _ in page.objects}), 1)}
    splits = dict(_splits(system, root)) or {"train": stems}
    located = {name: ImageFile(files.url_of(system, entry["name"]), int(entry.get("size") or 0)) for name, entry in pictures.items()}
    sources = tuple(_source(split, names, pages, by_stem, located, kinds, first, sizes) for split, names in splits.items())
    listed = {stem for names in splits.values() for stem in names}
    beside = [name for stem, name in by_stem.items() if stem not in listed]
    findings = found("unlisted-image", "data", beside)
    if not first:
        findings.append(Finding("from-zero", "data", len(pages), "some corner is at 0"))
    return Layout("Pascal VOC", files.url_of(system, root).rstrip("/"), sources, tuple(findings))


def read_page(content: bytes, name: str) -> Page:
    """Content of one XML file; `malformed` names the parts that cannot be read."""
    try:
        top = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return Page(None, "", (), (f"{name}: expected XML, got: {error}",))
    objects, malformed = [], []
    for number, element in enumerate(top.iter("object"), start=1):
        label = (element.findtext("name") or "").strip()
        try:
            corners = tuple(float(element.findtext(f"bndbox/{corner}") or "nothing") for corner in CORNERS)
        except ValueError:
            corners = ()
        if label and corners and all(abs(value) < 1e9 for value in corners):
            objects.append((label, corners, (element.findtext("difficult") or "0").strip() == "1"))
        else:
            malformed.append(f"{name}: object {number} ({label or 'no name'}): expected a name and numbers as {', '.join(CORNERS)}")
    width, height = (_whole(top.findtext(f"size/{side}")) for side in ("width", "height"))
    size = (width, height) if width and height else None
    return Page(size, (top.findtext("filename") or "").strip(), tuple(objects), tuple(malformed))


def _splits(system: Any, root: str) -> Iterator[tuple[str, list[str]]]:
    folder = files.join_path(root, "ImageSets", "Main")
    lists = files.list_folder(system, folder)
    usual = ("train", "val", "test") if "train.txt" in lists else ("trainval", "val", "test")
    for split in usual:
        if f"{split}.txt" in lists:
            lines = files.read_file(system, f"{folder}/{split}.txt").decode(errors="replace").splitlines()
            yield split.replace("trainval", "train"), [line.split()[0] for line in lines if line.strip()]


def _source(
    split: str,
    stems: list[str],
    pages: dict[str, Page],
    by_stem: dict[str, str],
    located: dict[str, ImageFile],
    kinds: dict[str, int],
    first: int,
    sizes: ImageSizes,
) -> RawSplit:
    entries: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    listed: dict[str, ImageFile | None] = {}
    malformed: list[str] = []
    difficult: list[str] = []
    half_read = set()
    rows = []
    for image_id, stem in enumerate(stems, start=1):
        page = pages.get(stem, Page(None, "", ()))
        picture = by_stem.get(stem) or page.file_name or f"{stem}.jpg"  # a renamed set keeps the old names inside
        rows.append((image_id, page, f"JPEGImages/{posixpath.basename(picture)}", located.get(picture)))
    measured = sizes(file.url for _, page, _, file in rows if file and not page.size)
    for image_id, page, name, file in rows:
        listed[name] = file
        malformed += page.malformed
        half_read |= {name} if page.malformed else set()
        size = page.size or (measured[file.url] if file else None)
        if size is None:
            continue
        entries.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        for label, (x1, y1, x2, y2), hard in page.objects:
            box = (x1 - first, y1 - first, x2 - x1 + first, y2 - y1 + first)
            marks.append(marked(len(marks) + 1, image_id, kinds[label], box, hard))
            difficult += [f"{label} in {name}"] if hard else []
    findings = found("malformed", split, malformed) + found("difficult", split, difficult)
    findings += found("missing-label", split, [f"Annotations/{stem}.xml" for stem in stems if stem not in pages])
    categories = [{"id": number, "name": name} for name, number in kinds.items()]
    return RawSplit(
        split, {"images": entries, "annotations": marks, "categories": categories}, listed, tuple(findings), frozenset(half_read)
    )


def _whole(text: str | None) -> int:
    return int(text) if text and text.strip().isdecimal() else 0
