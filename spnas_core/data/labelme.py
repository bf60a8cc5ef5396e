"""LabelMe, read as COCO documents: a JSON file for each picture, beside it or in a folder of its own (`labelme_page.py`).

NAME.json belongs to NAME.jpg (`pairing.py`); the imagePath inside counts where there is no such picture, or two of them. Folders that are
named for splits are the splits, else all is one split. Classes are numbered from 1 in the order of their names.
"""

import posixpath
from concurrent.futures import ThreadPoolExecutor

from spnas_core.data.findings import found
from spnas_core.data.labelme_page import LabelMePage, read_labelme_page
from spnas_core.data.pages import Sheet, as_raw_split, numbered
from spnas_core.data.pairing import pair_files, without_strays
from spnas_core.data.raw_split import ImageSizes, Layout
from spnas_core.data.split_folders import splits_by_folders
from spnas_core.data.tree import READ_THREADS, FileTree, printable


def open_labelme(tree: FileTree, sizes: ImageSizes) -> Layout | None:
    """Read a data set in this layout; None where there are no JSON files of it."""
    names = tree.ending(".json")
    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="spnas-read") as pool:
        read = dict(zip(names, pool.map(lambda name: read_labelme_page(tree.read(name), name), names), strict=True))
    hints = {name: page.file_name.replace("\\", "/") for name, page in read.items() if page}
    pairs = pair_files(read, tree.pictures, hints)
    broken = {name for name, page in read.items() if page and page.malformed and not page.objects and name not in pairs.picture_of}
    pages = {name: page for name, page in read.items() if page and name not in broken}
    if not any(page.objects or page.left_out or page.file_name for page in pages.values()):
        return None
    picture_of = dict(pairs.picture_of)
    respelled = list(pairs.respelled)
    taken = set(picture_of.values())
    for name in [name for name in pages if name not in picture_of and name not in pairs.unclear]:
        picture, spelled = _named_inside(tree, name, hints[name], taken)
        if picture:
            picture_of[name] = picture
            taken.add(picture)
            respelled += [f"{name}: {hints[name]}"] if spelled else []
    picture_of = without_strays(picture_of, read, tree.pictures, hints)
    kinds = numbered({one.category for page in pages.values() for one in page.objects})
    places = {picture_of.get(name, f"{name[:-5]}.jpg"): name for name in pages}
    sources = []
    for split, some in splits_by_folders(list(places)).items():
        chosen = [(place, places[place]) for place in some]
        sheets = [_sheet(tree, place, picture_of.get(name), name, pages[name], pairs.unclear.get(name, ())) for place, name in chosen]
        left_out = [text for _, name in chosen for text in pages[name].left_out]
        sources.append(as_raw_split(split, sheets, kinds, sizes, found("left-out-shape", split, left_out)))
    used = {file.url for raw in sources for file in raw.files.values() if file}
    findings = found("unlisted-image", "data", [printable(name) for name in tree.pictures if tree.image(name).url not in used])
    findings += found("other-spelling", "data", list(map(printable, respelled)))
    return Layout("LabelMe", tree.url, tuple(sources), tuple(findings))


def _named_inside(tree: FileTree, name: str, path: str, taken: set[str]) -> tuple[str | None, bool]:
    """Picture that a JSON file names: by its path from there, else the only one of its name; and whether it is spelled otherwise."""
    relative = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
    found = tree.names.find(relative) if path else None
    base = posixpath.basename(found or path)
    alike = [picture for picture in tree.pictures_by_name.get(base, ()) if picture not in taken]
    if found in alike:
        return found, found != relative
    return (alike[0] if len(alike) == 1 else None), False


def _sheet(tree: FileTree, place: str, picture: str | None, name: str, page: LabelMePage, unclear: tuple[str, ...]) -> Sheet:
    malformed = list(page.malformed)
    where = printable(name)
    if unclear:
        text = f"expected one picture of this name, got {', '.join(map(printable, unclear[:3]))}"
        malformed.append(f"{where}: {text}; name one of them as imagePath in it, or rename the others")
    elif not picture and page.holds_image:
        text = f"expected the picture {printable(page.file_name) or 'of this name'} beside it, got it inside alone (imageData)"
        malformed.append(f"{where}: {text}; save it as a file of this name")
    return Sheet(place, tree.image(picture) if picture else None, page.size, page.objects, malformed)
