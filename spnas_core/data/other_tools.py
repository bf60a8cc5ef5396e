"""Exports of labelling tools that are not read, told by what is in their files."""

import json
from typing import Any
from xml.etree import ElementTree

from spnas_core.data.tree import FileTree

MOST_LOOKED = 4  # files of a kind
LONGEST_LOOKED = 1 << 26  # bytes of one


def tool_of(tree: FileTree) -> str:
    """Name of the tool whose export lies in `tree`, and one file of it; an empty text where none is known."""
    for name in tree.ending(".json")[:MOST_LOOKED]:
        if tree.entries[name].get("size", 0) < LONGEST_LOOKED and (tool := _tool_of_json(tree.text(name))):
            return f"{tool} ({name})"
    for name in tree.ending(".xml")[:MOST_LOOKED]:
        if tree.entries[name].get("size", 0) < LONGEST_LOOKED and _is_cvat(tree.text(name)):
            return f"CVAT for images or video ({name})"
    for name in tree.ending(".csv")[:MOST_LOOKED]:
        if "region_shape_attributes" in tree.text(name)[:1000]:
            return f"VGG Image Annotator ({name})"
    return ""


def _tool_of_json(text: str) -> str:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    one: Any = (
        next(iter(document.values() if isinstance(document, dict) else document), None) if isinstance(document, dict | list) else None
    )
    if isinstance(document, dict):
        if any(key.startswith("_via_") for key in document) or _has(one, "filename", "regions"):
            return "VGG Image Annotator"
        return "Supervisely" if _has(document, "objects", "size") or _has(document, "classes", "tags") else ""
    if _has(one, "data", "annotations"):
        return "Label Studio"
    if _has(one, "annotations") and all(_has(mark, "coordinates") for mark in one["annotations"] or [None]):
        return "Create ML"
    return ""


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and set(keys) <= value.keys()


def _is_cvat(text: str) -> bool:
    if "<!ENTITY" in text:
        return False
    try:
        top = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return False
    return top.tag == "annotations" and (top.find("image") is not None or top.find("track") is not None)
