"""Image files of a COCO file: where its names may mean them, and where they are found."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from spnas_core.data import files
from spnas_core.data.coco import CocoFile
from spnas_core.data.listings import Listings
from spnas_core.data.matching import Names
from spnas_core.data.raw_split import ImageFile
from spnas_core.data.split_names import SPLITS, UNSPLIT, usual_name
from spnas_core.errors import UserError

MOST_FOLDERS = 200  # that are searched for images that are in none of the usual ones
_DRIVE = re.compile("[A-Za-z]:/")
_CONTAINERS = ("images", "data", "JPEGImages", "img", "imgs")


def locate_around(
    listings: Listings, root: str, file: CocoFile, chosen: str | None, names: Sequence[str]
) -> tuple[dict[str, ImageFile], list[str]]:
    """`locate_images` around an annotation file, or in the folder `chosen` (a URL, or a path below `root`) that a user has set."""
    if chosen is None:
        return locate_images(listings, root, image_folders(root, file.split, file.folder), file.split, names)
    if "://" in chosen or chosen.startswith("/"):
        system, root = files.open_url(chosen)
        listings = Listings(system)
    else:
        root = files.join_path(root, chosen)
    if files.kind(listings.system, root) != "directory":
        raise UserError(f"images: expected a folder, found none at {files.url_of(listings.system, root)}")
    return locate_images(listings, root, [root], file.split, names)


def image_folders(root: str, split: str, folder: str) -> list[str]:
    """Folders that the images of a split may be named from, the likeliest first.

    `split` is the data set's own name, `folder` that of its annotation file.
    """
    around = () if folder in (root, files.join_path(root, "annotations")) else (folder, *_below(folder, _CONTAINERS))
    names = ("default",) if split == UNSPLIT else tuple(dict.fromkeys((split, usual_name(split))))
    inside = [*_below(files.join_path(root, "images"), names), *_below(root, names)]
    first = [*inside, files.join_path(root, "images"), root, folder]
    others = [posixpath.dirname(folder), *_below(posixpath.dirname(folder), _CONTAINERS)] if folder.startswith(f"{root}/") else []
    deeper = [place for top in (*_below(root, _CONTAINERS[1:]), *_below(root, names)) for place in (top, *_below(top, (*names, "images")))]
    return list(dict.fromkeys((*around, *first, *deeper, *others)))


def _below(top: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(files.join_path(top, name) for name in names if "/" not in name and name not in (".", ".."))


def locate_images(
    listings: Listings, root: str, tops: Sequence[str], split: str, names: Sequence[str]
) -> tuple[dict[str, ImageFile], list[str]]:
    """Files of those image names that exist, by one listing of each folder; and what was found by another spelling or in another place.

    A name is taken as it is below the one of `tops` that has most of them, or in another spelling (`matching.py`); where that has at
    least half of them, the others are missing: a picture of that name elsewhere is another one. Else other `tops` count as well, and
    files anywhere below `root`, where one alone has the last folder and name, and one image alone is meant.
    """
    located: dict[str, ImageFile] = {}
    told: list[str] = []
    missing = list(dict.fromkeys(names))
    enough = (len(missing) + 1) // 2
    ordered = _by_count(listings, tops, missing)
    for number, top in enumerate(ordered):
        left, missing = missing, _look(listings, top, missing, located)
        told += [f"{name}, found as {_shown(located[name].url, listings, root)}" for name in left if name in located] if number else []
        if not missing:
            return located, told
        if len(located) >= enough:
            ordered = ordered[: number + 1]
            break
    found = {name: path for name in missing if (path := next(filter(None, (_spelled(listings, top, name) for top in ordered)), None))}
    if len(located) + len(found) < enough:
        found |= _anywhere(listings, root, tops, split, [name for name in missing if name not in found])
    meant = Counter(found.values())
    taken = {file.url for file in located.values()}
    for name, path in found.items():
        url = files.url_of(listings.system, path)
        if meant[path] == 1 and url not in taken:
            located[name] = ImageFile(url, listings.files(posixpath.dirname(path))[posixpath.basename(path)])
            told.append(f"{name}, found as {_shown(url, listings, root)}")
    return located, told


def _shown(url: str, listings: Listings, root: str) -> str:
    return url.removeprefix(files.url_of(listings.system, root)).strip("/")


def _by_count(listings: Listings, tops: Sequence[str], names: Sequence[str]) -> list[str]:
    """Folders by how many of the names, as they are, lie below them, the most first; equal ones in their order."""
    sample = names[:: max(1, len(names) // 1000)]
    counts = {top: sum(_has(listings, top, name) for name in sample) for top in tops}
    return sorted(tops, key=lambda top: -counts[top])


def _has(listings: Listings, top: str, name: str) -> bool:
    if "/" not in name:
        return name in listings.files(top)
    folder, base = posixpath.split(_inside(top, name) or "")
    return bool(folder) and base in listings.files(folder)


def _look(listings: Listings, top: str, names: list[str], located: dict[str, ImageFile]) -> list[str]:
    """Find names right below `top`; returns those that are not there."""
    sizes, place = listings.files(top), files.url_of(listings.system, top).rstrip("/")
    missing = []
    for name in names:
        size = sizes.get(name)
        if size is None and "/" in name and (inner := _inside(top, name)):
            folder, base = posixpath.split(inner)
            size = listings.files(folder).get(base)
            if size is not None:
                located[name] = ImageFile(files.url_of(listings.system, inner), size)
                continue
        if size is None:
            missing.append(name)
        else:
            located[name] = ImageFile(f"{place}/{name}", size)
    return missing


def _inside(top: str, name: str) -> str | None:
    try:
        return files.join_path(top, name)
    except UserError:
        return None


def _spelled(listings: Listings, top: str, name: str) -> str | None:
    """Path of the one file below `top` whose path differs from `name` in spelling alone."""
    path = _inside(top, name.replace("\\", "/"))
    if path is None or not path.startswith(top):
        return None
    place = top
    *folders, base = path.removeprefix(top).strip("/").split("/")
    for folder in folders:
        match = Names(listings.folders(place)).find(folder)
        if match is None:
            return None
        place = f"{place.rstrip('/')}/{match}"
    match = listings.names(place).find(base)
    return f"{place.rstrip('/')}/{match}" if match else None


def _anywhere(listings: Listings, root: str, tops: Sequence[str], split: str, names: Sequence[str]) -> dict[str, str]:
    """Paths of the only files with the last folder and name of `names`, in `tops` or below `root`, but in no folder of another split.

    Of a name with the folders of another machine the last part counts alone, in `tops`.
    """
    others = set(SPLITS) - {usual_name(split)}
    places = [*tops, root]
    for place in places:  # grows
        if len(places) > MOST_FOLDERS + len(tops):
            break
        inner = [folder for folder in listings.folders(place) if usual_name(folder) not in others]
        places += [f"{place.rstrip('/')}/{folder}" for folder in inner] if place.startswith(root) else []
    paths = {name: name.replace("\\", "/") for name in names}
    away = {name for name, path in paths.items() if path.startswith(("../", "/")) or _DRIVE.match(path)}
    folder_of = {name: "" if name in away else posixpath.dirname(path).rpartition("/")[2] for name, path in paths.items()}
    keys = {name: (folder_of[name], posixpath.basename(path)) for name, path in paths.items()}
    holders: dict[str, list[str]] = {base: [] for _, base in keys.values()}
    for place in dict.fromkeys(place.rstrip("/") for place in places):
        for base in holders.keys() & listings.files(place).keys():
            holders[base].append(place)
    meant = Counter(keys.values())
    found = {}
    for name, (folder, base) in keys.items():
        held = [place for place in holders[base] if place in tops or name not in away]
        held = [place for place in held if not folder or posixpath.basename(place).casefold() == folder.casefold()]
        if meant[folder, base] == 1 and len(held) == 1:
            found[name] = f"{held[0]}/{base}"
    return found
