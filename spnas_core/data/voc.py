"""Pascal VOC, read as COCO documents: XML files and pictures, wherever they lie below the place of the data set.

    DATA/Annotations/NAME.xml    DATA/JPEGImages/NAME.jpg    DATA/ImageSets/Main/{train,val,test,trainval}.txt
    DATA/annotations/...         DATA/images/...             (any names, subfolders on both sides)
    DATA/SPLIT/NAME.xml          DATA/SPLIT/NAME.jpg         (labelImg, Roboflow: side by side)

NAME.xml belongs to NAME.jpg (`pairing.py`); the name inside counts where there is no such picture, or two of them. Lists are the splits
(`voc_lists.py`), else folders that are named for splits, else all is one split.

Pixels count from 1 and a box has its last pixel inside (VOC2012 development kit, section 4.3), so xmin 1, xmax 500 spans an image of
500 px: [0, 500]. Where any corner of the data set is at 0, all of it was counted from 0, and corners are taken as they are.
Objects marked `difficult` become crowds. http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

import posixpath
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from spnas_core.data.findings import Finding, found
from spnas_core.data.matching import Names
from spnas_core.data.pages import Drawn, Sheet, as_raw_split, numbered
from spnas_core.data.pairing import distance, pair_files, without_strays
from spnas_core.data.raw_split import ImageSizes, Layout, RawSplit
from spnas_core.data.split_folders import splits_by_folders
from spnas_core.data.tree import READ_THREADS, FileTree, printable
from spnas_core.data.voc_lists import Unit, Units, split_lists
from spnas_core.data.voc_page import Page, read_page

_NO_PAGE = Page(None, "", ())


def open_voc(tree: FileTree, sizes: ImageSizes) -> Layout | None:
    """Read a data set in this layout; None where there are no XML files of it."""
    names = tree.ending(".xml")
    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="spnas-read") as pool:
        pages = dict(zip(names, pool.map(lambda name: read_page(tree.read(name), name), names), strict=True))
    hints = {name: page.file_name.replace("\\", "/") for name, page in pages.items()}
    pairs = pair_files(pages, tree.pictures, hints)
    pages = {name: page for name, page in pages.items() if page.is_annotation or name in pairs.picture_of}
    pages = _in_px(pages)
    if not any(page.is_annotation for page in pages.values()) and not any(not page.size and page.malformed for page in pages.values()):
        return None
    picture_of, respelled = _by_names_inside(pages, pairs.picture_of, pairs.unclear, tree)
    units = [Unit(page, picture_of.get(page)) for page in pages]
    paired = set(picture_of.values())
    alone = [Unit(None, picture) for picture in tree.pictures if picture not in paired]
    findable = Units([*units, *alone])
    lists = split_lists(tree, findable)
    reader = _Reader(tree, pages, pairs.unclear, picture_of, sizes)
    if lists:
        sources = tuple(reader.listed(split, lines, findable) for split, lines in lists.items())
    else:
        by_place = {unit.picture or unit.page or "": unit for unit in units}
        splits = splits_by_folders(list(by_place))
        sources = tuple(reader.split(split, [by_place[place] for place in places]) for split, places in splits.items())
    used = {file.url for raw in sources for file in raw.files.values() if file}
    findings = found("unlisted-image", "data", [name for name in tree.pictures if tree.image(name).url not in used])
    findings += found("other-spelling", "data", [printable(text) for text in (*pairs.respelled, *respelled)])
    if not reader.first:
        findings.append(Finding("from-zero", "data", len(pages), "some corner is at 0"))
    return Layout("Pascal VOC", tree.url, sources, tuple(findings))


def _in_px(pages: dict[str, Page]) -> dict[str, Page]:
    """XML files, malformed where all corners of the data set are parts of the image."""
    values = [value for page in pages.values() for one in page.objects for value in one.corners]
    if not values or max(values) > 1 or all(value == int(value) for value in values):
        return pages
    text = f"expected corners in px, got none over {max(values):g} in all files: parts of the image? multiply them by its width and height"
    return {
        name: replace(page, objects=(), malformed=(*page.malformed, f"{printable(name)}: {text}")) if page.objects else page
        for name, page in pages.items()
    }


def _by_names_inside(
    pages: Mapping[str, Page], picture_of: Mapping[str, str], unclear: Mapping[str, tuple[str, ...]], tree: FileTree
) -> tuple[dict[str, str], list[str]]:
    """Pictures of the XML files, also of those that have none of their own name, and names that differ in spelling."""
    every, respelled = dict(picture_of), []
    taken = set(every.values())
    by_base: dict[str, list[str]] = {}
    for picture in tree.pictures:
        if picture not in taken:
            by_base.setdefault(_base(picture), []).append(picture)
    bases = Names(by_base)
    for name, page in pages.items():
        wanted = _base(page.file_name)
        base = bases.find(wanted) if wanted and name not in every and name not in unclear else None
        far = {picture: distance(name, picture) for picture in by_base.get(base or "", ()) if picture not in taken}
        near = sorted((steps, picture) for picture, steps in far.items() if steps is not None)
        if near and [steps for steps, _ in near].count(near[0][0]) == 1:
            every[name] = near[0][1]
            taken.add(near[0][1])
            respelled += [f"{name}: {page.file_name}"] if base != wanted else []
    sure = without_strays(every, pages, tree.pictures, {name: page.file_name for name, page in pages.items()})
    return sure, respelled


class _Reader:
    """Splits of a data set of which all XML files are read."""

    def __init__(
        self,
        tree: FileTree,
        pages: Mapping[str, Page],
        unclear: Mapping[str, tuple[str, ...]],
        picture_of: Mapping[str, str],
        sizes: ImageSizes,
    ) -> None:
        self._tree, self._pages, self._unclear, self._sizes = tree, pages, unclear, sizes
        self.first = 0 if any(min(one.corners[:2]) == 0 for page in pages.values() for one in page.objects) else 1
        self._kinds = numbered({one.name for page in pages.values() for one in page.objects})
        self._pictures: dict[str, Counter[str]] = defaultdict(Counter)  # folders of pictures by folder of XML files
        for one, picture in picture_of.items():
            self._pictures[posixpath.dirname(one)][posixpath.dirname(picture)] += 1
        self._all = Counter(map(posixpath.dirname, tree.pictures))

    def listed(self, split: str, lines: list[str], units: Units) -> RawSplit:
        """Split of the images that a list names."""
        chosen: dict[Unit | str, tuple[Unit, str]] = {}
        malformed, respelled, repeated = [], [], []
        for line in lines:
            some, spelled = units.find(line)
            unit = some[0] if some else Unit(None, None)
            if len(some) > 1:
                places = ", ".join(printable(unit.picture or unit.page or "") for unit in some[:2])
                malformed.append(f"list of {printable(split)}: expected a name of one image, got {printable(line)!r} of {places}")
            elif (unit if some else line) in chosen:
                repeated.append(printable(line))
            else:
                chosen[unit if some else line] = (unit, line)
                respelled += [printable(line)] if spelled else []
        findings = [*found("malformed", split, malformed), *found("other-spelling", split, respelled)]
        findings += found("repeated-line", split, repeated)
        return self.split(split, [unit for unit, _ in chosen.values()], [line for _, line in chosen.values()], findings)

    def split(self, split: str, units: list[Unit], lines: list[str] | None = None, findings: list[Finding] | None = None) -> RawSplit:
        """Split of some images; `lines` are their names in a list."""
        sheets = [self._sheet(unit, (lines or [""] * len(units))[number]) for number, unit in enumerate(units)]
        pages = [(self._pages.get(unit.page or "", _NO_PAGE), sheet) for unit, sheet in zip(units, sheets, strict=True)]
        difficult = [f"{printable(one.name)} in {printable(sheet.name)}" for page, sheet in pages for one in page.objects if one.difficult]
        without = [printable(sheet.name) for unit, sheet in zip(units, sheets, strict=True) if unit.page is None]
        extra = [*(findings or ()), *found("difficult", split, difficult), *found("missing-label", split, without)]
        extra += found("swapped-corners", split, [text for page, _ in pages for text in page.swapped])
        return as_raw_split(split, sheets, self._kinds, self._sizes, extra)

    def _sheet(self, unit: Unit, line: str) -> Sheet:
        page = self._pages.get(unit.page or "", _NO_PAGE)
        objects = [Drawn(one.name, self._box(one.corners), one.difficult) for one in page.objects]
        file = self._tree.image(unit.picture) if unit.picture else None
        malformed = list(page.malformed)
        if some := self._unclear.get(unit.page or ""):
            text = f"expected one picture of this name, got {', '.join(map(printable, some[:3]))}"
            malformed.append(f"{printable(unit.page or '')}: {text}; name one of them as filename in it, or rename the others")
        return Sheet(unit.picture or self._expected(unit.page or "", line, _base(page.file_name)), file, page.size, objects, malformed)

    def _expected(self, page: str, line: str, name: str) -> str:
        """Place of a picture that is not there: where those of the XML files beside its own are."""
        near = self._pictures.get(posixpath.dirname(page)) if page else None
        folder = next((folder for folder, _ in (near or self._all).most_common(1)), "")
        own = f"{posixpath.splitext(_base(page or line))[0]}.jpg"
        places = [posixpath.join(top, one) for top in (folder, posixpath.dirname(page or line)) for one in (name or own, own)]
        return next((place for place in places if place not in self._tree.entries), places[-1])

    def _box(self, corners: tuple[float, ...]) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = corners
        return x1 - self.first, y1 - self.first, x2 - x1 + self.first, y2 - y1 + self.first


def _base(name: str) -> str:
    return posixpath.basename(name.replace("\\", "/"))
