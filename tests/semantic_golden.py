"""Semantic FPN written out in PyTorch: ``semantic_golden.py GIVEN.npz OUT.npz`` (torch alone, no torchvision).

GIVEN has the maps of the neck by level (`map_0`, ...), the masks, the weights of the head under this program's names, the class weights and
the size of the network input; OUT gets the scores, the enlarged scores' mean squares, the losses, and the gradient norms by name.
"""

import sys

import numpy as np
import torch
from torch.nn import functional as F

IGNORED = 255


class Head(torch.nn.Module):
    """Towers of 3x3 convolution, batch norm, ReLU and bilinear doubling, their sum, and a 1x1 convolution."""

    def __init__(self, given: dict[str, np.ndarray], levels: int) -> None:
        super().__init__()
        self.towers = torch.nn.ModuleList()
        for level in range(levels):
            tower = torch.nn.ModuleList()
            while (name := f"head.levels.{level}.{len(tower)}.") + "conv.weight" in given:
                weight = torch.from_numpy(given[f"{name}conv.weight"])
                conv = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
                norm = torch.nn.BatchNorm2d(weight.shape[0], eps=1e-5)
                conv.weight.data = weight
                for theirs, ours in (
                    ("weight", "gamma"),
                    ("bias", "beta"),
                    ("running_mean", "moving_mean"),
                    ("running_var", "moving_variance"),
                ):
                    getattr(norm, theirs).data = torch.from_numpy(given[f"{name}bn.{ours}"])
                tower.append(torch.nn.Sequential(conv, norm, torch.nn.ReLU()))
            self.towers.append(tower)
        weight = torch.from_numpy(given["head.classes.weight"])
        self.classes = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 1)
        self.classes.weight.data, self.classes.bias.data = weight, torch.from_numpy(given["head.classes.bias"])

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(())
        for level, tower in enumerate(self.towers):
            x = maps[level]
            for step, layer in enumerate(tower):
                x = layer(x)
                if level:
                    # the map one level finer has this size; where it is not double, a resize to it, as mmsegmentation ends a tower
                    x = F.interpolate(x, size=maps[level - 1 - step].shape[2:], mode="bilinear", align_corners=False)
            total = total + x
        return self.classes(total)

    def names(self) -> list[tuple[str, torch.nn.Parameter]]:
        found = []
        for level, tower in enumerate(self.towers):
            for step, (conv, norm, _) in enumerate(tower):
                name = f"head.levels.{level}.{step}."
                found += [(f"{name}conv.weight", conv.weight), (f"{name}bn.gamma", norm.weight), (f"{name}bn.beta", norm.bias)]
        return [*found, ("head.classes.weight", self.classes.weight), ("head.classes.bias", self.classes.bias)]


def dice(scores: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    counted = (masks != IGNORED)[:, None].float()
    truth = F.one_hot(torch.where(masks != IGNORED, masks, 0), scores.shape[1]).permute(0, 3, 1, 2).float() * counted
    shares = scores.softmax(1) * counted
    both, sizes = (shares * truth).sum((0, 2, 3)), (shares + truth).sum((0, 2, 3))
    return 1 - ((2 * both + 1) / (sizes + 1)).mean()


def lovasz(scores: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Per image, over the classes that it has; written out for one class and one image at a time."""
    images = []
    for share, mask in zip(scores.softmax(1), masks, strict=True):
        counted = mask != IGNORED
        losses = []
        for label in range(scores.shape[1]):
            truth = (mask[counted] == label).float()
            if truth.sum() == 0:
                continue
            errors, order = torch.sort((truth - share[label][counted]).abs(), descending=True)
            truth = truth[order]
            left, union = truth.sum() - truth.cumsum(0), truth.sum() + (1 - truth).cumsum(0)
            jaccard = 1 - left / union
            steps = torch.cat((jaccard[:1], jaccard[1:] - jaccard[:-1]))
            losses.append((errors * steps.detach()).sum())
        images.append(torch.stack(losses).mean())
    return torch.stack(images).mean()


def main(given_file: str, out: str) -> None:
    given = dict(np.load(given_file))
    maps = [torch.from_numpy(given[f"map_{level}"]) for level in range(sum(name.startswith("map_") for name in given))]
    masks, size = torch.from_numpy(given["masks"]).long(), tuple(given["size"].tolist())
    net = Head(given, len(maps)).eval()
    found = {"scores": net(maps).detach().numpy()}
    scores = F.interpolate(net.train()(maps), size=size, mode="bilinear", align_corners=False)
    weights = torch.from_numpy(given["class_weights"])
    cross_entropy = F.cross_entropy(scores, masks, weights, ignore_index=IGNORED)
    found |= {"losses": torch.stack((cross_entropy, dice(scores, masks), lovasz(scores, masks))).detach().numpy()}
    for kind, loss in (("dice", dice(scores, masks)), ("lovasz", lovasz(scores, masks))):
        net.zero_grad()
        (cross_entropy + 0.5 * loss).backward(retain_graph=True)
        found |= {f"{kind}/{name}": parameter.grad.norm().numpy() for name, parameter in net.names()}
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
