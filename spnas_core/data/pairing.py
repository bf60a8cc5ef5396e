"""Which annotation file belongs to which picture, by their names and folders.

NAME.xml belongs to NAME.jpg: beside it, or in a folder that differs in as few parts as possible, such as Annotations/day1 and
JPEGImages/day1. Folders of two different splits are never paired, and a file whose own picture is gone is not put on one of another
folder (`without_strays`).
"""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spnas_core.data.matching import Names, stem_of
from spnas_core.data.split_names import SPLITS, usual_name

_FAR = 3  # parts in which two folders of one data set may differ: Annotations and JPEGImages/day1


@dataclass(frozen=True)
class Pairs:
    """Picture of each annotation file that has one, those that two pictures fit alike, names that differ in spelling, and strays."""

    picture_of: dict[str, str]
    unclear: dict[str, tuple[str, ...]]
    respelled: tuple[str, ...]
    strays: tuple[str, ...] = ()


def pair_files(
    pages: Iterable[str], pictures: Iterable[str], hints: Mapping[str, str] | None = None, settled: Mapping[str, str] | None = None
) -> Pairs:
    """Pair annotation files with pictures of one name, each with one at most; `hints`, names inside the files, decide a tie.

    Pairs of folders that differ much count where most files of the one have their pictures in the other, by `settled` pairs too.
    """
    hints, pages, pictures = hints or {}, list(pages), list(pictures)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for picture in pictures:
        base = posixpath.basename(picture)
        by_stem[posixpath.splitext(base)[0]].append(picture)
        by_stem[base].append(picture)  # NAME.jpg.xml
    stems, respelled = Names(by_stem), []
    groups: dict[str, list[str]] = defaultdict(list)
    for page in pages:
        stem = stem_of(page)
        if (found := stems.find(stem)) is not None:
            groups[found].append(page)
            respelled += [f"{page} and {posixpath.basename(by_stem[found][0])}"] if found != stem else []
    picture_of: dict[str, str] = {}
    unclear: dict[str, tuple[str, ...]] = {}
    for stem, some in groups.items():
        _pair_group(some, by_stem[stem], hints, picture_of, unclear)
    sure = without_strays(picture_of, pages, pictures, hints, settled)
    return Pairs(sure, unclear, tuple(respelled), tuple(page for page in picture_of if page not in sure))


def without_strays(
    picture_of: Mapping[str, str],
    pages: Iterable[str],
    pictures: Iterable[str],
    hints: Mapping[str, str],
    settled: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Pairs without those of two folders that are likelier paired with others: the picture of such a file is gone.

    So are a few files of a folder that has more pictures beside its files, and those of a folder whose others lie with other pictures,
    on pictures whose folder has its own files, or is no such folder: of masks or copies of those pictures, or of one of them alone, or
    beside the folder that the rule of the layout (`settled`) is of. A path inside that names the picture with its folder makes a pair sure.
    """
    pictures_by: dict[str, Counter[str]] = defaultdict(Counter)  # folder of pictures by folder of files
    pages_by: dict[str, Counter[str]] = defaultdict(Counter)
    for page, picture in {**(settled or {}), **picture_of}.items():
        pictures_by[posixpath.dirname(page)][posixpath.dirname(picture)] += 1
        pages_by[posixpath.dirname(picture)][posixpath.dirname(page)] += 1
    sizes = Counter(map(posixpath.dirname, {*pages, *(settled or {})}))
    stems_in: dict[str, set[str]] = defaultdict(set)  # names of pictures by their folder
    for picture in pictures:
        stems_in[posixpath.dirname(picture)].add(stem_of(picture))
    stems_by: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # as `pictures_by`
    for page, picture in {**(settled or {}), **picture_of}.items():
        stems_by[posixpath.dirname(page)][posixpath.dirname(picture)].add(stem_of(picture))
    ruled = {(posixpath.dirname(page), posixpath.dirname(picture)) for page, picture in (settled or {}).items()}
    doubtful = {
        (here, there)
        for here, others in pictures_by.items()
        for there, count in others.items()
        if _is_doubtful(here, there, others, pages_by[there], few=2 * count <= sizes[here])
        or (2 * count <= sizes[here] and _is_other_kind(there, stems_by[here], stems_in[there], [two for one, two in ruled if one == here]))
    }
    return {
        page: picture
        for page, picture in picture_of.items()
        if (posixpath.dirname(page), posixpath.dirname(picture)) not in doubtful or _names(hints.get(page, ""), picture)
    }


def _is_doubtful(here: str, there: str, pictures: Counter[str], pages: Counter[str], few: bool) -> bool:
    """Whether files of the folder `here` are not those of the pictures in `there`; `few` of its files have pictures there."""
    count, far = pictures[there], _apart(here, there)
    if far > _FAR and 2 * count < pictures.total():
        return True
    if here == there or not few:
        return False
    if pictures[here] >= count and not _is_inside(there, here):
        return True
    nearness = _nearness(here, there)
    own = any(some >= count and _nearness(folder, there) < nearness for folder, some in pages.items())
    others = {folder: some for folder, some in pictures.items() if folder != there and not _is_inside(there, folder)}
    better = any(some >= count and _nearness(here, folder) < nearness for folder, some in others.items())
    return own and (better or len(pictures) == 1)


def _is_other_kind(there: str, stems: Mapping[str, set[str]], all_there: set[str], ruled: Sequence[str]) -> bool:
    """Whether the folder `there` has no pictures of this kind; `stems`: names that files of one folder pair, by folder of pictures."""
    count = len(stems[there])
    others = {folder: some for folder, some in stems.items() if folder != there and not _is_inside(there, folder)}
    if not any(len(some) >= count for some in others.values()):
        return False
    if len(all_there & set().union(*others.values())) >= count:  # masks, thumbnails
        return True
    alone = count == 1 or 2 * count <= len(all_there)
    if alone and any(folder in others for folder in ruled):
        return True
    (first, some), *more = others.items()
    return count == 1 and len(some) > 1 and not more and re.sub(r"\d+", "0", first) != re.sub(r"\d+", "0", there)


def _nearness(one: str, two: str) -> tuple[int, int]:
    """Parts in which two folders differ, then less for each word that both have: xml_day2 and images_day2."""
    words = [set(re.findall(r"[^\W_]+", folder.lower())) for folder in (one, two)]
    return _apart(one, two), -len(words[0] & words[1])


def _apart(one: str, two: str) -> int:
    """Parts in which two folders differ."""
    return distance(posixpath.join(one, "x"), posixpath.join(two, "x")) or 0


def _is_inside(folder: str, above: str) -> bool:
    return not above or folder.startswith(f"{above}/")


def _names(path: str, picture: str) -> bool:
    """Whether a path inside an annotation file ends in the picture and its folder."""
    tail = path.replace("\\", "/").split("/")[-2:]
    return len(tail) == 2 and tail[0] not in ("", ".", "..") and f"/{picture}".endswith(f"/{'/'.join(tail)}")


def _pair_group(
    pages: list[str], pictures: list[str], hints: Mapping[str, str], picture_of: dict[str, str], unclear: dict[str, tuple[str, ...]]
) -> None:
    """Pair files of one name, the nearest first."""
    if len(pages) == len(pictures) == 1:
        if distance(pages[0], pictures[0]) is not None:
            picture_of[pages[0]] = pictures[0]
        return
    by_distance: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for page in pages:
        for picture in pictures:
            if (far := distance(page, picture)) is not None:
                by_distance[far].append((page, picture))
    taken = set(picture_of.values())
    for far in sorted(by_distance):
        left = [(page, picture) for page, picture in by_distance[far] if page not in picture_of and picture not in taken]
        rivals = Counter(picture for _, picture in left)
        for page in dict.fromkeys(page for page, _ in left if page not in unclear):
            some = [picture for one, picture in left if one == page and picture not in taken]
            named = [picture for picture in some if posixpath.basename(picture) == posixpath.basename(hints.get(page, ""))]
            choice = some if len(some) == 1 and rivals[some[0]] == 1 else named
            if len(choice) == 1:
                picture_of[page] = choice[0]
                taken.add(choice[0])
            elif some:
                unclear[page] = tuple(some)


def distance(page: str, picture: str) -> int | None:
    """Parts in which the folders of two files differ; None where they name different splits."""
    one, two = (posixpath.dirname(path).split("/") for path in (page, picture))
    while one and two and one[0] == two[0]:
        one, two = one[1:], two[1:]
    while one and two and one[-1] == two[-1]:
        one, two = one[:-1], two[:-1]
    splits = [{name for name in map(usual_name, parts) if name in SPLITS} for parts in (one, two)]
    return None if all(splits) and splits[0] != splits[1] else len([part for part in one + two if part])
