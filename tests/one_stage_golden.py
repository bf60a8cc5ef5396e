"""Make the golden values of `one_stage_golden.json`: ``one_stage_golden.py OUT.json SALT...``, with torchvision.

They are those of `retinanet_resnet50_fpn` and `fcos_resnet50_fpn` with the weights of the rule, and images and boxes drawn from the salt;
the second image is narrower, so torchvision pads it. A map is kept as its standard deviation and a few of its elements.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from one_stage_inputs import CLASSES, HEIGHT, PICKED, WIDTHS, draw
from torchvision.models import resnet50
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d
from weight_rule import rule

KINDS = {"retinanet": RetinaNet, "fcos": FCOS}


def one_stage(kind: str, **settings: int) -> torch.nn.Module:
    """Torchvision's detector as `retinanet_resnet50_fpn` or `fcos_resnet50_fpn` make it."""
    body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    backbone = _resnet_fpn_extractor(body, 3, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return KINDS[kind](backbone, CLASSES, **settings)


def build(kind: str, salt: int) -> torch.nn.Module:
    """Torchvision's detector with the weights of the rule."""
    net = one_stage(kind, min_size=HEIGHT, max_size=max(WIDTHS))
    net.load_state_dict({name: torch.from_numpy(rule(name, tuple(old.shape), salt)) for name, old in net.state_dict().items()})
    return net


def picked(x: torch.Tensor, kind: str) -> dict[str, Any]:
    """Standard deviation of a tensor, and the elements of it that are compared."""
    chosen = x[tuple(slice(None, None, step) for step in PICKED[kind])]
    return {"std": float(x.double().std()), "values": [float(f"{one:.5g}") for one in chosen.flatten().tolist()]}


def infer(net: torch.nn.Module, pictures: list[torch.Tensor]) -> dict[str, Any]:
    """Features, outputs of the heads, and detections."""
    kept: dict[str, Any] = {}
    for name, part in (("body", net.backbone.body), ("pyramid", net.backbone), ("head", net.head)):
        part.register_forward_hook(partial(lambda key, _module, _inputs, output: kept.__setitem__(key, output), name))
    with torch.no_grad():
        detections = net.eval()(pictures)
    found: dict[str, Any] = {name: [picked(x, name) for x in kept[name].values()] for name in ("body", "pyramid")}
    found["head"] = {name: picked(x, name) for name, x in kept["head"].items()}
    found["detections"] = [
        {name: np.round(value.double().numpy(), 2 if name == "boxes" else 4).tolist() for name, value in one.items()} for one in detections
    ]
    return found


def learn(net: torch.nn.Module, pictures: list[torch.Tensor], truth: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Losses and norms of gradients."""
    losses = net.train()(pictures, truth)
    sum(losses.values()).backward()
    norms = {name: float(f"{value.grad.double().norm():.5g}") for name, value in net.named_parameters() if value.grad is not None}
    return {"losses": {name: float(value.detach()) for name, value in losses.items()}, "gradients": norms}


def main(out: str, *salts: str) -> None:
    """Write the file."""
    golden: dict[str, Any] = {}
    for kind in KINDS:
        for salt in salts:
            images, boxes, labels = draw(int(salt))
            pictures = [
                torch.from_numpy(image[:, :width]).permute(2, 0, 1).float() / 255 for image, width in zip(images, WIDTHS, strict=True)
            ]
            truth = [{"boxes": torch.from_numpy(b), "labels": torch.from_numpy(k)} for b, k in zip(boxes, labels, strict=True)]
            net = build(kind, int(salt))
            golden[f"{kind} {salt}"] = infer(net, pictures) | learn(net, pictures, truth)
    Path(out).write_text(json.dumps(golden), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
