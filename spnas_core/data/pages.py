"""What one annotation file says of its picture, and a split of such pages as one COCO document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from spnas_core.data.findings import Finding, found
from spnas_core.data.raw_split import ImageFile, ImageSizes, RawSplit, marked

Xywh = tuple[float, float, float, float]  # px of the image


class Drawn(NamedTuple):
    """One object: its class, its box (px from 0), and whether it is a crowd."""

    category: str
    box: Xywh
    crowd: bool = False


@dataclass(frozen=True)
class Sheet:
    """One image of a split: its name, its file (None: missing), its size where the data set writes one, its objects and their faults."""

    name: str
    file: ImageFile | None
    size: tuple[int, int] | None
    objects: Sequence[Drawn] = ()
    malformed: Sequence[str] = ()


def as_raw_split(
    split: str, sheets: Sequence[Sheet], kinds: Mapping[str, int], sizes: ImageSizes, findings: Sequence[Finding] = ()
) -> RawSplit:
    """COCO document of a split, images numbered from 1 in this order; `kinds` are the ids of the classes."""
    measured = sizes(sheet.file.url for sheet in sheets if sheet.file and not sheet.size)
    entries: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for image_id, sheet in enumerate(sheets, start=1):
        size = sheet.size or (measured[sheet.file.url] if sheet.file else None)
        if size is None:
            continue
        entries.append({"id": image_id, "file_name": sheet.name, "width": size[0], "height": size[1]})
        marks += [marked(len(marks) + n, image_id, kinds[o.category], o.box, o.crowd) for n, o in enumerate(sheet.objects, 1)]
    document = {"images": entries, "annotations": marks, "categories": [{"id": number, "name": name} for name, number in kinds.items()]}
    malformed = found("malformed", split, [text for sheet in sheets for text in sheet.malformed])
    half_read = frozenset(sheet.name for sheet in sheets if sheet.malformed)
    return RawSplit(split, document, {sheet.name: sheet.file for sheet in sheets}, (*malformed, *findings), half_read)


def numbered(names: set[str]) -> dict[str, int]:
    """Ids of classes that have names alone: from 1, in the order of the names."""
    return {name: number for number, name in enumerate(sorted(names), 1)}


def whole(value: float | None) -> int:
    """Size in px that a file writes; 0 of what is no size."""
    return int(value) if value is not None and 0 < value < 1e9 and value == int(value) else 0
