"""Time torchvision's ResNet-50-FPN with the weights of the rule: ``torchvision_speed.py IMAGE.npy``, where there is torchvision.

For each line on standard input one inference; its seconds and its number of proposals go to standard output, as JSON.
"""

import json
import sys
import time

import numpy as np
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d
from weight_rule import rule


def main(path: str) -> None:
    """Answer until the input ends."""
    torch.set_num_threads(2)
    image = np.load(path)  # (H, W, 3), uint8
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    net = FasterRCNN(body, 91, min_size=min(image.shape[:2]), max_size=max(image.shape[:2]))
    net.load_state_dict({name: torch.from_numpy(rule(name, tuple(old.shape))) for name, old in net.state_dict().items()})
    proposals: list[int] = []
    net.rpn.register_forward_hook(lambda _module, _inputs, output: proposals.append(len(output[0][0])))
    picture = [torch.from_numpy(image).permute(2, 0, 1).float() / 255]
    net.eval()
    for _ in sys.stdin:
        begun = time.perf_counter()
        with torch.no_grad():
            net(picture)
        print(json.dumps({"seconds": time.perf_counter() - begun, "proposals": proposals.pop()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
