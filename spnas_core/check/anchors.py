"""Box sizes against the anchors: boxes that no anchor reaches, and a scale and ratios that fit better.

Shapes: n = boxes. Boxes here are xyxy, px of the network input. An anchor reaches a box at IoU 0.5, where it lies on its grid: of the
anchors of one level and ratio the one that is nearest in x and in y overlaps a box most, so the others do not count.

The better set has as many ratios as the settings, since these cost time. For each scale of a row of them, the ratios are found by k-means
under the distance 1 - IoU of boxes and anchors around one centre (Redmon and Farhadi, YOLO9000, CVPR 2017, section 2, "Dimension
Clusters"), but that all levels share the ratios: a ratio moves to the mean, in log, of the boxes that are nearest to it on any level.
Of all scales the one is taken that leaves the fewest boxes unreached, on the grid.

FCOS has points instead of anchors: there a box is unreached that would have no point to itself, so it is never learnt.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spnas_core.arch import Arch
from spnas_core.data.findings import Finding
from spnas_core.data.images import Doubles
from spnas_core.models.anchors import Grid, anchor_grid, anchor_shapes, anchor_sides, steps
from spnas_core.models.dense_targets import COARSEST, FINEST
from spnas_core.settings.detector import Detector
from spnas_core.settings.one_stage import FcosHead, RetinaNetHead

REACH = 0.5  # IoU
GAIN = 0.01  # share of boxes that a better set must reach more
SCALES = tuple(2.0 ** (n / 4) for n in range(-8, 5))  # of the settings' own, to try
ROUNDS = 12  # of k-means
SAMPLE = 5000  # boxes to find ratios for


def judge_anchors(split: str, boxes: Doubles, sizes: Doubles, arch: Arch, settings: Detector) -> list[Finding]:
    """All findings about boxes (n, 4), xywh px of images of `sizes` (n, 2: width, height), and the anchors of a detector."""
    if not len(boxes):
        return []
    scaled = to_input(boxes, sizes, settings.image_size)
    grid, head = anchor_grid(arch, settings), settings.head
    octave = head.anchor_octave if isinstance(head, RetinaNetHead) else 1
    if isinstance(head, FcosHead):
        missed = ~has_point(scaled, grid, head.centre_radius)
    else:
        missed = best_iou(scaled, grid, head.anchor_ratios, octave) < REACH
    share, at = missed.mean(), "x".join(map(str, settings.image_size))
    kind = "no-point" if isinstance(head, FcosHead) else "unreached"
    findings = [Finding(kind, split, int(missed.sum()), f"{share:.1%} of {len(boxes):,}, network input {at} px")]
    if isinstance(head, FcosHead):
        return findings
    scale, ratios = fit_anchors(scaled, arch, settings, octave)
    left = (best_iou(scaled, _scaled_grid(arch, settings, scale), ratios, octave) < REACH).mean()
    if left <= share - GAIN:
        text = f"--set detector.head.anchor_scale={scale:g} --set 'detector.head.anchor_ratios=[{', '.join(f'{r:g}' for r in ratios)}]'"
        findings.append(Finding("better-anchors", split, 1, f"{text} leaves {left:.1%} unreached"))
    return findings


def to_input(boxes: Doubles, sizes: Doubles, image_size: tuple[int, int]) -> Doubles:
    """Boxes (n, 4), xywh px of images of `sizes` (n, 2), as xyxy px of the network input into which the images are fitted."""
    ratio = np.minimum(image_size[1] / sizes[:, :1], image_size[0] / sizes[:, 1:])
    return np.asarray(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * ratio)


def _scaled_grid(arch: Arch, settings: Detector, scale: float) -> Grid:
    """Grid of a detector whose head has another `anchor_scale`."""
    return anchor_grid(arch, settings.model_copy(update={"head": {**settings.head.model_dump(), "anchor_scale": scale}}))


def has_point(boxes: Doubles, grid: Grid, radius: float) -> npt.NDArray[np.bool_]:
    """Whether each box (n, 4) has a point of FCOS, were it alone, (n,): inside, near the centre, on a level for its size."""
    found = np.zeros(len(boxes), np.bool_)
    middle, last = (boxes[:, :2] + boxes[:, 2:]) / 2, len(grid.sizes) - 1
    for level, ((rows, columns), step, side) in enumerate(zip(grid.sizes, steps(grid), grid.sides, strict=True)):
        low, high = (FINEST * side if level else 0.0), (COARSEST * side if level < last else np.inf)
        step_xy = np.array(step[::-1], np.float64)
        reach = int(np.ceil(radius * side / step_xy.min()))
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                place = np.round(middle / step_xy) + np.array((right, down))
                inside = ((place >= 0) & (place < (columns, rows))).all(1)
                point = place * step_xy
                near = np.abs(point - middle).max(1) < radius * side
                sides = np.concatenate((point - boxes[:, :2], boxes[:, 2:] - point), 1)
                found |= inside & near & (sides.min(1) > 0) & (sides.max(1) > low) & (sides.max(1) < high)
    return found


def best_iou(boxes: Doubles, grid: Grid, ratios: Sequence[float], octave: int = 1) -> Doubles:
    """IoU of each box (n, 4) with the anchor that overlaps it most, (n,)."""
    best = np.zeros(len(boxes))
    centres, areas = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for (rows, columns), (down, right), side in zip(grid.sizes, steps(grid), grid.sides, strict=True):
        place = np.clip(np.round(centres / (right, down)), 0, (columns - 1, rows - 1)) * (right, down)
        for shape in anchor_shapes(side, tuple(ratios), octave).astype(np.float64):
            overlap = np.minimum(boxes[:, 2:], place + shape[2:]) - np.maximum(boxes[:, :2], place + shape[:2])
            inter = np.maximum(overlap, 0).prod(axis=1)
            best = np.maximum(best, inter / (areas + (shape[2:] - shape[:2]).prod() - inter))
    return best


def fit_anchors(boxes: Doubles, arch: Arch, settings: Detector, octave: int = 1) -> tuple[float, tuple[float, ...]]:
    """Scale and ratios, rising, that leave the fewest of the boxes (n, 4; at most 5,000 of them count) unreached."""
    some = boxes[:: -(-len(boxes) // SAMPLE)]
    shapes = np.maximum(some[:, 2:] - some[:, :2], 1e-3)
    tried = []
    for factor in SCALES:
        scale = float(f"{settings.head.anchor_scale * factor:.3g}")
        grid = _scaled_grid(arch, settings, scale)
        sides = np.array([one for side in grid.sides for one in anchor_sides(side, octave)])
        ratios = _cluster(shapes, sides, len(settings.head.anchor_ratios))
        ious = best_iou(some, grid, ratios, octave)
        tried.append(((ious >= REACH).mean(), ious.mean(), scale, ratios))
    _, _, scale, ratios = max(tried)
    return scale, ratios


def _cluster(shapes: Doubles, sides: Doubles, count: int) -> tuple[float, ...]:
    """`count` ratios of height to width for boxes of `shapes` (n, 2: width, height) and square anchors of `sides`."""
    logs = np.log(shapes[:, 1] / shapes[:, 0])
    centres = np.quantile(logs, (np.arange(count) + 0.5) / count)
    for _ in range(ROUNDS):
        root = np.exp(centres / 2)
        width, height = (sides[:, None] / root).ravel(), (sides[:, None] * root).ravel()  # of every level and ratio
        inter = np.minimum(shapes[:, :1], width) * np.minimum(shapes[:, 1:], height)
        iou = inter / (shapes.prod(axis=1)[:, None] + width * height - inter)
        nearest = iou.argmax(axis=1) % count
        members = np.bincount(nearest, minlength=count)
        moved = np.bincount(nearest, logs, minlength=count) / np.maximum(members, 1)
        centres = np.where(members > 0, moved, centres)
    return tuple(float(f"{ratio:.2g}") for ratio in np.sort(np.exp(centres)))
