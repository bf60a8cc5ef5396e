"""Script: torchvision's segmentation nets trained from scratch for some minutes, beside which the project's own are set (docs/results.md).

    PYTHONPATH=. PYTHON tests/torchvision_segmentation.py DATA NET MINUTES OUT.json [LR]

PYTHON imports torch, torchvision and what `spnas_core.data` needs; NET is `lraspp_mobilenet_v3_large` or `fcn_resnet50`. Batches, their
augmentation and the scores are the project's own, and so is the recipe: SGD, momentum 0.9, weight decay 1e-4, warm-up, then a cosine that
ends with the minutes. OUT.json gets rows of minutes and mIoU on val; minutes are those of the processor, one core, evaluations included.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from spnas_core.data.masks.mask_loader import mask_eval_batches, mask_train_batches, restore_prediction
from spnas_core.data.masks.mask_samples import MaskSplit
from spnas_core.data.masks.mask_set import open_mask_split
from spnas_core.data.pipeline import ImageCache
from spnas_core.mask_metrics import add_counts, count_masks, no_counts, score_masks
from spnas_core.settings.training import Recipe

SIZE, BATCH, WARM_UP, EVALUATIONS = (180, 240), 4, 60, 10


def evaluate(net: Any, split: MaskSplit, cache: ImageCache) -> float:
    """MIoU of a net on a split, at the images' own sizes."""
    net.eval()
    classes = len(split.categories)
    counts = no_counts(classes)
    with torch.no_grad():
        for batch in mask_eval_batches(split, SIZE, 4, cache):
            scores = net(torch.from_numpy(batch.images))["out"].numpy()
            for row in np.flatnonzero(batch.ids >= 0):
                own = int(batch.own_hw[row, 0]), int(batch.own_hw[row, 1])
                said = restore_prediction(scores[row], batch.image_hw[row], SIZE, own)
                counts = add_counts(counts, count_masks(split.samples[int(batch.ids[row])].mask(), said, classes))
    net.train()
    return float(score_masks(counts, split.class_names).stats["mIoU"])


def main(data: str, name: str, minutes: float, out: Path, lr: float) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train, val, cache = open_mask_split(data, "train"), open_mask_split(data, "val"), ImageCache()
    make = getattr(torchvision.models.segmentation, name)
    net = make(weights=None, weights_backbone=None, num_classes=len(train.categories)).train()
    optimiser = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    loss_of = torch.nn.CrossEntropyLoss(ignore_index=255)
    recipe = Recipe(batch=BATCH, scales=(0.75, 1.0, 1.25, 1.5))
    rows, step, epoch, begun, last = list[tuple[float, float]](), 0, 0, time.process_time(), 0.0
    while (spent := (time.process_time() - begun) / 60) < minutes:
        for batch in mask_train_batches(train, SIZE, recipe, 0, epoch, cache=cache):
            share = min(1.0, (time.process_time() - begun) / 60 / minutes)
            rate = lr * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad()
            loss = loss_of(net(torch.from_numpy(batch.images))["out"], torch.from_numpy(batch.masks).long())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimiser.step()
            step += 1
        epoch += 1
        spent = (time.process_time() - begun) / 60
        if spent - last > minutes / EVALUATIONS or spent >= minutes:
            rows.append((round(spent, 1), round(evaluate(net, val, cache), 4)))
            last = spent
            print(f"{name}: epoch {epoch}, {rows[-1][0]} min, loss {loss.item():.3f}, mIoU {rows[-1][1]}", flush=True)
    out.write_text(json.dumps({"net": name, "torchvision": torchvision.__version__, "lr": lr, "epochs": epoch, "minutes and mIoU": rows}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]), float(sys.argv[5]) if len(sys.argv) > 5 else 0.05)
