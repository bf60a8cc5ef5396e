"""Training of one net, from inherited weights or from scratch, and its score on the val split.

A rung of successive halving is the same training, stopped after fewer epochs: its artifact also holds the training state, from which the
next rung continues. So no step is repeated, and the last rung's artifact equals that of a training without rungs.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import mindspore as ms
from safetensors.numpy import save_file

from spnas_core import arch as architecture
from spnas_core import cost
from spnas_core.data import loader
from spnas_core.data.fingerprints import check_fingerprint
from spnas_core.data.pipeline import ImageCache
from spnas_core.errors import MissingArtifactError
from spnas_core.job import TrainJob
from spnas_core.jobs import initial_weights
from spnas_core.jobs.inherited_score import batch_stream, inherited_score
from spnas_core.jobs.kept_weights import KeptWeights
from spnas_core.jobs.progress import JobContext
from spnas_core.jobs.timing import Stopwatch
from spnas_core.jobs.training import CHECKPOINT, StepInputs, run_epochs, save_checkpoint
from spnas_core.jobs.works import work_of
from spnas_core.metrics import Scores
from spnas_core.models.detector import PyramidNet
from spnas_core.models.ranks import gather_ranks, rank
from spnas_core.models.step import TrainStep, get_weights, set_weights
from spnas_core.names import AUDIT_FILE, HISTORY_FILE, MODEL_FILE, WEIGHTS_FILE
from spnas_core.search.costs import candidate_cost
from spnas_core.search.opinions import BLOCK_GAMMAS
from spnas_core.settings.task import DETECTION, MEAN_OF, Task
from spnas_core.settings.training import Recipe, learning_rate
from spnas_core.store.artifacts import Store
from spnas_core.weights.gammas import block_gammas

LOSS_SCALE = 1024.0  # for float16 training
_log = logging.getLogger(__name__)


def run(job: TrainJob, store: Store, out: Path, context: JobContext) -> dict[str, Any]:
    """Run the job; writes weights, model, audit, history and detections (at a rung also its state) to `out` and returns the metrics.

    On several devices each rank takes its share of every batch and its noise; everything else is done by the first rank.
    UserError for invalid data or weights that do not fit, JobError ``diverged`` or ``killed``.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(job.seed)
    recipe, settings = job.recipe, job.detector
    work = work_of(settings)
    data = work.open_data(job.data, store)
    train_split, val_split = data.split(job.data.train), data.split(job.data.val)
    if rank().first:
        check_fingerprint([train_split, val_split], job.data)
    if job.data.fold:
        train_split, val_split = work.fold(train_split, val_split, *job.data.fold)
    arch = architecture.parse(job.arch)
    net = work.build(arch, settings, len(train_split.categories), recipe.mixed_precision)
    weights, audit = initial_weights.start_detector(job, store, get_weights(net))
    set_weights(net, weights)
    initial_weights.choose_trained(net, job, audit)
    step, kept = make_step(net, recipe), KeptWeights(net, recipe, work.task.score)
    cache = ImageCache()
    steps = loader.steps_per_epoch(len(train_split.samples), recipe.batch)

    def batches(epoch: int, first: int) -> Iterator[StepInputs]:
        return work.batches(net, train_split, settings, recipe, job.seed, epoch, first, cache)

    def evaluated() -> tuple[Any, Scores]:
        """Return the outputs on the val split and their scores, the same on all ranks."""
        outputs = work.outputs(net, val_split, settings, cache)
        scores = work.score(val_split, outputs, "hotcoco") if rank().first else None
        return outputs, Scores(*gather_ranks([scores.stats, scores.per_class] if scores else None)[0])

    def score(epoch: int) -> dict[str, Any]:
        due = recipe.eval_epochs and not (epoch + 1) % recipe.eval_epochs
        if epoch + 1 == recipe.epochs or not (due or epoch >= recipe.epochs - recipe.scored_epochs):
            return {}
        with kept.in_net():
            found = evaluated()[1].stats
        kept.offer(found[work.task.score])
        return {name: found[name] for name in work.task.scores}

    def rate(number: int) -> float:
        return learning_rate(recipe, number, recipe.epochs * steps)

    epochs = job.stop_after_epochs or recipe.epochs
    if rank().first:
        take_state(job, store, context.resume)
    gather_ranks(None)  # the other ranks read it after this
    before = inherited_score(job, store, context.resume, step, lambda: batch_stream(batches), lambda: evaluated()[1])
    history = run_epochs(step, batches, rate, epochs, steps, context, score, kept)
    if job.stop_after_epochs and rank().first:
        save_checkpoint(step, history, [], out / CHECKPOINT, kept)
    set_weights(net, kept.now())
    context.report({"event": "evaluate"})
    watch = Stopwatch(history[-1].get("timing"))
    with watch.during("evaluation"):
        outputs, scores = evaluated()
        stats: dict[str, float] = {name: scores.stats[name] for name in work.task.scores}
        history[-1] |= stats
        kept.offer(stats[work.task.score])
        if kept.has_better:
            set_weights(net, kept.last())
            outputs, scores = evaluated()
    if not rank().first:
        return {}
    history[-1] |= {"timing": watch.seconds}
    epochs = len(history)  # fewer than asked for where the training ended early
    context.report({"event": "scored", "epoch": epochs, "epochs": epochs, "steps": steps, **stats, "timing": watch.seconds})
    trained = get_weights(net)
    save_file(trained, out / WEIGHTS_FILE)
    documents = {
        MODEL_FILE: work.document(job.arch, settings, train_split.categories, job.data.reading.bits),
        AUDIT_FILE: audit.model,
        HISTORY_FILE: history,
        work.outputs_file: outputs,
    }
    for name, document in documents.items():
        (out / name).write_text(json.dumps(document))
    whole = candidate_cost(arch, settings, len(train_split.categories))
    body = cost.backbone_cost(arch, settings.image_size, settings.base_width, settings.stem, settings.share_weights)
    counts = {"params": whole.params, "macs": whole.macs, "backbone_params": body.params, "backbone_macs": body.macs}
    took = {"seconds": history[-1]["seconds"], "timing": history[-1]["timing"]}
    means = mean_scores(history, recipe.scored_epochs, work.task)
    opinions = {BLOCK_GAMMAS: block_gammas(arch, trained), **before}
    return {**scores.document(), **means, **counts, **took, **opinions, "epochs": epochs, "inherited": audit.share}


def mean_scores(history: list[dict[str, Any]], count: int, task: Task = DETECTION) -> dict[str, float]:
    """Mean scores after the last `count` epochs by the names `MEAN_OF + score`; none for 1. An undefined score (-1) stays undefined."""
    last = [[record[name] for record in history[-count:]] for name in task.scores]
    means = {MEAN_OF + name: min(values) if min(values) < 0 else fmean(values) for name, values in zip(task.scores, last, strict=True)}
    return means if count > 1 else {}


def make_step(net: PyramidNet, recipe: Recipe) -> TrainStep:
    """Training step for the parameters of `net` with `requires_grad`."""
    decays = initial_weights.decays(net, recipe.weight_decay, recipe.decay_norm_and_bias)
    return TrainStep(net, recipe.momentum, decays, recipe.clip_norm, LOSS_SCALE if recipe.mixed_precision else 1.0)


def take_state(job: TrainJob, store: Store, folder: Path) -> None:
    """Copy the state of the rung that `job` continues into `folder`, unless `folder` has a checkpoint of the job itself."""
    if job.resume_from is None or (folder / CHECKPOINT).exists():
        return
    try:
        shutil.copyfile(store.fetch("train", job.resume_from, CHECKPOINT), folder / CHECKPOINT)
    except MissingArtifactError as error:
        _log.warning("the training begins anew, without its earlier rung: %s", error)
