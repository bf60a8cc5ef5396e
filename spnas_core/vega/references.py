"""References of a Vega pipeline file: a mapping with a key `ref` has all that stands at the named place, itself with its references.

They are merged as Vega merges them: what stands beside a reference overrides it, mappings key by key, everything else as a whole.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from spnas_core.errors import UserError
from spnas_core.vega.tree import Leaf, Tree

REF = "ref"
_MOST_MERGES, _MOST_IN_TURN = 20_000, 50  # a few references can stand for very many values


class References:
    """Parts of one file, `name` for messages, with their references merged; `followed` has the references that this took."""

    def __init__(self, tree: Tree, name: str) -> None:
        self._tree, self._name, self._left = tree, name, _MOST_MERGES
        self._known: dict[int, Tree] = {}
        self.followed: set[tuple[int, str]] = set()  # line and key

    def merged(self, part: Tree, above: tuple[Leaf, ...] = ()) -> Tree:
        """Part of the file with its references merged, which `above` led to; UserError where one leads to nothing, or back to itself."""
        if id(part) in self._known:
            return self._known[id(part)]
        own = {key: self.merged(one, above) if isinstance(one, dict) else one for key, one in part.items() if key != REF}
        ref = part.get(REF)
        if isinstance(ref, Leaf):
            self.followed.add((ref.line, ref.key))
            own = self._over(own, self.referred(ref, above))
        elif ref is not None:  # a mapping that is called so
            own = {REF: self.merged(ref, above), **own}
        self._known[id(part)] = own
        return own

    def referred(self, ref: Leaf, above: tuple[Leaf, ...] = ()) -> Tree:
        """Give the part that a reference stands for."""
        where = f"{self._name}, line {ref.line}: {ref.key}"
        if ref in above:
            round_trip = " -> ".join(one.key for one in (*above[above.index(ref) :], ref))
            raise UserError(f"{where}: expected a reference that ends, got one that leads to itself: {round_trip[:300]}")
        if len(above) >= _MOST_IN_TURN:
            raise UserError(f"{where}: expected at most {_MOST_IN_TURN} references in turn, got more")
        found: Any = self._tree
        for word in str(ref.value).split("."):
            found = found.get(word) if isinstance(found, dict) else None
        if isinstance(found, Leaf) and found.value == {}:
            found = {}
        if not isinstance(ref.value, str) or not isinstance(found, dict):
            raise UserError(f"{where}: expected a part of this file, got {ref.value!r}")
        return self.merged(found, (*above, ref))

    def _over(self, own: Tree, base: Mapping[str, Any]) -> Tree:
        """Merge `own` over `base`."""
        self._left -= len(own) + len(base)
        if self._left < 0:
            raise UserError(f"{self._name}: expected references for at most {_MOST_MERGES:,} values, got more")
        merged = {
            key: self._over(own[key], one) if isinstance(one, dict) and isinstance(own.get(key), dict) else own.get(key, one)
            for key, one in base.items()
        }
        return merged | {key: one for key, one in own.items() if key not in base}

    def leaves(self, part: Tree, above: str = "") -> Iterator[tuple[str, Leaf]]:
        """Give the values of a merged part, with their dotted keys in it."""
        for key, one in part.items():
            if isinstance(one, Leaf):
                yield f"{above}{key}", one
            else:
                self._left -= 1
                if self._left < 0:
                    raise UserError(f"{self._name}: expected references for at most {_MOST_MERGES:,} values, got more")
                yield from self.leaves(one, f"{above}{key}.")
