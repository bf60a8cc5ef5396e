"""The network of this folder in PyTorch: torchvision's Faster R-CNN, RetinaNet or FCOS, on a backbone of torchvision's residual blocks.

    from net import build

    model = build("this/folder")  # a module of torchvision.models.detection with its weights, to use or to train on

The labels of a FasterRCNN are those of model.json; RetinaNet and FCOS, which have no background, count them from 0.

The backbone is a text, TYPE_SERIAL_PARALLEL. TYPE: b BasicBlock, r Bottleneck, x(32x4d) ResNeXt. SERIAL: one digit per block, 2 doubles the
channels; `-` ends a stage, and the next begins with stride 2. PARALLEL: how many copies of each stage stand beside it.
Needs torch, torchvision and safetensors.
"""

import json
import re
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7


def build(folder: str | Path) -> FasterRCNN | RetinaNet | FCOS:
    """Build the network and load its weights; it is in evaluation mode."""
    card = json.loads((Path(folder) / "model.json").read_text())
    make = {"retinanet": retinanet, "fcos": fcos}.get(card["detector"]["head"]["kind"], faster_rcnn)
    model = make(Backbone(card["arch"], card["detector"]), card["detector"], len(card["classes"]))
    model.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
    return model.eval()


def selection(settings: dict[str, Any]) -> dict[str, Any]:
    """Give the settings of the last selection, and the size of the input."""
    soft = settings["soft_nms"] is not None  # its candidates are what comes out: none is removed here
    return {
        "min_size": min(settings["image_size"]),
        "max_size": max(settings["image_size"]),
        "score_thresh": settings["score_threshold"],
        "nms_thresh": 1.0 if soft else settings["box_nms"],
        "detections_per_img": settings["detections"] * (20 if soft else 1),
    }


def retinanet(backbone: "Backbone", settings: dict[str, Any], classes: int) -> RetinaNet:
    """Make torchvision's RetinaNet."""
    head, octave = settings["head"], settings["head"]["anchor_octave"]
    firsts = [head["anchor_scale"] * stride for stride in backbone.strides]
    sides = tuple((side, *(int(side * 2 ** (n / octave)) for n in range(1, octave))) for side in firsts)
    model = RetinaNet(
        backbone,
        classes,
        anchor_generator=AnchorGenerator(sides, (tuple(head["anchor_ratios"]),) * len(sides)),
        fg_iou_thresh=head["foreground_iou"],
        bg_iou_thresh=head["background_iou"],
        topk_candidates=head["candidates"],
        **selection(settings),
    )
    channels = backbone.out_channels
    for part in (model.head.classification_head, model.head.regression_head):
        part.conv = nn.Sequential(*(Conv2dNormActivation(channels, channels, norm_layer=None) for _ in range(head["depth"])))
    model.head.regression_head._loss_type = head["box_loss"]
    return model


def fcos(backbone: "Backbone", settings: dict[str, Any], classes: int) -> FCOS:
    """Make torchvision's FCOS."""
    head, channels = settings["head"], backbone.out_channels
    towers = FCOSHead(32, 1, classes, 1)  # of a size that fits its own norms; both parts are replaced
    norm = partial(nn.GroupNorm, head["norm_groups"])
    towers.classification_head = FCOSClassificationHead(channels, 1, classes, head["depth"], norm_layer=norm)
    towers.regression_head = FCOSRegressionHead(channels, 1, head["depth"], norm)
    return FCOS(
        backbone,
        classes,
        anchor_generator=AnchorGenerator(tuple((stride,) for stride in backbone.strides), ((1.0,),) * len(backbone.strides)),
        head=towers,
        center_sampling_radius=head["centre_radius"],
        topk_candidates=head["candidates"],
        **selection(settings),
    )


def faster_rcnn(backbone: "Backbone", settings: dict[str, Any], classes: int) -> FasterRCNN:
    """Make torchvision's Faster R-CNN."""
    head, common = settings["head"], selection(settings)
    levels = len(backbone.channels)
    sides = tuple((head["anchor_scale"] * stride,) for stride in backbone.strides)
    return FasterRCNN(
        backbone,
        min_size=common["min_size"],
        max_size=common["max_size"],
        rpn_anchor_generator=AnchorGenerator(sides, (tuple(head["anchor_ratios"]),) * len(sides)),
        rpn_pre_nms_top_n_test=head["proposals_test"],
        rpn_post_nms_top_n_test=head["proposals_test"],
        rpn_pre_nms_top_n_train=head["proposals_train"],
        rpn_post_nms_top_n_train=head["proposals_train"],
        rpn_batch_size_per_image=head["rpn_batch"],
        rpn_nms_thresh=head["rpn_nms"],
        box_roi_pool=MultiScaleRoIAlign([str(level) for level in range(levels)], 7, 2, canonical_scale=28 * head["anchor_scale"]),
        box_head=TwoMLPHead(settings["neck"]["channels"] * 49, head["head_channels"]),
        box_predictor=FastRCNNPredictor(head["head_channels"], classes + 1),
        box_batch_size_per_image=head["roi_batch"],
        box_score_thresh=common["score_thresh"],
        box_nms_thresh=common["nms_thresh"],
        box_detections_per_img=common["detections_per_img"],
    )


class Backbone(nn.Module):
    """Stages and pyramid, under the names of torchvision's `BackboneWithFPN`."""

    def __init__(self, arch: str, settings: dict[str, Any]) -> None:
        super().__init__()
        self.body = Body(arch, settings)
        neck = settings["neck"]
        self.first, kind = neck.get("first_level", 0), neck.get("extra_levels", "pool")
        self.channels = self.body.channels[self.first :]
        self.out_channels = neck["channels"]
        above = {"pool": LastLevelMaxPool, "none": lambda: None}.get(kind)
        extra = above() if above else LastLevelP6P7(self.out_channels if kind == "p5" else self.channels[-1], self.out_channels)
        self.fpn = FeaturePyramidNetwork(self.channels, self.out_channels, extra)
        levels = len(self.body.channels) + {"none": 0, "pool": 1}.get(kind, 2)
        self.strides = [4 << level for level in range(self.first, levels)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (B, 3, H, W) to the maps (B, C, H_l, W_l) of all levels, the extra ones last."""
        maps: dict[str, Tensor] = self.fpn(OrderedDict((str(level), y) for level, y in enumerate(self.body(x)[self.first :])))
        return maps


class Body(nn.Module):
    """Stem and stages, under the names of torchvision's `ResNet`, and the parallel copies of stages."""

    def __init__(self, arch: str, settings: dict[str, Any]) -> None:
        super().__init__()
        kind, serial, parallel, *inner = arch.split("_")
        width = settings["base_width"]
        self.eighths = [int(one) for one in inner[0].split("-")] if inner else [8] * (serial.count("-") + 1)
        self.norm = partial(FrozenBatchNorm2d if settings["norm"] == "frozen" else nn.BatchNorm2d, eps=settings["norm_epsilon"])
        self.block = self.residual(kind)
        self.small = settings["stem"] == "3x3"
        first = width // 2 if self.small else width
        self.conv1 = nn.Conv2d(3, first, 3 if self.small else 7, 2, 1 if self.small else 3, bias=False)
        self.bn1 = self.norm(first)
        if self.small:
            self.conv2, self.bn2 = nn.Conv2d(first, width, 3, 2, 1, bias=False), self.norm(width)
        self.copies_of = [int(count) for count in parallel.split("-")]
        self.shared = settings["share_weights"]
        self.channels: list[int] = []  # of every stage's output
        self.connect, self.copies = nn.ModuleList(), nn.ModuleList()
        inputs, planes = width, width
        for level, (digits, count) in enumerate(zip(serial.split("-"), self.copies_of, strict=True)):
            make = partial(self.stage, inputs, planes, digits, 2 if level else 1, self.eighths[level])
            stage, outputs, planes = make()
            self.add_module(f"layer{level + 1}", stage)
            connections = min(count, 1) if self.shared else count
            self.connect.append(nn.ModuleList(self.projection(outputs, inputs, 1) for _ in range(connections)))
            self.copies.append(nn.ModuleList() if self.shared else nn.ModuleList(make()[0] for _ in range(count)))
            self.channels.append(outputs)
            inputs = outputs

    def residual(self, kind: str) -> Any:
        """Give the class of the blocks, and keep their groups and base width."""
        if kind == "b":
            return BasicBlock
        self.groups, self.base_width = map(int, re.findall(r"\d+", kind)) if kind != "r" else (1, 64)
        return Bottleneck

    def projection(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        """1x1 convolution and norm."""
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), self.norm(outputs))

    def residual_block(self, inputs: int, planes: int, stride: int, shortcut: nn.Module | None, eighths: int) -> nn.Module:
        """Make one block; `eighths`: its width inside, as a share of what its type says."""
        if self.block is BasicBlock:
            block = BasicBlock(inputs, planes, stride, shortcut, norm_layer=self.norm)
            if eighths != 8:
                inner = max(1, planes * eighths // 8)
                block.conv1, block.bn1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False), self.norm(inner)
                block.conv2 = nn.Conv2d(inner, planes, 3, 1, 1, bias=False)
            return block
        channels = max(1, planes * self.base_width // 64 * eighths // 8)  # of one group
        width = (channels + 0.5) * 64 / planes  # torchvision rounds planes * width / 64 down
        return Bottleneck(inputs, planes, stride, shortcut, self.groups, width, norm_layer=self.norm)

    def stage(self, inputs: int, planes: int, digits: str, stride: int, eighths: int) -> tuple[nn.Sequential, int, int]:
        """Make the blocks of one stage; also returns its output channels, and its planes."""
        blocks = []
        for digit in digits:
            planes *= int(digit)
            outputs = planes * (1 if self.block is BasicBlock else 4)
            shortcut = self.projection(inputs, outputs, stride) if stride != 1 or inputs != outputs else None
            blocks.append(self.residual_block(inputs, planes, stride, shortcut, eighths))
            inputs, stride = outputs, 1
        return nn.Sequential(*blocks), inputs, planes

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give the outputs (B, C_l, H_l, W_l) of the stages. Copies chain from the last to the first and into the stage, by connections."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x))) if self.small else F.max_pool2d(x, 3, 2, 1)
        outputs: list[Tensor] = []
        previous: list[Tensor] = []
        for level, count in enumerate(self.copies_of):
            stage = self.get_submodule(f"layer{level + 1}")
            following = self.copies_of[level + 1] if level + 1 < len(self.copies_of) else 0
            kept: list[Tensor] = []
            carry: Tensor | float = 0.0
            for number in reversed(range(count)):
                z = previous[min(number, len(previous) - 1)] if previous else x
                z = (stage if self.shared else self.copies[level][number])(z + carry)
                if number < following:
                    kept.insert(0, z)
                carry = F.interpolate(self.connect[level][0 if self.shared else number](z), x.shape[-2:])
            x = stage(x + carry)
            outputs.append(x)
            previous = kept
        return outputs
