"""Batches filled by threads ahead of the training, and images kept in memory between epochs."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from spnas_core.data.images import Pixels

_Step = TypeVar("_Step")
_T = TypeVar("_T")
_Item = TypeVar("_Item")


class ImageCache:
    """Resized uint8 images, kept in memory for later epochs until `max_bytes` are full: then the first ones stay. Thread-safe."""

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.told: set[str] = set()  # warnings logged once
        self._kept: dict[Any, Pixels] = {}
        self._lock = threading.Lock()

    def get(self, key: Any) -> Pixels | None:
        """Return the image under `key`, or None."""
        return self._kept.get(key)

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes fit."""
        return self.bytes + size <= self.max_bytes

    def put(self, key: Any, pixels: Pixels) -> None:
        """Keep `pixels` if there is room."""
        with self._lock:
            if key not in self._kept and self.has_room(pixels.nbytes):
                self._kept[key] = pixels
                self.bytes += pixels.nbytes


def run_ahead(items: Iterable[_T], ahead: int = 2) -> Iterator[_T]:
    """Yield `items` in their order, made in one thread, `ahead` of them before they are asked for; closing the iterator ends the thread."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="spnas-ahead") as pool:
        waiting = deque(pool.submit(next, source, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, source, end))
                yield item  # type: ignore[misc]
        finally:
            for call in waiting:
                call.cancel()
            if isinstance(source, Generator):
                pool.submit(source.close).result()


def fill_batches(
    steps: Iterable[_Step],
    begin: Callable[[_Step], tuple[_T, Mapping[int, _Item]]],
    fill: Callable[[_T, int, _Item], None],
    threads: int,
    ahead: int = 3,
) -> Iterator[_T]:
    """One batch per step, filled in threads, at most `ahead` before they are asked for; closing the iterator early ends the threads.

    `begin(step)` makes a batch of zeros and names the item of each row to fill; `fill(batch, row, item)` fills one row.
    """
    waiting: deque[tuple[_T, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="spnas-data")

    def oldest() -> _T:
        batch, calls = waiting.popleft()
        for call in calls:
            call.result()
        return batch

    try:
        for step in steps:
            batch, items = begin(step)
            waiting.append((batch, [pool.submit(fill, batch, row, item) for row, item in items.items()]))
            if len(waiting) > ahead:
                yield oldest()
        while waiting:
            yield oldest()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
