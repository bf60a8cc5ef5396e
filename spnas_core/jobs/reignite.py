"""Reignition: a backbone trained as a classifier, so that blocks that the search has only patched together learn (SP-NAS, section 3.2)."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from safetensors.numpy import save_file

from spnas_core import arch as architecture
from spnas_core.data import crops
from spnas_core.data.any_set import open_set
from spnas_core.data.fingerprints import check_fingerprint
from spnas_core.data.loader import steps_per_epoch
from spnas_core.data.mask_crops import open_mask_crops
from spnas_core.data.masks.mask_samples import MaskSplit
from spnas_core.data.pipeline import ImageCache
from spnas_core.errors import UserError
from spnas_core.job import ReigniteJob
from spnas_core.jobs import initial_weights
from spnas_core.jobs.progress import JobContext
from spnas_core.jobs.timing import Stopwatch
from spnas_core.jobs.training import StepInputs, run_epochs
from spnas_core.models.classifier import Classifier
from spnas_core.models.ranks import gather_ranks, rank
from spnas_core.models.step import TrainStep, get_weights, set_weights
from spnas_core.names import HISTORY_FILE, WEIGHTS_FILE
from spnas_core.settings.training import Recipe, learning_rate
from spnas_core.store.artifacts import Store
from spnas_core.weights.tensor_names import BACKBONE


def open_sets(job: ReigniteJob, store: Store | None = None) -> tuple[crops.Crops, crops.Crops]:
    """Training and validation images: a class folder if the settings name one, else crops of the data set."""
    size, url = job.recipe.image_size, job.recipe.data
    if url:
        if (
            rank().first
            and job.images not in (None, found := crops.fingerprint_folder(url))
            and job.images != crops.fingerprint_folder(url, full=True)
        ):
            raise UserError(f"{url}: expected the images that the job was planned with, got others ({found[:12]}); start the run again")
        train = crops.open_class_folder(url, "train", size)
        return train, crops.open_class_folder(url, "val", size, train.class_names)
    task = job.detector.task
    data = open_set(task, job.data.url, job.data.reading, job.data.strict, store)
    splits = [data.split(name) for name in (job.data.train, job.data.val)]
    if rank().first:
        check_fingerprint(splits, job.data)
    first, second = (open_mask_crops(one, size) if isinstance(one, MaskSplit) else crops.open_crops(one, size) for one in splits)
    return first, second


def run(job: ReigniteJob, store: Store, out: Path, context: JobContext) -> dict[str, Any]:
    """Run the job; writes the backbone's weights and the history to `out` and returns top-1 accuracy on the validation images."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(job.seed)
    recipe = job.recipe
    train, val = open_sets(job, store)
    classes = len(train.class_names)
    net = Classifier(architecture.parse(job.arch), job.detector, classes)
    set_weights(net, initial_weights.start_backbone(job, store, get_weights(net)))
    step = TrainStep(net, recipe.momentum, initial_weights.decays(net, recipe.weight_decay, True), None)
    cache, share = ImageCache(), rank().share
    steps = steps_per_epoch(len(train.items), recipe.batch)
    schedule = Recipe(lr=recipe.lr, schedule=recipe.schedule, milestones=recipe.milestones, warmup_steps=min(50, steps))

    def batches(epoch: int, first: int) -> Iterator[StepInputs]:
        def draws(number: int) -> np.random.Generator:
            return np.random.default_rng((job.seed, epoch * steps + number))

        def wanted(number: int) -> Iterable[int]:
            own = np.arange(recipe.batch)[share]
            return np.union1d(own, crops.draw_mixup(recipe.batch, recipe.mixup, draws(number))[1][share]) if recipe.mixup else own

        stream = crops.train_crops(train, recipe.batch, job.seed, epoch, first, cache, wanted=wanted)
        for number, batch in enumerate(stream, start=first):
            target = np.eye(classes, dtype=np.float32)[batch.labels]
            target = target * (1 - recipe.label_smoothing) + recipe.label_smoothing / classes
            images, target = crops.mixup(batch.images, target.astype(np.float32), recipe.mixup, draws(number))
            yield images[share], target[share]

    def rate(number: int) -> float:
        return learning_rate(schedule, number, recipe.epochs * steps)

    history = run_epochs(step, batches, rate, recipe.epochs, steps, context, lambda _: {})
    watch = Stopwatch(history[-1].get("timing"))
    with watch.during("evaluation"):
        accuracy = top1(net, val, recipe.batch, cache)
    if not rank().first:
        return {}
    history[-1] |= {"top1": accuracy, "timing": watch.seconds}
    context.report(
        {"event": "scored", "epoch": recipe.epochs, "epochs": recipe.epochs, "steps": steps, "top1": accuracy, "timing": watch.seconds}
    )
    save_file(
        {name: array for name, array in get_weights(net).items() if name.startswith(BACKBONE)},
        out / WEIGHTS_FILE,
    )
    (out / HISTORY_FILE).write_text(json.dumps(history))
    return {**{name: history[-1][name] for name in ("top1", "seconds", "timing")}, "epochs": recipe.epochs}


def top1(net: Classifier, val: crops.Crops, batch: int, cache: ImageCache) -> float:
    """Top-1 accuracy, in [0, 1]: share of validation images whose highest-scored class is correct."""
    net.set_train(False)
    stream = crops.eval_crops(val, batch, cache, share=rank().share)
    right = sum(int((net(Tensor(crop.images)).asnumpy().argmax(1) == crop.labels).sum()) for crop in stream)
    return float(sum(gather_ranks(right)) / len(val.items))
