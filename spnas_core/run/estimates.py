"""Trainings beside those of a round's candidates that make their scores believable: of their parents, and with further seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from spnas_core.job import TrainJob
from spnas_core.run.crew import Crew, Ended, Label, Work, do
from spnas_core.run.plan import Plan
from spnas_core.search.estimate import estimated
from spnas_core.search.ledger import SearchStage, Trial, best
from spnas_core.settings.search import Race
from spnas_core.store.manifest import Manifest

SEED_STEP = 1000  # between the seeds of one net's trainings, so that they are not those of a run with the next seed


class Control(NamedTuple):
    """Parent of candidates, and the training that goes on with it by their recipe."""

    parent: Trial
    job: TrainJob


def control_work(stage: SearchStage, number: int, controls: Sequence[Control], seed: int = 0) -> list[Work]:
    """Jobs of the controls of a round, with a further seed."""
    return [_work(stage, number, "control", one.job, seed) for one in controls]


def with_estimates(
    plan: Plan,
    crew: Crew,
    trials: Sequence[Trial],
    jobs: Mapping[int, TrainJob],
    controls: Sequence[Control],
    ended: Sequence[Ended],
    race: Race | None,
) -> list[Trial]:
    """Give the trials of a round their estimates; with `race`, train the best with further seeds before, and so their controls.

    `jobs`: those of the trials by their index; `ended`: how the controls ended. A control that failed, or a further training, counts for
    nothing: the estimate is made of the seeds of which all that it needs succeeded.
    """
    standing = [trial for trial in trials if trial.failure is None and trial.rung is None]
    made = {(one.parent.digest, 0): end for one, end in zip(controls, ended, strict=True)}
    own: dict[tuple[int, int], Ended] = {}
    first = [_estimate(trial, controls, made, own) for trial in standing]
    if race and first:
        again = best(first, race.best, plan.settings.objectives)
        parents = {trial.parent for trial in again}
        ours = [one for one in controls if one.parent.digest in parents]
        for_all = [(trial.index, seed) for seed in range(1, race.seeds + 1) for trial in again]
        theirs = [(one, seed) for seed in range(1, race.seeds + 1) for one in ours]
        stage, number = again[0].stage, again[0].round
        work = [_work(stage, number, "repeat", jobs[index], seed, index) for index, seed in for_all]
        work += [_work(stage, number, "control", one.job, seed) for one, seed in theirs]
        done = do(crew, work)
        own = dict(zip(for_all, done, strict=False))
        made |= {(one.parent.digest, seed): end for (one, seed), end in zip(theirs, done[len(for_all) :], strict=True)}
    found = {trial.index: _estimate(trial, controls, made, own) for trial in standing}
    return [found.get(trial.index, trial) for trial in trials]


def _work(stage: SearchStage, number: int, role: Literal["control", "repeat"], job: TrainJob, seed: int, index: int = 0) -> Work:
    label = Label(stage, role, job.arch, number, index, seed, ends_run=False)
    return label, job.model_copy(update={"seed": job.seed + SEED_STEP * seed}) if seed else job


def _estimate(
    trial: Trial, controls: Sequence[Control], made: Mapping[tuple[str, int], Ended], own: Mapping[tuple[int, int], Ended]
) -> Trial:
    """Estimate one trial from its further trainings `own`, by index and seed, and from the controls `made`, by parent and seed."""
    parent = next((one.parent for one in controls if one.parent.digest == trial.parent), None)
    seeds = {0: trial.metrics or {}} | {
        seed: one.metrics for (index, seed), one in own.items() if index == trial.index and isinstance(one, Manifest)
    }
    others = {seed: one for (key, seed), one in made.items() if parent and key == parent.digest and isinstance(one, Manifest)}
    if others:
        seeds = {seed: metrics for seed, metrics in seeds.items() if seed in others}
    compared = [others[seed] for seed in seeds if seed in others]
    if not seeds:
        return trial
    again = [own.get((trial.index, seed)) for seed in seeds]
    return replace(
        trial,
        estimate=estimated(list(seeds.values()), parent if others else None, [one.metrics for one in compared]),
        repeats=tuple(one.digest for one in again if isinstance(one, Manifest)),
        controls=tuple(one.digest for one in compared),
    )
