"""Make golden values for another salt, as those of `golden_weights.GOLDEN`: ``torchvision_golden.py OUT.npz SALT``, with torchvision.

Images and ground truth are drawn at random from the salt too. The second image is narrower, so torchvision pads it, and an image
has as many detections as by default; `sizes` and `detections` say so.
"""

import sys
from typing import Any

import numpy as np
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d
from weight_rule import rule

HEIGHT, WIDTHS, CLASSES = 256, (320, 288), 91
DETECTIONS = 100


def build(salt: int, **settings: int) -> FasterRCNN:
    """Torchvision's ResNet-50-FPN detector with the weights of the rule."""
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3)
    net = FasterRCNN(body, CLASSES, min_size=HEIGHT, max_size=max(WIDTHS), box_detections_per_img=DETECTIONS, **settings)
    net.load_state_dict({name: torch.from_numpy(rule(name, tuple(old.shape), salt)) for name, old in net.state_dict().items()})
    return net


def ground_truth(rng: np.random.Generator) -> list[dict[str, torch.Tensor]]:
    """Five boxes of the first image and eight of the second, at least 16 px wide and high."""
    truth = []
    for count, width in zip((5, 8), WIDTHS, strict=True):
        corner = rng.random((count, 2)) * (width - 64, HEIGHT - 64)
        boxes = np.concatenate((corner, corner + 16 + rng.random((count, 2)) * 48), 1).astype(np.float32)
        truth.append({"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(rng.integers(1, CLASSES, count))})
    return truth


def infer(net: FasterRCNN, pictures: list[torch.Tensor]) -> dict[str, Any]:
    """Features, proposals, pooled features and detections."""
    found: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    net.rpn.register_forward_hook(lambda _module, _inputs, output: kept.update(proposals=output[0]))
    net.roi_heads.box_roi_pool.register_forward_hook(lambda _module, _inputs, output: kept.update(pooled=output))
    net.backbone.body.register_forward_hook(lambda _module, _inputs, output: kept.update(body=output))
    net.backbone.register_forward_hook(lambda _module, _inputs, output: kept.update(pyramid=output))
    net.rpn.head.register_forward_hook(lambda _module, _inputs, output: kept.update(head=output))
    net.rpn.anchor_generator.register_forward_hook(lambda _module, _inputs, output: kept.update(anchors=output))
    with torch.no_grad():
        detections = net.eval()(pictures)
    for level, x in enumerate(kept["body"].values()):
        stage = x.double()
        found |= {f"body_{level}_mean": stage.mean(), f"body_{level}_std": stage.std(), f"body_{level}_slice": x[:, ::37, ::3, ::3]}
    for level, x in kept["pyramid"].items():
        found |= {f"fpn_{level}_std": x.double().std(), f"fpn_{level}_slice": x[:, ::29, ::2, ::2]}
    for kind, maps in zip(("objectness", "deltas"), kept["head"], strict=True):
        found |= {f"rpn_{kind}_{level}": x[:, :, ::2, ::2] for level, x in enumerate(maps)}
    anchors = kept["anchors"][0]
    found |= {"anchors_count": torch.tensor(len(anchors)), "anchors_first_image_every_101": anchors[::101]}
    found |= {"roi_slice": kept["pooled"][::17, ::31], "roi_std": kept["pooled"].double().std()}
    for image, one in enumerate(detections):
        found[f"proposals_{image}"] = kept["proposals"][image]
        found |= {f"det_{name}_{image}": value for name, value in one.items()}
    return found


def learn(net: FasterRCNN, pictures: list[torch.Tensor], truth: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Losses and norms of gradients."""
    losses = net.train()(pictures, truth)
    sum(losses.values()).backward()
    trained = [(name, float(value.grad.double().norm())) for name, value in net.named_parameters() if value.grad is not None]
    found: dict[str, Any] = {name if name.startswith("loss") else f"loss_{name}": value.detach() for name, value in losses.items()}
    return found | {"grad_names": np.array([name for name, _ in trained]), "grad_norms": np.array([norm for _, norm in trained])}


def main(out: str, salt: int) -> None:
    """Write the file."""
    torch.manual_seed(0)
    rng = np.random.default_rng(salt)
    images = rng.integers(0, 256, (len(WIDTHS), HEIGHT, max(WIDTHS), 3)).astype(np.uint8)
    pictures = [torch.from_numpy(image[:, :width]).permute(2, 0, 1).float() / 255 for image, width in zip(images, WIDTHS, strict=True)]
    truth = ground_truth(rng)
    net = build(salt)
    names = list(net.state_dict())
    shapes = [",".join(map(str, value.shape)) for value in net.state_dict().values()]
    found = infer(net, pictures)
    found |= learn(build(salt, rpn_batch_size_per_image=10**6, box_batch_size_per_image=10**6), pictures, truth)
    for image, one in enumerate(truth):
        found |= {f"gt_{name}_{image}": value for name, value in one.items()}
    arrays = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in found.items()}
    facts = {"sizes": np.array([(HEIGHT, width) for width in WIDTHS]), "detections": np.array(DETECTIONS), "salt": np.array(salt)}
    np.savez(out, images=images, names=np.array(names), shapes=np.array(shapes), **facts, **arrays)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
