"""Time torchvision's ResNet-50-FPN with the weights of the rule: ``torchvision_speed.py IMAGE.npy infer|train [retinanet|fcos]``.

For each line on standard input one inference, or one training step with two of the image (frozen norms, stem and first stage); its seconds
and its number of proposals, 0 for a one-stage detector, go to standard output, as JSON.
"""

import json
import sys
import time

import numpy as np
import torch
from one_stage_golden import one_stage
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d
from weight_rule import BATCH, LR, TRUTH, rule


def main(path: str, work: str, kind: str = "faster_rcnn") -> None:
    """Answer until the input ends."""
    torch.set_num_threads(2)
    image = np.load(path)  # (H, W, 3), uint8
    size = {"min_size": min(image.shape[:2]), "max_size": max(image.shape[:2])}
    if kind == "faster_rcnn":
        body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3)
        net = FasterRCNN(body, 91, **size)
    else:
        net = one_stage(kind, **size)
    net.load_state_dict({name: torch.from_numpy(rule(name, tuple(old.shape))) for name, old in net.state_dict().items()})
    proposals: list[int] = []
    if kind == "faster_rcnn":
        net.rpn.register_forward_hook(lambda _module, _inputs, output: proposals.append(len(output[0][0])))
    pictures = [torch.from_numpy(image).permute(2, 0, 1).float() / 255] * BATCH
    truth = [{"boxes": torch.tensor(TRUTH), "labels": torch.arange(1, len(TRUTH) + 1)} for _ in pictures]
    optimiser = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], LR, 0.9)
    net.train(work == "train")
    for _ in sys.stdin:
        begun = time.perf_counter()
        if work == "train":
            optimiser.zero_grad()
            sum(net(pictures, truth).values()).backward()
            optimiser.step()
        else:
            with torch.no_grad():
                net(pictures[:1])
        print(json.dumps({"seconds": time.perf_counter() - begun, "proposals": proposals.pop() if proposals else 0}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
