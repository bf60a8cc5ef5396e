"""Studies of the search as a Prefect flow: comparison with simpler methods, short training as a proxy, inheritance, noise, fronts.

All trainings are jobs as in a run, so artifacts of a run or of another study with the same settings are reused.
"""

import json
import time
from dataclasses import replace
from statistics import fmean
from typing import Any

from prefect import flow

from flows.baselines import compare, final_training, from_scratch
from flows.fronts import compare_fronts
from flows.noise import measure_noise
from spnas_core.jobs.progress import log_line
from spnas_core.names import HISTORY_FILE
from spnas_core.run.candidates import Round, train_each
from spnas_core.run.plan import Plan, short
from spnas_core.run.record import PATH
from spnas_core.run.supernet import train_finalists
from spnas_core.search.estimate import own_scores
from spnas_core.search.ledger import Trial, ranked
from spnas_core.search.opinions import OpinionName, opinions_of
from spnas_core.search.propose import Proposal, propose_children
from spnas_core.settings.run import Run
from spnas_core.settings.search import SCORES
from spnas_core.store.manifest import Manifest
from spnas_core.study.methods import ARRIVES, SIMPLE_METHODS, Arrival, Forecast, SimpleMethod, arrival, training_seconds
from spnas_core.study.studies import Study, StudyKind, open_study, publish_entries, publish_report, stored_entries
from tasks.jobs import Executor, completed
from tasks.stages import run_stage

LENGTHS = (2, 4, 8)  # of trainings from scratch up to a child's score, as multiples of its short training


@flow(name="spnas-study")
def study(
    kind: StudyKind,
    settings: Run,
    data: str,
    store: str,
    seeds: int = 1,
    count: int = 0,
    against: tuple[SimpleMethod, ...] = SIMPLE_METHODS,
) -> dict[str, Any]:
    """Run a study and return its summary, which is also in `runs/NAME-KIND/report.json` of the store."""
    asked = open_study(kind, settings, data, store, seeds, count, against)
    entries, begun = stored_entries(asked), time.monotonic()
    if entries is None:
        work = {"baselines": compare, "proxy": compare_scores, "inheritance": race, "noise": measure_noise, "front": compare_fronts}[kind]
        first = asked.plans[0]
        entries = tuple(work(asked, Executor(first.store.url, first.settings)))
        publish_entries(asked, entries, time.monotonic() - begun)
    return publish_report(asked, entries)


def compare_scores(asked: Study, executor: Executor) -> list[Forecast]:
    """Train the start net's children briefly and rank them, as in the search; then train each to the end, with every seed.

    With a supernet, the nets are paths of it, drawn evenly over bands of MACs, and trained briefly on the weights of their paths.
    """
    plan, settings = asked.plans[0], asked.plans[0].settings
    if settings.serial.evaluator == "supernet":
        trials = _trained_paths(plan, executor, asked.count)
    else:
        trials = train_each(plan, executor, Round("serial", 1), _start_and_children(asked, executor), {})
    nets = ranked(trials, settings.objectives)
    if len(nets) < len(trials):
        log_line(f"study: {len(trials) - len(nets)} of {len(trials)} nets failed, and are left out")
    seeds = [one.settings.seed for one in asked.plans]
    wanted = [final_training(plan, net).model_copy(update={"seed": seed}) for net in nets for seed in seeds]
    done = completed(executor, [(f"full_train {short(job.arch)} s{job.seed}", job) for job in wanted])
    return [
        Forecast(
            arch=net.arch,
            net=str(net.net),
            artifacts=tuple(f"train/{name}" for name in (net.digest, *net.repeats, *net.controls, *(one.digest for one in long))),
            short=net.score or 0.0,
            long=fmean(own_scores(one.metrics)[settings.work.score] for one in long),
            short50=(net.metrics or {})[settings.work.scores[1]],
            estimate=net.value(settings.objectives[0]),
            path={name: metrics[PATH + name] for name in SCORES if PATH + name in (metrics := net.metrics or {})},
            macs=(net.metrics or {})["macs"],
            opinions={str(name): value for name, value in _opinions(plan, net).items()},
        )
        for net, long in zip(nets, (done[n : n + len(seeds)] for n in range(0, len(done), len(seeds))), strict=True)
    ]


def _trained_paths(plan: Plan, executor: Executor, count: int) -> list[Trial]:
    """Train a supernet, score as many of its paths, and train each briefly."""
    start = run_stage(plan, executor, "fine_tune", None)
    serial = plan.settings.serial
    evolution = serial.supernet.evolution.model_copy(update={"generations": 1, "draws": count, "entropy": None})
    supernet = serial.supernet.model_copy(update={"evolution": evolution, "finalists": count})
    run = plan.settings.model_copy(update={"serial": serial.model_copy(update={"supernet": supernet})})
    return train_finalists(replace(plan, settings=run), executor, start.ledger[0])[0]


def _opinions(plan: Plan, trial: Trial) -> dict[OpinionName, float | None]:
    """Second opinions on a trial, by what its training left."""
    manifest = plan.store.manifest(f"train/{trial.digest}")
    metrics = manifest.metrics if isinstance(manifest, Manifest) else {}
    return opinions_of(trial.net.arch, trial.net.detector(plan.settings.detector), plan.cost_of(trial.net).macs, metrics)


def race(asked: Study, executor: Executor) -> list[Arrival]:
    """Train the start net's children on inherited weights and from scratch, with an evaluation after every epoch.

    From scratch the recipe is that of fine_tune, in trainings of increasing length until one reaches the AP50 of the inherited child: the
    learning rate falls to zero within each training, so its length matters. Of segmentation it is the mIoU.
    """
    (plan,) = asked.plans
    watched = plan.settings.serial.recipe.model_copy(update={"eval_epochs": 1})
    children = _start_and_children(asked, executor)
    jobs = [(f"inherited {short(str(child.net.arch))}", plan.short_training(watched, child, {})[0]) for child in children]
    inherited = dict(zip(children, completed(executor, jobs), strict=True))
    arrived: dict[Proposal, Arrival] = {}
    for length in (watched.epochs * times for times in LENGTHS):
        left = [child for child in children if child not in arrived or not arrived[child].reached]
        recipe = plan.settings.fine_tune.lasting(length).model_copy(update={"eval_epochs": 1})
        jobs = [(f"scratch, {length} epochs, {short(str(child.net.arch))}", from_scratch(plan, child, recipe)) for child in left]
        for child, scratch in zip(left, completed(executor, jobs), strict=True):
            arrived[child] = _arrival(plan, inherited[child], scratch, length)
    return [arrived[child] for child in children]


def _start_and_children(asked: Study, executor: Executor) -> list[Proposal]:
    """Train the start net, and propose its children."""
    plan = asked.plans[0]
    start = run_stage(plan, executor, "fine_tune", None)
    return propose_children(start.ledger, plan.settings, 1, asked.count, plan.cost_of)


def _arrival(plan: Plan, ours: Manifest, scratch: Manifest, length: int) -> Arrival:
    histories = [json.loads(plan.store.fetch("train", one.digest, HISTORY_FILE).read_text()) for one in (ours, scratch)]
    score = ARRIVES[plan.settings.task]
    target = float(ours.metrics[score])
    first, theirs = (arrival(history, target, score) for history in histories)
    epochs, seconds = first or (histories[0][-1]["epoch"], training_seconds(histories[0][-1]))
    scratch_epochs, scratch_seconds = theirs or (length, training_seconds(histories[1][-1]))
    return Arrival(
        arch=ours.job["arch"],
        artifacts=tuple(f"train/{one.digest}" for one in (ours, scratch)),
        target=target,
        inherited_epochs=epochs,
        inherited_seconds=seconds,
        scratch_epochs=scratch_epochs,
        scratch_seconds=scratch_seconds,
        scratch_length=length,
        reached=theirs is not None,
    )
