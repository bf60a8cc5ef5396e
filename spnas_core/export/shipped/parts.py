"""What runs between the networks of a folder that has several: proposals, pooling of regions and the last selection, in numpy.

`trunk` is the network up to the maps and the scores of all anchors; `head0` (of a cascade `head1`, `head2` too) judges pooled regions. The
trunk of a one-stage detector gives the scores and boxes of all places, and there is no other network.
Shape shorthand: C channels, A anchor shapes of a place, H and W rows and columns of a level, P proposals, N boxes, K classes, S bins per
side of a region (7), T cells that a bin reads along a side (4). Boxes are xyxy, px of the network's input.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Part = Callable[[Array], list[Array]]
CODERS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))  # of the heads; that of the proposals is 1
LOG_LIMIT = np.float32(np.log(1000 / 16))  # of the growth of a box
CANDIDATES = 20  # boxes that enter the last NMS, for each detection
S, T = 7, 4
TOGETHER = 64  # regions pooled at once, for the memory


class Parts:
    """Networks of a folder, and what runs between them: images (B, 3, H, W), valid sizes (B, 2) to boxes, scores and labels."""

    def __init__(self, folder: Path, card: dict[str, Any]) -> None:
        self.settings, self.levels, self.classes = card["detector"], card["levels"], len(card["classes"])
        self.trunk = open_part(folder, "trunk")
        heads = {"cascade_rcnn": len(CODERS), "faster_rcnn": 1}.get(self.settings["head"]["kind"], 0)
        self.heads = [open_part(folder, f"head{number}") for number in range(heads)]

    def __call__(self, images: Array, image_hw: Array) -> tuple[Array, Array, Array]:
        """Detect in each image, one after the other."""
        found = [self.detect(images[row : row + 1], image_hw[row]) for row in range(len(images))]
        boxes, scores, labels = (np.stack(one) for one in zip(*found, strict=True))
        return boxes, scores, labels

    def detect(self, image: Array, hw: Array) -> tuple[Array, Array, Array]:
        """Boxes (D, 4), scores (D,) and labels (D,) of one image (1, 3, H, W)."""
        limits = np.array([hw[1], hw[0]] * 2, np.float32)
        outputs = self.trunk(image)
        if not self.heads:
            return self.finish(*self.best_places(outputs, limits))
        pooled = [level for level in self.levels if level["stride"]]
        maps, scores, deltas = outputs[: len(pooled)], outputs[len(pooled) :: 2], outputs[len(pooled) + 1 :: 2]
        regions, valid = self.propose(scores, deltas, limits)
        flat = np.concatenate([one[0].reshape(len(one[0]), -1).T for one in maps]).astype(np.float32, copy=False)
        sizes = [one.shape[2:] for one in maps]
        share = np.zeros((), np.float32)
        for head, coder in zip(self.heads, CODERS, strict=False):
            judged, delta = head(pool(flat, sizes, pooled, regions))
            share = share + judged.astype(np.float32) / np.float32(len(self.heads))  # a device may give float16
            delta = delta.astype(np.float32).reshape(len(regions), -1, 4)
            if len(self.heads) > 1:
                regions = np.minimum(np.maximum(decode(delta[:, 0], regions, coder), 0), limits)
                found = np.repeat(regions, self.classes, 0)
            else:
                found = decode(delta[:, 1:], regions[:, None], coder).reshape(-1, 4)
                found = np.minimum(np.maximum(found, 0), limits)
        return self.select(found, share[:, 1:] * valid[:, None])

    def propose(self, scores: list[Array], deltas: list[Array], limits: Array) -> tuple[Array, Array]:
        """Proposals (P, 4), and whether each is one (P,), of the levels' scores (1, A, H, W) and deltas (1, 4A, H, W)."""
        most, best, found, kept = self.settings["head"]["proposals_test"], [], [], []
        for level, score, delta in zip(self.levels, scores, deltas, strict=True):
            shapes, (down, right) = np.array(level["anchors"], np.float32), level["step"]
            flat = score[0].transpose(1, 2, 0).astype(np.float32).ravel()
            order = np.argsort(-flat, kind="stable")[:most]
            y, x, shape = np.unravel_index(order, (*score.shape[2:], len(shapes)))
            anchors = shapes[shape] + np.stack((x * right, y * down) * 2, 1).astype(np.float32)
            move = delta[0].astype(np.float32).reshape(len(shapes), 4, *score.shape[2:])[shape, :, y, x]
            boxes = np.minimum(np.maximum(decode(move, anchors, (1.0,) * 4), 0), limits)
            best.append(flat[order])
            found.append(boxes)
            kept.append(nms(boxes, np.zeros(len(boxes)), self.settings["head"]["rpn_nms"]) & large(boxes, 1e-3))
        boxes, keep = np.concatenate(found), np.concatenate(kept)
        with np.errstate(over="ignore"):
            chance = 1 / (1 + np.exp(-np.concatenate(best)))
        order = np.argsort(-np.where(keep, chance, -1), kind="stable")[:most]
        return boxes[order] * keep[order, None], keep[order]

    def select(self, found: Array, share: Array) -> tuple[Array, Array, Array]:
        """Select the detections from boxes (P * K, 4) and their shares (P, K); with soft-NMS its candidates."""
        score = share.ravel() * large(found, 1e-2)
        order = np.argsort(-score, kind="stable")[: CANDIDATES * self.settings["detections"]]
        return self.finish(found[order], score[order], order % self.classes)

    def best_places(self, outputs: list[Array], limits: Array) -> tuple[Array, Array, Array]:
        """Boxes (N, 4), scores (N,) and classes (N,) from 0 on of a one-stage detector's outputs, the best first."""
        kinds = 3 if self.settings["head"]["kind"] == "fcos" else 2
        best, found, classes = [], [], []
        for level, first in zip(self.levels, range(0, len(outputs), kinds), strict=True):
            shapes, (down, right) = np.array(level["anchors"], np.float32), level["step"]
            height, width = outputs[first].shape[2:]
            score, move, *middle = (
                one[0].astype(np.float32).reshape(len(shapes), -1, height, width) for one in outputs[first : first + kinds]
            )
            with np.errstate(over="ignore"):
                chance = 1 / (1 + np.exp(-score))
                for one in middle:
                    chance = np.sqrt(chance / (1 + np.exp(-one)))
            flat = chance.ravel()
            most = min(self.settings["head"]["candidates"], len(flat))
            order = np.argpartition(-flat, most - 1)[:most]
            shape, label, y, x = np.unravel_index(order, chance.shape)
            anchors = shapes[shape] + np.stack((x * right, y * down) * 2, 1).astype(np.float32)
            deltas = move[shape, :, y, x]
            boxes = around(deltas, anchors) if middle else decode(deltas, anchors, (1.0,) * 4)
            best.append(flat[order])
            found.append(np.minimum(np.maximum(boxes, 0), limits))
            classes.append(label)
        scores = np.concatenate(best)
        order = np.argsort(-scores, kind="stable")[: CANDIDATES * self.settings["detections"]]
        return np.concatenate(found)[order], scores[order], np.concatenate(classes)[order]

    def finish(self, boxes: Array, best: Array, labels: Array) -> tuple[Array, Array, Array]:
        """Select the detections from candidates, the best first; with soft-NMS these are the candidates."""
        best = best * (best > self.settings["score_threshold"])
        if not self.settings["soft_nms"]:
            best = best * nms(boxes, labels, self.settings["box_nms"])
            order = np.argsort(-best, kind="stable")[: self.settings["detections"]]
            boxes, best, labels = boxes[order], best[order], labels[order]
        return boxes, best.astype(np.float32), (labels + 1) * (best > 0)


def open_part(folder: Path, name: str) -> Part:
    """Open a network: NAME.om on an Ascend device where it is there, by Ascend's ais_bench, else NAME.onnx in onnxruntime."""
    if (folder / f"{name}.om").exists():
        from ais_bench.infer.interface import InferSession

        device = InferSession(0, str(folder / f"{name}.om"))
        return lambda given: list(device.infer([given]))
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=onnxruntime.get_available_providers())
    (given,) = session.get_inputs()
    return lambda array: list(session.run(None, {given.name: array}))


def decode(deltas: Array, references: Array, weights: tuple[float, ...]) -> Array:
    """Boxes (..., 4) from deltas (..., 4) and the boxes that they refer to."""
    low, size = references[..., :2], references[..., 2:] - references[..., :2]
    move, grow = deltas[..., :2] / np.float32(weights[0]), deltas[..., 2:] / np.float32(weights[2])
    centre, half = low + size * 0.5 + move * size, np.exp(np.minimum(grow, LOG_LIMIT)) * size * 0.5
    return np.concatenate((centre - half, centre + half), -1)


def around(distances: Array, squares: Array) -> Array:
    """Boxes (N, 4) by the distances (N, 4) of their sides from the centres of `squares` (N, 4), in sides of these."""
    centre, side = (squares[:, :2] + squares[:, 2:]) / 2, squares[:, 2:] - squares[:, :2]
    return np.concatenate((centre - distances[:, :2] * side, centre + distances[:, 2:] * side), 1)


def large(boxes: Array, side: float) -> Array:
    """Whether both sides of boxes (N, 4) are at least `side` px (N,)."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).min(1) >= side)


def nms(boxes: Array, groups: Array, limit: float) -> Array:
    """Whether boxes (N, 4), the best first, survive NMS among those of their group (N,): (N,)."""
    area = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    keep = np.ones(len(boxes), bool)
    for row in range(len(boxes)):
        if keep[row]:
            rest = boxes[row + 1 :]
            inter = np.prod(np.maximum(np.minimum(rest[:, 2:], boxes[row, 2:]) - np.maximum(rest[:, :2], boxes[row, :2]), 0), 1)
            iou = inter / np.maximum(area[row + 1 :] + area[row] - inter, 1e-12)
            keep[row + 1 :] &= (iou <= limit) | (groups[row + 1 :] != groups[row])
    return keep


def pool(flat: Array, sizes: list[tuple[int, ...]], levels: list[dict[str, Any]], regions: Array) -> Array:
    """Features (P, C * S * S) of regions (P, 4), as RoIAlign of 2 x 2 points a bin, not aligned, pools them (He et al., ICCV 2017).

    `flat` (cells, C) has the cells of all levels; a region is pooled from the last level whose least size it reaches.
    """
    side = np.sqrt(np.maximum(np.prod(regions[:, 2:] - regions[:, :2], 1), 0))
    level = (side[:, None] >= np.array([one["least"] for one in levels[1:]], np.float32)).sum(1)
    starts = np.cumsum([0, *(height * width for height, width in sizes[:-1])])
    height, width = np.array(sizes)[level].T
    scaled = regions / np.array([one["stride"] for one in levels], np.float32)[level, None]
    rows, down = line(scaled[:, 1], scaled[:, 3], height)
    columns, across = line(scaled[:, 0], scaled[:, 2], width)
    rows = rows * width[:, None, None] + starts[level, None, None]
    pooled = []
    for first in range(0, len(regions), TOGETHER):
        part = slice(first, first + TOGETHER)
        index = rows[part, :, None, :, None] + columns[part, None, :, None, :]  # (n, S, S, T, T)
        weights = down[part, :, None, :, None] * across[part, None, :, None, :]
        cells = flat[index.reshape(-1, T * T)]
        means = np.matmul(weights.reshape(-1, 1, T * T), cells)
        pooled.append(means.reshape(len(index), S * S, -1).transpose(0, 2, 1).reshape(len(index), -1))
    return np.concatenate(pooled)


def line(low: Array, high: Array, length: Array) -> tuple[Array, Array]:
    """Cells, and their weights, both (P, S, T), that the bins of [low, high] (P,) average on lines of `length` (P,) cells."""
    offsets = ((np.arange(2 * S) + 0.5) / (2 * S)).astype(np.float32)
    points = low[:, None] + np.maximum(high - low, 1)[:, None] * offsets
    inside = ((points >= -1) & (points <= length[:, None])) * np.float32(0.5)
    points = np.minimum(np.maximum(points, 0), length[:, None].astype(np.float32) - 1)
    before = np.floor(points)
    share = (points - before) * inside
    cells = np.stack((before, np.minimum(before + 1, length[:, None] - 1)), -1).astype(np.int64)
    return cells.reshape(-1, S, T), np.stack((inside - share, share), -1).reshape(-1, S, T).astype(np.float32)
