"""Faster R-CNN on one page: proposals and box head on the maps of backbone and neck; its losses and its detections.

Shape shorthand: B images, M padded ground-truth boxes, A anchors, P proposals, D detections.
Source: torchvision `models/detection/faster_rcnn.py`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from mindspore import Tensor

from spnas_core.arch import Arch
from spnas_core.data.images import Floats, Ints
from spnas_core.data.loader import Batch
from spnas_core.models import primitives as p
from spnas_core.models.anchors import anchor_grid
from spnas_core.models.cascade import CascadeHead
from spnas_core.models.detector import DetectorNet
from spnas_core.models.ranks import rank
from spnas_core.models.roi import BoxHead
from spnas_core.models.rpn import RegionProposal
from spnas_core.settings.detector import Detector


class FasterRCNN(DetectorNet):
    """The detector of one architecture for `classes` classes (background not counted), with one box head or a cascade of three."""

    def __init__(self, arch: Arch, settings: Detector, classes: int, half: bool = False) -> None:
        super().__init__(arch, settings, half)
        grid = anchor_grid(arch, settings)
        self.rpn = RegionProposal(settings, grid)
        self.head = (CascadeHead if settings.head.kind == "cascade_rcnn" else BoxHead)(settings, classes, *grid.regions()[:3])

    def construct(self, images: Tensor, image_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect, see `DetectorNet`."""
        return self.find(self.features(images), image_hw)

    def find(self, maps: tuple[Tensor, ...], image_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect on the neck's maps of images of valid size (B, 2), see `DetectorNet`."""
        scores, deltas = self.rpn(maps)
        proposals, valid = self.rpn.propose(scores, deltas, image_hw)
        return self.head.detect(maps, proposals, valid, image_hw)

    def losses(
        self,
        images: Tensor,
        image_hw: Tensor,
        truth: Tensor,
        labels: Tensor,
        region_noise: Tensor,
        anchor_index: Tensor,
        anchor_positive: Tensor,
        anchor_weight: Tensor,
        anchor_target: Tensor,
    ) -> Tensor:
        """Class, box, objectness and proposal-box loss (4,) of one batch, from what `inputs` gives.

        Ground truth is (B, M, 4) with labels (B, M), 0 = padding; noise (B, P + M) in (0, 1) draws regions; the rest is an `AnchorSample`.
        """
        sample = (anchor_index, anchor_positive, anchor_weight, anchor_target)
        return self.compare(self.features(images), image_hw, truth, labels, region_noise, *sample)

    def compare(
        self,
        maps: tuple[Tensor, ...],
        image_hw: Tensor,
        truth: Tensor,
        labels: Tensor,
        region_noise: Tensor,
        anchor_index: Tensor,
        anchor_positive: Tensor,
        anchor_weight: Tensor,
        anchor_target: Tensor,
    ) -> Tensor:
        """Losses, as `losses`, on the neck's maps."""
        scores, deltas = self.rpn(maps)
        objectness, rpn_box = self.rpn.losses(scores, deltas, anchor_index, anchor_positive, anchor_weight, anchor_target)
        proposals, valid = self.rpn.propose(scores, deltas, image_hw)
        classifier, box = self.head.losses(maps, proposals, valid, truth, labels, region_noise, image_hw)
        return p.stack_last((classifier, box, objectness, rpn_box))

    def noise_sizes(self) -> tuple[int, int]:
        """Anchors A, and proposals P in training."""
        limit, counts = self.rpn.propose.limits[1], self.rpn.counts
        return sum(counts), min(limit, sum(min(limit, count) for count in counts))

    def draws(self, truth: Floats, labels: Ints, seed: int, step: int) -> tuple[npt.NDArray[Any], ...]:
        """Random inputs of one step on boxes (B, M, 4) with labels (B, M), a pure function of (seed, step): a rank has its share of them.

        They are the noise (B, P + M) in (0, 1) that draws the regions, and the sampled anchors.
        """
        own, rng = rank(), np.random.default_rng((seed, step))
        anchors, proposals = self.noise_sizes()
        shapes = ((own.of * len(labels), size) for size in (anchors, proposals + labels.shape[1]))
        for_anchors, for_regions = (rng.random(shape, dtype=np.float32)[own.share] * (1 - 2e-6) + 1e-6 for shape in shapes)
        return (for_regions, *self.rpn.sample(truth, labels, for_anchors))

    def inputs(self, batch: Batch, seed: int, step: int) -> tuple[npt.NDArray[Any], ...]:
        """Images, sizes, boxes, labels, and what `draws` gives."""
        return (batch.images, batch.image_hw, batch.boxes, batch.labels, *self.draws(batch.boxes, batch.labels, seed, step))
