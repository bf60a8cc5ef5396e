"""File names that a data set writes otherwise than its folders: back slashes, letter case, and the two forms of accents."""

import unicodedata
from collections.abc import Iterable


class Names:
    """Names to find one among; what differs in more than spelling is another name."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)
        self._alike: dict[str, list[str]] | None = None  # made when a name is not found as it is written

    def find(self, name: str) -> str | None:
        """Return the name that is `name`, or the only one that differs from it in spelling alone; None where there is none, or several."""
        if name in self._names:
            return name
        if self._alike is None:
            self._alike = {}
            for one in self._names:
                self._alike.setdefault(_folded(one), []).append(one)
        alike = self._alike.get(_folded(name), [])
        return alike[0] if len(alike) == 1 else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()
