"""Facts about image files, read in threads, each file once; remote files land in the cache."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from spnas_core.data import files, images
from spnas_core.errors import UserError

REMOTE = 16  # threads for files of other machines: they wait for the network
_T = TypeVar("_T")


class ImageFacts:
    """Facts of whole image files by their URLs: an ImageFact, or a text that says what is wrong with the file."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self._seen: dict[str, images.ImageFact | str] = {}

    def at(self, urls: Iterable[str]) -> dict[str, images.ImageFact | str]:
        """Facts of the images `urls`; each file is read at the first call that names it."""
        wanted = list(dict.fromkeys(urls))
        self._seen |= _in_threads(_fact, [url for url in wanted if url not in self._seen], self.threads)
        return {url: self._seen[url] for url in wanted}

    def sizes(self, urls: Iterable[str]) -> dict[str, tuple[int, int] | None]:
        """Width and height of the images `urls`, px after EXIF rotation; None of a file that cannot be read."""
        return {url: fact.size if isinstance(fact, images.ImageFact) else None for url, fact in self.at(urls).items()}


def header_sizes(urls: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    """Width and height of the images `urls`, px after EXIF rotation, by their headers; None of a file that has none."""
    return _in_threads(_header_size, list(dict.fromkeys(urls)), None)


def _in_threads(read: Callable[[str], _T], urls: list[str], threads: int | None) -> dict[str, _T]:
    remote = any("://" in url for url in urls)
    with ThreadPoolExecutor(REMOTE if remote else threads or os.cpu_count() or 1, thread_name_prefix="spnas-look") as pool:
        return dict(zip(urls, pool.map(read, urls), strict=True))


def _fact(url: str) -> images.ImageFact | str:
    try:
        return images.look(files.local_file(url), url)
    except UserError as error:
        return str(error).removeprefix(f"image {url}: ")


def _header_size(url: str) -> tuple[int, int] | None:
    try:
        return images.header_size(files.local_file(url), url)
    except UserError:
        return None
