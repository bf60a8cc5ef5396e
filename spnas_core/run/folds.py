"""Folds of a run: every net is trained on each fold too, on its parent's weights of that fold, and ranked by the mean score.

So no net is scored on images that it or an ancestor was trained on, and chance in the choice of val counts less. Reignited backbones have
seen all images, and are left out here.
"""

from collections.abc import Sequence
from dataclasses import replace

from spnas_core.job import TrainJob, Weights
from spnas_core.run.crew import Crew, Label, Work, do
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord
from spnas_core.search.estimate import estimated
from spnas_core.search.ledger import Trial
from spnas_core.settings.search import SCORES
from spnas_core.settings.training import Recipe
from spnas_core.store.manifest import Manifest


def with_start_folds(plan: Plan, crew: Crew, record: StageRecord) -> StageRecord:
    """Train the start net on every fold, where the settings ask for folds; the record with its estimate."""
    if plan.settings.folds == 1:
        return record
    start, *others = record.ledger
    (scored,) = with_folds(plan, crew, [start], {}, plan.settings.fine_tune)
    return record.model_copy(update={"ledger": (scored, *others)})


def with_folds(plan: Plan, crew: Crew, trials: Sequence[Trial], parents: dict[int, Trial], recipe: Recipe) -> list[Trial]:
    """Train the trials of a round that were trained to their end on every fold; with the mean of these scores as their estimate.

    `parents` by the index of a trial; one without starts from nothing. A fold whose training failed, of a parent too, is left out.
    """
    count = plan.settings.folds
    if count == 1:
        return list(trials)
    standing = [trial for trial in trials if trial.failure is None and trial.rung is None]
    wanted = [(trial, fold) for trial in standing for fold in range(count)]
    jobs = [_job(plan, trial, parents.get(trial.index), fold, recipe) for trial, fold in wanted]
    work: list[Work] = [
        (
            Label(
                "serial" if trial.stage == "fine_tune" else trial.stage, "fold", trial.arch, trial.round, trial.index, fold, ends_run=False
            ),
            job,
        )
        for (trial, fold), job in zip(wanted, jobs, strict=True)
        if job
    ]
    ended = iter(do(crew, work))
    made: dict[tuple[int, int], Manifest] = {}
    for (trial, fold), job in zip(wanted, jobs, strict=True):
        one = next(ended) if job else None
        if isinstance(one, Manifest):
            made[trial.index, fold] = one
    found = {trial.index: _scored(trial, [made.get((trial.index, fold)) for fold in range(count)]) for trial in standing}
    return [found.get(trial.index, trial) for trial in trials]


def _job(plan: Plan, trial: Trial, parent: Trial | None, fold: int, recipe: Recipe) -> TrainJob | None:
    weights: tuple[Weights, ...] = ()
    if parent is not None:
        if not (parent.folds and parent.folds[fold]):
            return None
        weights = (Weights(kind="train", digest=parent.folds[fold], arch=parent.arch),)
    job = plan.train_net(trial.net, recipe, weights)
    return job.model_copy(update={"data": job.data.model_copy(update={"fold": (fold, plan.settings.folds)})})


def _scored(trial: Trial, ended: Sequence[Manifest | None]) -> Trial:
    done = [one.metrics for one in ended if one]
    if not done:
        return trial
    mean = estimated(done) or {name: done[0][name] for name in SCORES if name in done[0]}
    return replace(trial, estimate=mean, folds=tuple(one.digest if one else "" for one in ended))
