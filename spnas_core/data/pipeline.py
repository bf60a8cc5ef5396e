"""Batches filled by threads ahead of the training, and the memory of images between epochs."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from spnas_core.data.images import Pixels

_T = TypeVar("_T")
BatchPlan = tuple[_T, list[Callable[[], None]]]  # a batch of zeros, and what fills it: one call per image


class ImageCache:
    """Resized uint8 images, kept in memory for later epochs until `max_bytes` are full: then the first ones stay. Thread-safe."""

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.told: set[str] = set()  # what was logged once
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


def stream(plans: Iterator[BatchPlan[_T]], threads: int, ahead: int = 3) -> Iterator[_T]:
    """Fill batches in threads, at most `ahead` before they are asked for; closing the iterator early ends the threads."""
    waiting: deque[tuple[_T, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="spnas-data")

    def oldest() -> _T:
        batch, calls = waiting.popleft()
        for call in calls:
            call.result()
        return batch

    try:
        for batch, calls in plans:
            waiting.append((batch, [pool.submit(call) for call in calls]))
            if len(waiting) > ahead:
                yield oldest()
        while waiting:
            yield oldest()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
