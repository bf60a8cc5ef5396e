"""Quality of a net that gives every pixel a class: IoU of each class, confusions, and val images with their masks, from stored outputs.

The outputs of a net on a split are those of `jobs/segmentation.py`: counts of pixels, of the whole split and of each image.
"""

import base64
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from spnas_core.data.images import Doubles, Pixels
from spnas_core.data.mask_colours import class_colours, overlay
from spnas_core.data.masks.mask_samples import MaskSample, MaskSplit
from spnas_core.errors import StoreError, UserError
from spnas_core.report.inputs import ReportInputs
from spnas_core.report.intervals import DRAWS_OF_IMAGES, ScoreDraws, draw_images
from spnas_core.report.quality import CONFUSIONS, MATRIX, Confusion

SIDE_OF_SHOT = 320  # px, longer side


class ClassRow(NamedTuple):
    """One class on val: its share of the pixels, and IoU and accuracy of the final net and of the start net; None where not known."""

    name: str
    share: float | None
    iou: float | None
    start_iou: float | None
    accuracy: float | None
    start_accuracy: float | None

    @property
    def change(self) -> float | None:
        """IoU minus the start net's."""
        known = self.iou is not None and self.start_iou is not None and min(self.iou, self.start_iou) >= 0
        return (self.iou or 0.0) - (self.start_iou or 0.0) if known else None


class MaskShot(NamedTuple):
    """One image with the mask of the truth, and with that of the net, as data URIs, and what is said of it."""

    name: str
    truth: str
    found: str
    words: str


@dataclass(frozen=True)
class PixelQuality:
    """Quality of the final net on val; `matrix`: rows of (per cent of the class's pixels, share), truth in rows, empty if too large."""

    names: tuple[str, ...]
    matrix: tuple[tuple[tuple[str, float], ...], ...]
    confusions: tuple[Confusion, ...]
    shots: tuple[tuple[str, tuple[MaskShot, ...]], ...]
    colours: tuple[tuple[str, str], ...]


def mean_iou(counts: dict[str, Doubles]) -> Doubles:
    """Mean IoU (R,) of R draws, of counts (R, K) of pixels: `right`, `truth`, `found`; over the classes that truth or net have."""
    right, truth, found = (counts[name] for name in ("right", "truth", "found"))
    union = truth + found - right
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nanmean(np.where(union > 0, right / union, np.nan), axis=1))


def mask_draws(outputs: dict[str, Any], draws: int = DRAWS_OF_IMAGES, seed: int = 0) -> ScoreDraws:
    """Compute the mIoU of a net, by its outputs on a split, on draws of the images; with one seed they are the same for all nets."""
    counts = {name: np.array([one[name] for one in outputs["images"]], np.float64) for name in ("right", "truth", "found")}
    images = len(outputs["images"])
    once, drawn = (
        mean_iou({name: weights @ array for name, array in counts.items()})
        for weights in (np.ones((1, images)), draw_images(images, draws, seed).astype(np.float64))
    )
    return ScoreDraws(float(once[0]), drawn)


def pixel_rows(inputs: ReportInputs) -> list[ClassRow]:
    """Rows of all classes, in their order."""
    results = {name: one.scores.get("val", {}) for name, one in inputs.stage.results.items()}
    final, start = (results.get(name, {}).get("per_class", {}) for name in ("final", inputs.stage.start_net))
    names = inputs.val.class_names if isinstance(inputs.val, MaskSplit) else tuple(final)
    shares: dict[str, float] = {}
    if isinstance(inputs.val, MaskSplit) and inputs.of_final is not None:
        sizes = np.array(inputs.of_final["counts"]["confusion"], np.float64).sum(1)
        shares = dict(zip(names, (sizes / max(1.0, float(sizes.sum()))).tolist(), strict=True))
    pairs = [(net, kind) for kind in ("IoU", "accuracy") for net in (final, start)]
    return [ClassRow(name, shares.get(name), *(net.get(name, {}).get(kind) for net, kind in pairs)) for name in names if final]


def judge_pixels(val: MaskSplit, outputs: dict[str, Any]) -> PixelQuality:
    """Judge the outputs of the final net on val."""
    table = np.array(outputs["counts"]["confusion"], np.float64)
    shares = table / np.maximum(1.0, table.sum(1, keepdims=True))
    names = val.class_names
    matrix = tuple(tuple((f"{100 * one:.0f}" if one >= 0.005 else "", float(one)) for one in row) for row in shares)
    pairs = [
        Confusion(names[a], names[b], int(table[a, b])) for a in range(len(names)) for b in range(len(names)) if a != b and table[a, b]
    ]
    most = tuple(sorted(pairs, key=lambda one: -one.times)[:CONFUSIONS])
    colours = tuple((name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in zip(names, class_colours(len(names)), strict=True))
    return PixelQuality(names, matrix if len(names) <= MATRIX else (), most, _shots(val, outputs["images"]), colours)


def _shots(val: MaskSplit, entries: Sequence[dict[str, Any]]) -> tuple[tuple[str, tuple[MaskShot, ...]], ...]:
    """Make the pictures of the images whose predictions are kept: best, worst, others; an image that cannot be read is left out."""
    kept = sorted((one for one in entries if "prediction" in one), key=lambda one: -_own_iou(one))
    each = len(kept) // 3
    samples = {sample.image_id: sample for sample in val.samples}
    groups = {"Best": kept[:each], "Worst": kept[len(kept) - each :][::-1], "Random": kept[each : len(kept) - each]}
    found = []
    for title, ones in groups.items():
        shots = []
        for one in ones:
            with contextlib.suppress(UserError, StoreError, KeyError):
                shots.append(_shot(samples[one["id"]], one))
        if shots:
            found.append((title, tuple(shots)))
    return tuple(found)


def _own_iou(entry: dict[str, Any]) -> float:
    counts = {name: np.array([entry[name]], np.float64) for name in ("right", "truth", "found")}
    return float(mean_iou(counts)[0]) if sum(entry["truth"]) else -1.0


def _shot(sample: MaskSample, entry: dict[str, Any]) -> MaskShot:
    pixels, classes = sample.image(), len(entry["truth"])
    prediction = np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["prediction"]))))
    right, truth = sum(entry["right"]), sum(entry["truth"])
    words = f"mIoU {100 * _own_iou(entry):.1f}, {100 * right / max(1, truth):.1f} % of its pixels right"
    return MaskShot(sample.name, _picture(pixels, sample.mask(), classes), _picture(pixels, prediction, classes), words)


def _picture(pixels: Pixels, mask: Pixels, classes: int) -> str:
    ratio = min(1.0, SIDE_OF_SHOT / max(pixels.shape[:2]))
    size = max(1, round(ratio * pixels.shape[1])), max(1, round(ratio * pixels.shape[0]))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    classes_of = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    stream = io.BytesIO()
    Image.fromarray(overlay(small, classes_of, classes)).save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
