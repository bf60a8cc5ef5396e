"""Facts about image files, read in threads, each file once, however many names it has; remote files land in the cache."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

from spnas_core.data import files, images
from spnas_core.data.opening import PLAIN_RULES, PictureError, PictureRules
from spnas_core.errors import UserError

REMOTE = 16  # threads for files of other machines: they wait for the network
_T = TypeVar("_T")


class Unread(NamedTuple):
    """What is wrong with an image file: the kind of its finding, and a text."""

    kind: str
    text: str


class ImageFacts:
    """Facts of whole image files by their URLs: an ImageFact, or what is wrong with the file."""

    def __init__(self, threads: int | None = None, rules: PictureRules = PLAIN_RULES) -> None:
        self.threads = threads
        self.rules = rules
        self._seen: dict[str, images.ImageFact | Unread] = {}

    def at(self, urls: Iterable[str]) -> dict[str, images.ImageFact | Unread]:
        """Facts of the images `urls`; each file is read at the first call that names it."""
        wanted = list(dict.fromkeys(urls))
        self._seen |= _each_once(partial(_fact, self.rules), [url for url in wanted if url not in self._seen], self.threads)
        return {url: self._seen[url] for url in wanted}

    def sizes(self, urls: Iterable[str]) -> dict[str, tuple[int, int] | None]:
        """Width and height of the images `urls`, px after EXIF rotation; None of a file that cannot be read."""
        return {url: fact.size if isinstance(fact, images.ImageFact) else None for url, fact in self.at(urls).items()}


def header_sizes(urls: Iterable[str], rules: PictureRules = PLAIN_RULES) -> dict[str, tuple[int, int] | None]:
    """Width and height of the images `urls`, px after EXIF rotation, by their headers; None of a file that has none."""
    return _each_once(partial(_header_size, rules), list(dict.fromkeys(urls)), None)


def _each_once(read: Callable[[str], _T], urls: Sequence[str], threads: int | None) -> dict[str, _T]:
    """Results of `read` by URL; it is called in threads, once for all hard links of one file."""
    keys = [_identity(url) for url in urls]
    first = dict(zip(reversed(keys), reversed(urls), strict=True))
    remote = any("://" in url for url in urls)
    with ThreadPoolExecutor(REMOTE if remote else threads or os.cpu_count() or 1, thread_name_prefix="spnas-look") as pool:
        seen = dict(zip(first, pool.map(read, first.values()), strict=True))
    return {url: seen[key] for url, key in zip(urls, keys, strict=True)}


def _identity(url: str) -> tuple[int, int, int, int] | str:
    """Device, inode, size and time of a local file, which its hard links have in common; of another URL the URL itself."""
    if "://" in url:
        return url
    try:
        facts = os.stat(url)  # noqa: PTH116 - a Path for each of a hundred thousand files would take longer
    except (OSError, ValueError):
        return url
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _fact(rules: PictureRules, url: str) -> images.ImageFact | Unread:
    try:
        return images.look(files.local_file(url), url, rules)
    except PictureError as error:
        return Unread(error.kind, str(error).removeprefix(f"image {url}: "))
    except UserError as error:
        return Unread("broken-image", str(error).removeprefix(f"image {url}: "))


def _header_size(rules: PictureRules, url: str) -> tuple[int, int] | None:
    try:
        return images.header_size(files.local_file(url), url, rules)
    except UserError:
        return None
