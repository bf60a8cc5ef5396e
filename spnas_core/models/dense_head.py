"""What RetinaNet and FCOS share: two towers over all levels, their outputs for the losses, and the detections.

Shape shorthand: B images, C channels, H and W rows and columns of a level, S boxes per place, K classes, N places of a level or of all,
D detections. A level's boxes are numbered in the order (shape, row, column).
Source: torchvision `models/detection/retinanet.py`, number for number, but that only the best `roi.CANDIDATES` boxes per
detection enter NMS.
"""

from abc import abstractmethod

import numpy as np
from mindspore import Tensor, nn, ops

from spnas_core.data.images import Floats
from spnas_core.models import boxes as box_ops
from spnas_core.models import primitives as p
from spnas_core.models.anchors import Grid, place_anchors
from spnas_core.models.roi import CANDIDATES, Selection
from spnas_core.models.towers import PRIOR_SCORE, prediction, tower
from spnas_core.settings.detector import Detector, one_stage

Outputs = tuple[Tensor, ...]


def level_anchors(grid: Grid, ratios: tuple[float, ...], octave: int) -> list[Floats]:
    """Anchors (S, H * W, 4) of each level."""
    shapes = len(ratios) * octave
    return [np.ascontiguousarray(one.reshape(-1, shapes, 4).transpose(1, 0, 2)) for one in place_anchors(grid, ratios, octave)]


class LevelBest(nn.Cell):
    """The best pairs of box and class of one level, from scores of the pairs.

    A pair among the best has a box whose best class is among the best of these; so two selections of few do for one of many.
    """

    def __init__(self, anchors: Floats, classes: int, most: int) -> None:
        super().__init__()
        shapes, places = anchors.shape[:2]
        self.boxes, self.pairs = min(most, shapes * places), min(most, shapes * places * classes)
        shape, place = np.divmod(np.arange(shapes * places, dtype=np.int32), np.int32(places))
        self.first_class = Tensor(shape * np.int32(classes * places) + place)  # of each box, in the flat scores
        self.first_side = Tensor(shape * np.int32(4 * places) + place)  # and in the flat deltas
        self.class_steps = Tensor((np.arange(classes, dtype=np.int32) * np.int32(places)).reshape(1, 1, -1))
        self.side_steps = Tensor((np.arange(4, dtype=np.int32) * np.int32(places)).reshape(1, 1, -1))
        row, label = np.divmod(np.arange(self.boxes * classes, dtype=np.int32), np.int32(classes))
        self.row, self.label = Tensor(row), Tensor(label)
        self.anchors = Tensor(anchors.reshape(-1, 4))

    def of_boxes(self, keys: Tensor) -> Tensor:
        """Numbers (B, n) of the boxes with the best keys (B, S * N)."""
        return p.topk(keys, self.boxes)[1]

    def scores(self, scores: Tensor, box: Tensor) -> Tensor:
        """Scores (B, n, K) of the boxes `box` (B, n), from those (B, S, K, N) of all."""
        batch = scores.shape[0]
        index = p.expand_dims(p.gather(self.first_class, box, 0), -1) + self.class_steps
        return p.reshape(p.gather_elements(p.reshape(scores, (batch, -1)), 1, p.reshape(index, (batch, -1))), index.shape)

    def of_pairs(self, scores: Tensor, box: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Best scores (B, m) of the boxes' scores (B, n, K), with their class (B, m) from 0 on, anchor and deltas (B, m, 4)."""
        batch = scores.shape[0]
        best, order = p.topk(p.reshape(scores, (batch, -1)), self.pairs)
        box = p.gather_elements(box, 1, p.gather(self.row, order, 0))
        index = p.expand_dims(p.gather(self.first_side, box, 0), -1) + self.side_steps
        moved = p.gather_elements(p.reshape(deltas, (batch, -1)), 1, p.reshape(index, (batch, -1)))
        return best, p.gather(self.label, order, 0), p.gather(self.anchors, box, 0), p.reshape(moved, index.shape)


class DenseHead(nn.Cell):
    """Towers, predictions and detections; a subclass says what the box tower predicts, and how scores and boxes come of it."""

    def __init__(self, settings: Detector, classes: int, grid: Grid) -> None:
        super().__init__()
        head, channels = one_stage(settings), settings.neck.channels
        anchors = level_anchors(grid, head.anchor_ratios, head.anchor_octave)
        self.classes, self.shapes = classes, head.shapes
        self.places = np.concatenate(anchors, 1).reshape(-1, 4)  # (S * N, 4), of all levels
        norms = len(grid.sizes) if head.level_norms else 0
        self.class_tower = tower(channels, head.depth, head.groups, norms)
        self.box_tower = tower(channels, head.depth, head.groups, norms)
        self.score = prediction(channels, head.shapes * classes, PRIOR_SCORE)
        self.best = nn.CellList([LevelBest(one, classes, head.candidates) for one in anchors])
        self.select = Selection(settings, classes)
        self.most = CANDIDATES * settings.detections

    @abstractmethod
    def construct(self, x: Tensor, number: int) -> Outputs:
        """Give the outputs for the map (B, C, H, W) of a level, counted from 0, the finest.

        They are scores (B, S, K, N) before the sigmoid, then what the box tower predicts.
        """

    @abstractmethod
    def level(self, number: int, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Best scores (B, m) of a level, with their classes (B, m) from 0 on and their boxes (B, m, 4)."""

    def split(self, x: Tensor, values: int) -> Tensor:
        """Reshape (B, S * values, H, W) to (B, S, values, N)."""
        batch, channels = x.shape[:2]
        return p.reshape(x, (batch, channels // values, values, -1))

    def of_all_levels(self, maps: tuple[Tensor, ...]) -> Outputs:
        """Give the outputs for all levels, joined along the places."""
        levels: tuple[Outputs, ...] = ()
        for number in range(len(maps)):
            levels = (*levels, self.construct(maps[number], number))
        found: tuple[Tensor, ...] = ()
        for kind in range(len(levels[0])):
            parts: tuple[Tensor, ...] = ()
            for outputs in levels:
                parts = (*parts, outputs[kind])
            found = (*found, ops.Concat(3)(parts))
        return found

    def detect(self, maps: tuple[Tensor, ...], image_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find boxes (B, D, 4), scores (B, D; 0 = none) and labels (B, D); for soft-NMS, which runs later, as many as may enter it."""
        scores: tuple[Tensor, ...] = ()
        labels: tuple[Tensor, ...] = ()
        boxes: tuple[Tensor, ...] = ()
        for number in range(len(maps)):
            score, label, box = self.level(number, self.construct(maps[number], number))
            scores, labels, boxes = (*scores, score), (*labels, label), (*boxes, box)
        score, label = ops.Concat(1)(scores), ops.Concat(1)(labels)
        found = box_ops.clip(ops.Concat(1)(boxes), image_hw)
        best, order = p.topk(score, min(self.most, score.shape[1]))
        label = p.gather_elements(label, 1, order)
        detections: tuple[Tensor, Tensor, Tensor] = self.select.finish(box_ops.take(found, order), best, label)
        return detections
