"""Score of a net before its first step: on its inherited weights, with the statistics of its norms anew from training batches.

Moved stages and new blocks change what a norm sees, so inherited statistics are reset and computed anew, as DetNAS does for the paths of
its supernet (Chen et al., NeurIPS 2019, section 3.2); here they are plain means over the batches. Frozen norms keep theirs. The training
that follows does not notice: all weights, statistics and momenta are put back.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
from mindspore import Tensor

from spnas_core.job import TrainJob
from spnas_core.jobs.training import StepInputs
from spnas_core.metrics import Scores
from spnas_core.models.blocks import MOMENTUM
from spnas_core.models.ranks import gather_ranks, rank
from spnas_core.models.step import TrainStep, get_weights, set_weights
from spnas_core.search.opinions import INHERITED_SCORE
from spnas_core.settings.task import DETECTION
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest
from spnas_core.weights.tensor_names import STATISTICS, Arrays

INHERITED_FILE = "inherited.json"  # beside the checkpoints of a training


def batch_stream(batches: Callable[[int, int], Iterable[StepInputs]]) -> Iterator[StepInputs]:
    """Yield the batches of all epochs of a training, from its first."""
    return chain.from_iterable(batches(epoch, 0) for epoch in count())


def inherited_score(
    job: TrainJob, store: Store, folder: Path, step: TrainStep, stream: Callable[[], Iterator[StepInputs]], evaluate: Callable[[], Scores]
) -> dict[str, float]:
    """Score before the first step as a metric, if the recipe asks for it; the same on all ranks.

    It is computed once: kept in `folder` with the checkpoints, and taken from the rung that `job` continues. A training that was killed
    before its first checkpoint computes the same again.
    """
    if not job.recipe.inherited_batches:
        return {}
    known: dict[str, float] | None = gather_ranks(_known(job, store, folder) if rank().first else None)[0]
    if known is not None:
        return known
    before = get_weights(step)
    if job.detector.norm == "train":
        set_weights(step, before | new_statistics(step, islice(stream(), job.recipe.inherited_batches)))
    else:  # the step's graph is the first in any case: graphs that are kept have numbers instead of names
        step.set_train().compile(Tensor(np.float32(0)), *map(Tensor, next(stream())))
    found: dict[str, float] = {INHERITED_SCORE: float(evaluate().stats[DETECTION.score])}
    set_weights(step, before)
    if rank().first:
        (folder / INHERITED_FILE).write_text(json.dumps(found))
    return found


def new_statistics(step: TrainStep, batches: Iterable[StepInputs]) -> Arrays:
    """Statistics of all norms by name: means over the batches of each batch's mean and (unbiased) variance.

    `step` is run at learning rate 0, so no further graph is compiled; it leaves other statistics and momenta in the net.
    """
    statistics = [parameter for parameter in step.get_parameters() if parameter.name.endswith(STATISTICS)]
    sums = {parameter.name: np.zeros(parameter.shape, np.float64) for parameter in statistics}
    step.set_train()
    done = 0
    for batch in batches:
        for parameter in statistics:
            parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
        step(Tensor(np.float32(0)), *map(Tensor, batch))
        for parameter in statistics:
            sums[parameter.name] += parameter.asnumpy() / MOMENTUM
        done += 1
    return {name: (total / done).astype(np.float32) for name, total in sums.items()}


def _known(job: TrainJob, store: Store, folder: Path) -> dict[str, float] | None:
    if (folder / INHERITED_FILE).exists():
        found: dict[str, float] = json.loads((folder / INHERITED_FILE).read_text())
        return found
    rung = store.manifest(f"train/{job.resume_from}") if job.resume_from else None
    metrics = rung.metrics if isinstance(rung, Manifest) else {}
    return {INHERITED_SCORE: metrics[INHERITED_SCORE]} if INHERITED_SCORE in metrics else None
