"""Looks at many images, in threads, each image but once."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from spnas_core.data import files, images
from spnas_core.errors import UserError

REMOTE = 16  # threads for files that are not on this machine: they wait for the network


class ImageFacts:
    """What each image file shows, by its URL: a Look, or a text that says what is wrong with the file. Remote files land in the cache."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or os.cpu_count() or 1
        self._seen: dict[str, images.ImageFact | str] = {}

    def at(self, urls: Iterable[str]) -> dict[str, images.ImageFact | str]:
        """Look at the images `urls`, those that were not looked at before."""
        wanted = list(dict.fromkeys(urls))
        new = [url for url in wanted if url not in self._seen]
        remote = any("://" in url for url in new)
        with ThreadPoolExecutor(REMOTE if remote else self.threads, thread_name_prefix="spnas-look") as pool:
            self._seen |= zip(new, pool.map(_look, new), strict=True)
        return {url: self._seen[url] for url in wanted}


def _look(url: str) -> images.ImageFact | str:
    try:
        return images.look(files.local_file(url), url)
    except UserError as error:
        return str(error).removeprefix(f"image {url}: ")
