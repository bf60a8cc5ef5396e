"""Val images with the boxes of the final net and the ground truth: the best, the worst, and random ones."""

import base64
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from spnas_core.data import files, images
from spnas_core.data.samples import Sample, Split
from spnas_core.errors import StoreError, UserError
from spnas_core.report.quality import Fate, Quality

EACH = 4  # pictures of a kind
STORED, SHOWN = 480, 320  # px, longer side of a stored picture and of its coordinate system
LETTERS = 24  # most letters of a label
CROWDED = 8  # boxes per picture above which correct ones have no label


class _Box(NamedTuple):
    """Rectangle on a picture: a correct or a wrong detection, a detected object (ground truth) or a missed one."""

    kind: str
    x: float
    y: float
    w: float
    h: float
    label: str


@dataclass(frozen=True)
class Shot:
    """Picture as a data URI, with boxes in its coordinates."""

    name: str
    uri: str
    width: float
    height: float
    boxes: tuple[_Box, ...]
    words: str


def choose(quality: Quality, val: Split, seed: int) -> list[tuple[str, list[Sample]]]:
    """Choose the best images (by F1, then by most objects), the worst (by F1, then by most errors), and random others."""
    fates = {one.image_id: quality.fates[one.image_id] for one in val.samples if one.image_id in quality.fates}
    judged = [one for one in val.samples if one.image_id in fates and any(fates[one.image_id][:3])]
    each = min(EACH, max(1, len(judged) // 3))

    def by_worth(one: Sample) -> tuple[float, int, int]:
        fate = fates[one.image_id]
        return -fate.f1, -fate.right + fate.wrong + fate.missed, one.image_id

    order = sorted(judged, key=by_worth)
    best = order[:each]
    worst = [one for one in reversed(order) if one not in best][:each]
    rest = [one for one in judged if one not in best and one not in worst]
    drawn = np.random.Generator(np.random.PCG64(seed)).permutation(len(rest))[:each]
    return [(title, group) for title, group in (("Best", best), ("Worst", worst), ("Random", [rest[n] for n in drawn])) if group]


def shoot(quality: Quality, val: Split, seed: int) -> list[tuple[str, list[Shot]]]:
    """Create the pictures; an image that cannot be read is left out."""
    marks: dict[int, list[dict[str, Any]]] = {}
    for mark in val.annotations["annotations"]:
        marks.setdefault(mark["image_id"], []).append(mark)
    boxes: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for place, one in enumerate(quality.shown):
        boxes.setdefault(one["image_id"], []).append((place, one))
    found = []
    for title, group in choose(quality, val, seed):
        shots = []
        for sample in group:
            with contextlib.suppress(UserError, StoreError):
                shots.append(_shot(quality, val, sample, marks.get(sample.image_id, []), boxes.get(sample.image_id, [])))
        found.append((title, shots))
    return [(title, shots) for title, shots in found if shots]


def _shot(
    quality: Quality, val: Split, sample: Sample, marks: Sequence[dict[str, Any]], boxes: Sequence[tuple[int, dict[str, Any]]]
) -> Shot:
    names = dict(val.categories)
    scale = SHOWN / max(sample.width, sample.height)

    def box(kind: str, bbox: Sequence[float], label: str) -> _Box:
        x, y, w, h = (round(scale * value, 1) for value in bbox)
        return _Box(kind, x, y, w, h, label)

    drawn = []
    for mark in marks:
        missed = mark["id"] not in quality.found and not mark.get("iscrowd")
        drawn.append(box("missed" if missed else "truth", mark["bbox"], _short(names[mark["category_id"]]) if missed else ""))
    for place, one in reversed(boxes):
        kind = "right" if place in quality.right else "wrong"
        label = "" if kind == "right" and len(boxes) > CROWDED else f"{_short(names[one['category_id']])} {one['score']:.2f}"
        drawn.append(box(kind, one["bbox"], label))
    uri = _data_uri(images.decode_image(files.local_file(sample.file), sample.file, val.rules))
    size = round(scale * sample.width, 1), round(scale * sample.height, 1)
    return Shot(sample.name, uri, *size, tuple(drawn), _words(quality.fates[sample.image_id]))


def _data_uri(pixels: images.Pixels) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((STORED, STORED), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"


def _words(fate: Fate) -> str:
    objects = fate.right + fate.missed
    wrong = f", {fate.wrong} wrong box{'' if fate.wrong == 1 else 'es'}" if fate.wrong else ""
    return f"{fate.right} of {objects} object{'' if objects == 1 else 's'} found{wrong}"
