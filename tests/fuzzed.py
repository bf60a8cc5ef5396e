"""Documents that are wrong in some way: arbitrary JSON, true documents with a few places changed, texts cut or with bytes changed."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

NAMES = [
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "x" * 300,
    "\0",
    "é",
    "\ud800",
    "manifest.json",
    "C:\\x",
    "~/x",
    "a\nb",
    "-",
]
NUMBERS = [0, -1, 1, 2**31, 2**63, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), True, 1.5]
leaf = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(NAMES), st.sampled_from(NUMBERS)
)
anything = st.recursive(leaf, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    found = []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        found += [(value, key), *places(inner)]
    return found


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """Return a copy of a true document with one to three of its places changed, left out, renamed or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        there = places(document)
        if not there:
            return draw(anything)
        container, key = draw(st.sampled_from(there))
        how = draw(st.sampled_from(["change", "change", "remove", "rename", "double", "swap"]))
        if how == "remove":
            del container[key]
        elif how == "rename" and isinstance(container, dict):
            container[draw(st.one_of(st.sampled_from(NAMES), st.text(max_size=8)))] = container.pop(key)
        elif how == "double" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif how == "swap":
            container[key] = copy.deepcopy(draw(st.sampled_from([other[k] for other, k in there])))
        else:
            container[key] = draw(anything)
    return document


@st.composite
def texts(draw: st.DrawFn, document: Any) -> bytes:
    """Return the bytes of a JSON document that is wrong."""
    how = draw(st.sampled_from(["changed", "changed", "changed", "anything", "cut", "bytes", "binary", "deep"]))
    if how == "binary":
        return draw(st.binary(max_size=60))
    if how == "deep":
        return draw(st.sampled_from([b"[", b'{"a":'])) * draw(st.sampled_from([10, 300, 5000]))
    value = draw(changed(document)) if how == "changed" else draw(anything) if how == "anything" else document
    text = json.dumps(value).encode()
    if how == "cut":
        return text[: draw(st.integers(0, len(text)))]
    if how == "bytes":
        at = draw(st.integers(0, len(text) - 1))
        return text[:at] + draw(st.binary(min_size=1, max_size=3)) + text[at + 1 :]
    return text
