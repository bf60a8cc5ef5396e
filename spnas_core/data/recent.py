"""The last few values that a process has made, by key, so that what is read twice is parsed once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Recent(Generic[_T]):
    """At most `most` values; the one that was asked for longest ago gives way. Thread-safe: a value is made by one thread.

    Values that are not to `keep` are made each time.
    """

    def __init__(self, most: int, keep: Callable[[_T], bool] = lambda _: True) -> None:
        self.most, self.keep = most, keep
        self._values: OrderedDict[Hashable, _T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Value of `key`, made where there is none; an error of `make` passes and nothing is kept."""
        with self._lock:
            if key not in self._values:
                value = make()
                if not self.keep(value):
                    return value
                self._values[key] = value
                while len(self._values) > self.most:
                    self._values.popitem(last=False)
            self._values.move_to_end(key)
            return self._values[key]
