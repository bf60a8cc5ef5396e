"""Settings of the detector: all of it but its backbone."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from spnas_core.cost import Stem
from spnas_core.settings.base import Settings, Taps


class Detector(Settings):
    """Faster R-CNN with FPN at a fixed size of the network input; the defaults are torchvision's, but for trained norms."""

    image_size: tuple[PositiveInt, PositiveInt] = Field((800, 1344), description="height and width of the network input, px")
    base_width: PositiveInt = Field(64, description="channels after the stem")
    stem: Stem = Field("7x7", description="7x7 stride 2 + max-pool, or two 3x3 stride-2 convolutions")
    norm: Literal["frozen", "train"] = Field("train", description="batch norm: trained, or frozen statistics and scale")
    norm_epsilon: float = Field(1e-5, ge=0, description="0.0 for torchvision's released COCO weights")
    frozen_stages: int = Field(0, ge=0, description="0: all is trained; n: the stem and the first n-1 stages are not")
    share_weights: bool = Field(True, description="a parallel copy uses the main stage's weights")
    fpn_channels: PositiveInt = Field(256, description="channels of every level of the neck")
    taps: Taps | None = Field(
        None, description="merged level that each output of the pyramid reads, [1, 1, 2, 3] for example; null: its own, [0, 1, 2, 3]"
    )
    head_channels: PositiveInt = Field(1024, description="width of the box head's two layers")
    anchor_scale: PositiveFloat = Field(8.0, description="side of a square anchor, in strides of its level")
    anchor_ratios: tuple[PositiveFloat, ...] = Field(
        (0.5, 1.0, 2.0), min_length=1, description="height / width of the anchors at each place"
    )
    rpn_batch: PositiveInt = Field(256, description="anchors per image that enter the RPN losses")
    proposals_train: PositiveInt = Field(2000, description="per level before and per image after NMS, in training")
    proposals_test: PositiveInt = Field(1000, description="the same in inference")
    rpn_nms: float = Field(0.7, gt=0, le=1, description="largest IoU of two proposals")
    cascade: bool = Field(False, description="Cascade R-CNN: three box heads, for IoU 0.5, 0.6, 0.7, each on the boxes of the one before")
    roi_batch: PositiveInt = Field(512, description="regions per image that enter the box head's losses")
    max_boxes: PositiveInt = Field(100, description="padding of the ground truth; more boxes in an image are reported and left out")
    score_threshold: float = Field(0.05, ge=0, lt=1, description="least score of a detection")
    box_nms: float = Field(0.5, gt=0, le=1, description="largest IoU of two detections of one class")
    soft_nms: Literal["linear", "gaussian"] | None = Field(
        None, description="lower the scores of boxes that overlap better ones (linear: from `box_nms` on) instead of removing them"
    )
    soft_nms_sigma: PositiveFloat = Field(0.5, description="of the gaussian")
    detections: PositiveInt = Field(100, description="most detections of one image")
