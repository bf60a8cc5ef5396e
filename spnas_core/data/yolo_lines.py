"""One label file of YOLO, and what its longer lines are: polygons, or boxes with keypoints.

A line is ``class x_centre y_centre width height``, parts of the image in [0, 1]; ``class x y x y x y ...``, a polygon (four corners of a
turned box too), of which the extent is taken; or, of pose labels, a box and its keypoints, each x y or x y visibility, which are left out.
Where no `kpt_shape` says which of the last two they are, their numbers do (`are_poses`), and where these do not, it is no box.
https://docs.ultralytics.com/datasets/detect/, segment/, obb/ and pose/
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spnas_core.data.tree import printable

LARGEST = 1.5  # a larger value is no part of an image, but px
_SHARE = 0.9  # of all lines: as good as all
_ENOUGH = 10  # lines that make poses sure: of ten drawn polygons one in 1,000 sets could be poses alone
_NEAR = 0.01  # in parts of the image


class YoloBox(NamedTuple):
    """Class, and xywh in parts of the image."""

    label: int
    x: float
    y: float
    width: float
    height: float


class _Row(NamedTuple):
    number: int
    label: int
    values: tuple[float, ...]
    text: str


@dataclass(frozen=True)
class LabelText:
    """Rows of one label file, and its malformed lines."""

    name: str
    rows: tuple[_Row, ...]
    malformed: tuple[str, ...]


def read_label(text: str, name: str, keypoints: int | None = None) -> LabelText:
    """Rows of a label file; `keypoints` values follow each box where it is known, 0 where there are none."""
    rows, malformed = [], []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{printable(name)}, line {number}"
        values = [_number(word) for word in words]
        label = values[0]
        if any(map(math.isnan, values)) or not 0 <= label < 1e9 or label != int(label):
            malformed.append(f"{where}: expected a class and parts of the image from 0 to 1, got {printable(line.strip()[:60])!r}")
        elif not _fits(len(words) - 1, keypoints):
            pose = f"a class, a box and {keypoints} numbers of keypoints (kpt_shape)"
            lengths = pose if keypoints else "5 numbers, or a class and a polygon"
            hint = "; is the last one a confidence? remove it" if len(words) == 6 else ""
            malformed.append(f"{where}: expected {lengths}, got {len(words)}{hint}")
        else:
            rows.append(_Row(number, int(label), tuple(values[1:]), line.strip()))
    return LabelText(name, tuple(rows), tuple(malformed))


def renumbered(label: LabelText, numbers: Mapping[int, int]) -> LabelText:
    """Rows of a label file under other class numbers; a class that has none is malformed."""
    rows = tuple(row._replace(label=numbers[row.label]) for row in label.rows if row.label in numbers)
    expected = (
        f"one of the {len(numbers)} classes that the list of its folder names" if numbers else "a list of classes (classes.txt) beside it"
    )
    lost = [
        f"{printable(label.name)}, line {row.number}: expected {expected}, got class {row.label}"
        for row in label.rows
        if row.label not in numbers
    ]
    return LabelText(label.name, rows, (*label.malformed, *lost))


def label_boxes(label: LabelText, poses: bool | None) -> tuple[list[YoloBox], list[str]]:
    """Boxes as written and malformed lines of a label file; longer lines are polygons, `poses`, or (None) cannot be told."""
    boxes, malformed = [], list(label.malformed)
    for row in label.rows:
        where = f"{printable(label.name)}, line {row.number}"
        long = len(row.values) > 4
        values = row.values[:4] if poses else row.values  # the points may be in px, or -1
        if long and poses is None:
            way = "kpt_shape: [K, 2] or [K, 3] in data.yaml for K points, [0, 0] for polygons"
            malformed.append(f"{where}: expected one reading, got {len(row.values)} numbers that are a polygon or a pose: write {way}")
        elif any(abs(value) > LARGEST for value in values):
            malformed.append(f"{where}: expected a class and parts of the image from 0 to 1, got {printable(row.text[:60])!r}")
        elif len(values) == 4:
            x, y, width, height = values
            boxes.append(YoloBox(row.label, x - width / 2, y - height / 2, width, height))
        elif len(values) % 2:
            malformed.append(f"{where}: expected 5 numbers, or a class and a polygon, got {len(values) + 1}")
        else:
            across, down = values[::2], values[1::2]
            boxes.append(YoloBox(row.label, min(across), min(down), max(across) - min(across), max(down) - min(down)))
    return boxes, malformed


def are_poses(labels: Iterable[LabelText]) -> bool | None:
    """Whether the longer lines of a data set are boxes with keypoints; False of polygons, None where it cannot be told.

    Poses all have one length. They are sure where every third number after the box is a visibility (0, 1, 2). Four points that make a
    parallelogram are a turned box. Else a line could be a pose where its first four numbers are a box in the image with all the points in
    it, and a polygon where its second point is among the others: of a pose that point is width and height. Of drawn polygons up to 0.47
    could be poses, and 0.27 or more could be polygons alone; of drawn poses all could be poses, and 0.45 or more could be no polygons
    (a test draws them). What lies between, and a few lines alone, cannot be told.
    """
    rows = [row.values for label in labels for row in label.rows if len(row.values) > 4]
    if not rows:
        return False
    length, most = Counter(map(len, rows)).most_common(1)[0]
    if most < _SHARE * len(rows):
        return False
    rows = [row for row in rows if len(row) == length]
    if (length - 4) % 3 == 0 and all(value in (0, 1, 2) for row in rows for value in row[6::3]):
        return True
    if length % 2 or (length == 8 and sum(map(_is_parallelogram, rows)) >= _SHARE * len(rows)):
        return False
    speaks = Counter((_could_be_pose(row), _could_be_polygon(row)) for row in rows)
    pose, pose_alone, polygon_alone = speaks[True, False] + speaks[True, True], speaks[True, False], speaks[False, True]
    if pose < 0.8 * len(rows) and polygon_alone >= 0.15 * len(rows):
        return False
    return True if len(rows) >= _ENOUGH and pose >= _SHARE * len(rows) and pose_alone >= 0.3 * len(rows) else None


def _fits(count: int, keypoints: int | None) -> bool:
    """Whether a line may have so many numbers after its class."""
    if count == 4:
        return True
    if keypoints:
        return count == 4 + keypoints
    return count >= 6 and (count % 2 == 0 or (keypoints is None and (count - 4) % 3 == 0))


def _is_parallelogram(row: Sequence[float]) -> bool:
    return all(abs(row[side] + row[4 + side] - row[2 + side] - row[6 + side]) < _NEAR for side in (0, 1))


def _could_be_pose(row: Sequence[float]) -> bool:
    x, y, width, height = row[:4]
    inside = all(low - size / 2 > -2 * _NEAR and low + size / 2 < 1 + 2 * _NEAR for low, size in ((x, width), (y, height)))
    points = [point for point in zip(row[4::2], row[5::2], strict=True) if point != (0, 0)]  # at 0 where there is none
    reach = [size * 0.55 + _NEAR for size in (width, height)]
    return min(width, height) > 0 and inside and all(abs(px - x) <= reach[0] and abs(py - y) <= reach[1] for px, py in points)


def _could_be_polygon(row: Sequence[float]) -> bool:
    return all(
        min(others) - (grow := 0.25 * (max(others) - min(others)) + _NEAR) <= second <= max(others) + grow
        for second, others in ((row[2 + side], [row[side], *row[4 + side :: 2]]) for side in (0, 1))
    )


def _number(word: str) -> float:
    """Value of a word; not a number where it is none, or endless."""
    try:
        value = float(word) if "_" not in word else math.nan
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
