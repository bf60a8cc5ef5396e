"""Training of a supernet: one step trains one member of its family, drawn evenly over bands of MACs (DetNAS, section 3 and its release).

What a step leaves alone still moves by its momentum and by weight decay, as it does wherever gradients are zero.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from safetensors.numpy import save_file

from spnas_core.arch import Arch
from spnas_core.data import loader
from spnas_core.data.fingerprints import check_fingerprint
from spnas_core.data.pipeline import ImageCache
from spnas_core.data.splits import DataSet
from spnas_core.job import PathsJob, SupernetJob
from spnas_core.jobs import initial_weights
from spnas_core.jobs.detection import WORK, open_data
from spnas_core.jobs.progress import JobContext
from spnas_core.jobs.train import make_step
from spnas_core.jobs.training import StepInputs, run_epochs
from spnas_core.models.step import get_weights, set_weights
from spnas_core.models.supernet import SuperNet
from spnas_core.names import HISTORY_FILE, WEIGHTS_FILE
from spnas_core.search.costs import candidate_cost
from spnas_core.search.family import family_of
from spnas_core.search.paths import Bands, switches
from spnas_core.settings.training import learning_rate
from spnas_core.store.artifacts import Store
from spnas_core.weights.paths import start_supernet
from spnas_core.weights.tensor_names import STATISTICS


def open_supernet(job: SupernetJob | PathsJob, store: Store) -> tuple[SuperNet, DataSet]:
    """Build the supernet of a job with new weights, and open its data; UserError for data that changed."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(job.seed)
    data = open_data(job.data, store)
    splits = [data.split(name) for name in (job.data.train, job.data.val)]
    check_fingerprint(splits, job.data)
    net = SuperNet(family_of(job.arch, job.family, job.blocks), job.detector, len(splits[0].categories))
    for parameter in net.get_parameters():
        parameter.requires_grad = not parameter.name.endswith(STATISTICS)
    return net, data


def draw_paths(job: SupernetJob, classes: int) -> Callable[[int], Arch]:
    """Member that each step trains, a function of the seed and the step's number."""
    family = family_of(job.arch, job.family, job.blocks)
    bands = Bands(family, lambda arch: candidate_cost(arch, job.detector, classes).macs, job.paths.bands)

    def path(step: int) -> Arch:
        rng = np.random.default_rng((job.seed, 1, step))
        if rng.random() < job.paths.sandwich:
            return (bands.smallest, bands.largest)[int(rng.integers(2))]
        return bands.draw(rng)

    return path


def run(job: SupernetJob, store: Store, out: Path, context: JobContext) -> dict[str, Any]:
    """Run the job; writes weights and history to `out` and returns the metrics. Failures and checkpoints are those of `train.run`."""
    net, data = open_supernet(job, store)
    family, recipe, settings = family_of(job.arch, job.family, job.blocks), job.recipe, job.detector
    split = data.split(job.data.train)
    weights = initial_weights.merge_weights(job.weights, store)[1]
    set_weights(net, start_supernet(get_weights(net), family, settings.base_width, weights))
    step, cache, path = make_step(net, recipe), ImageCache(), draw_paths(job, len(split.categories))
    steps = loader.steps_per_epoch(len(split.samples), recipe.batch)

    def batches(epoch: int, first: int) -> Iterator[StepInputs]:
        stream = WORK.batches(net, split, settings, recipe, job.seed, epoch, first, cache)
        for number, inputs in enumerate(stream, start=epoch * steps + first):
            yield (*inputs, *switches(family, path(number), settings.base_width))

    def rate(number: int) -> float:
        return learning_rate(recipe, number, recipe.epochs * steps)

    history = run_epochs(step, batches, rate, recipe.epochs, steps, context, lambda _: {})
    save_file(get_weights(net), out / WEIGHTS_FILE)
    (out / HISTORY_FILE).write_text(json.dumps(history))
    params = sum(parameter.size for parameter in net.trainable_params())
    took = {"seconds": history[-1]["seconds"], "timing": history[-1]["timing"]}
    return {"params": params, "slots": len(family.slots), "places": len(family.places), "epochs": len(history), **took}
