"""What values of another type mean: numbers in texts, ids that are no numbers, boxes of polygons."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any


def choose_numbers(ids: Sequence[Any]) -> Callable[[Any], int | None]:
    """Choose a number for each id: what it says, where all say whole numbers, each its own; else its place among them, from 1."""
    numbers = {_key(one): whole_number(one) for one in ids if isinstance(one, int | float | str) and not isinstance(one, bool)}
    if None not in numbers.values() and len(set(numbers.values())) == len(numbers):
        return whole_number
    places = {key: place for place, key in enumerate(numbers, start=1)}
    return lambda one: places.get(_key(one))


def _key(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def number_of_text(text: str) -> float | None:
    """Finite number that a text says; None of another text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def whole_number(value: Any) -> int | None:
    """Whole number that a number or a text says, at least 0; None of anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.0+)?\s*", value, re.ASCII):
        return int(value.strip().partition(".")[0])
    return int(value) if isinstance(value, float) and math.isfinite(value) and value >= 0 and value.is_integer() else None


def box_of_polygons(segmentation: Any) -> list[float] | None:
    """Box xywh of polygons; None of anything else."""
    polygons = segmentation if isinstance(segmentation, list) else []
    values = [
        value for polygon in polygons if isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for value in polygon
    ]
    if not values or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return None
    across, down = values[::2], values[1::2]
    return [min(across), min(down), max(across) - min(across), max(down) - min(down)]
