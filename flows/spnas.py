"""SP-NAS (Jiang et al., CVPR 2020) as a Prefect flow of five stages: fine_tune, serial, reignite, parallel, full_train.

Every training is a job in a process of its own, every stage leaves an artifact, and what is in the store is never computed again.
"""

import time
from dataclasses import replace
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows import presets
from flows.parameters import DataUrl, Preset, RunName, StoreUrl
from spnas_core.config import Run, StageName
from spnas_core.errors import JobError
from spnas_core.job import TrainJob, Weights
from spnas_core.jobs.progress import log_line
from spnas_core.ledger import Trial, best, reignitions, volumes
from spnas_core.plan import Plan, Split, open_plan, short
from spnas_core.report import publish_run
from spnas_core.runs import announce_run
from spnas_core.search import chosen_net, propose_parallel, propose_serial
from spnas_core.stages import Result, Stage, enter, newest_round, publish_stage, scores_of
from spnas_core.store.manifest import Manifest
from tasks.candidates import measure, train_candidates
from tasks.jobs import Site, completed, run_jobs
from tasks.page import show_result
from tasks.stages import run_stage


def run_name() -> str:
    """Name the Prefect run after what it is about: `cells on s3://bucket/cells`."""
    given = flow_run.parameters
    settings = given.get("settings", "")
    name = given.get("name") or (settings if isinstance(settings, str) else Run.model_validate(settings).name)
    return f"{name} on {given.get('data', '')}"


@flow(name="spnas", flow_run_name=run_name)
def spnas(
    settings: Run | Preset, data: DataUrl, store: StoreUrl, name: RunName | None = None, refresh: tuple[StageName, ...] = ()
) -> dict[str, Any]:
    """Search a detector backbone in five stages, and return the summary that also lies in `runs/NAME/summary.json` of the store.

    Args:
        settings: Name of a preset, or all settings of a run; `spnas settings PRESET --set KEY=VALUE` prints them.
        data: Data set in COCO layout: an absolute path or any fsspec URL; `demo` makes its own.
        store: Where everything goes: any fsspec URL, `file:///...` or `s3://...`. What is in it already is not computed again.
        name: Name of the run, its folder below `runs/` of the store; by default that of the settings.
        refresh: Stages to compute anew although the store has them; a retry of the same run goes on with what it has computed.
    """
    run = presets.load(settings) if isinstance(settings, str) else settings
    refresh = refresh or run.refresh
    run = run.model_copy(update={"name": name or run.name, "refresh": ()})  # it is of this start alone
    plan = open_plan(run, data, store)
    announce_run(plan)
    site = Site(plan.store.url, plan.settings, refresh)
    parallel = search(plan, site)
    final = run_stage(plan, site, "full_train", parallel, full_train)
    summary = publish_run(plan, final)
    show_result(summary)
    return summary


def search(plan: Plan, site: Site) -> Stage:
    """Do the four stages that search, and return what the last of them leaves."""
    start = run_stage(plan, site, "fine_tune", None, fine_tune)
    serial = run_stage(plan, site, "serial", start, serial_search)
    reignited = run_stage(plan, site, "reignite", serial, reignite)
    return run_stage(plan, site, "parallel", reignited, parallel_search)


def fine_tune(plan: Plan, site: Site, _before: None = None) -> Stage:
    """Train the start net on the data: trial 0 of the ledger, whose weights all others inherit."""
    job = plan.train(plan.settings.arch, plan.settings.detector, plan.settings.fine_tune)
    (manifest,) = completed(site, [(f"fine_tune {short(job.arch)}", job)])
    return Stage(name="fine_tune", key=plan.keys["fine_tune"], ledger=(enter("fine_tune", 0, 0, None, job, manifest),))


def serial_search(plan: Plan, site: Site, start: Stage) -> Stage:
    """Mutate the best in rounds, training on inherited weights; after rounds without gain, reignite the best net and go on from it."""
    run, settings, (finished, now) = plan.settings, plan.settings.serial, newest_round(plan, _measured(plan, site, start))
    for number in range(finished + 1, settings.rounds + 1):
        begun = time.monotonic()
        reignited = reignitions(now.ledger, settings.n_stuck, settings.max_reignite, run.objectives)
        if number - 1 in reignited:
            log_line(f"serial: no gain in {settings.n_stuck} rounds, the best net is reignited")
            now = _reignite(plan, site, now, [reignited[number - 1]])
        children = propose_serial(now.parents(run.reignite.stem), run, number, plan.cost_of)
        jobs = [plan.short_training(settings.recipe, child, now.reignited) for child in children]
        trials = train_candidates(plan, site, "serial", number, jobs, settings.halving)
        now, until = _enter_round(plan, now, trials), plan.after(number)
        now = now.model_copy(update={"name": "serial", "key": until.keys["serial"]})
        publish_stage(until, now, time.monotonic() - begun)
    return now


def reignite(plan: Plan, site: Site, serial: Stage) -> Stage:
    """Train the backbones of the best serial nets as classifiers, before they get parallel copies."""
    now = _reignite(plan, site, serial, best(serial.ledger, plan.settings.parallel.parents, plan.settings.objectives))
    return now.model_copy(update={"name": "reignite", "key": plan.keys["reignite"]})


def parallel_search(plan: Plan, site: Site, reignited: Stage) -> Stage:
    """Give the best serial nets parallel copies of their stages, and train each briefly."""
    settings = plan.settings.parallel
    parents = best(reignited.parents(plan.settings.reignite.stem), settings.parents, plan.settings.objectives)
    children = propose_parallel(parents, plan.settings, plan.cost_of, ledger=reignited.ledger)
    jobs = [plan.short_training(settings.recipe, child, reignited.reignited) for child in children]
    now = _enter_round(plan, reignited, train_candidates(plan, site, "parallel", 1, jobs, settings.halving))
    return now.model_copy(update={"name": "parallel", "key": plan.keys["parallel"]})


def full_train(plan: Plan, site: Site, parallel: Stage) -> Stage:
    """Train the best parallel net to its end, and the start net by the same recipe; score both with pycocotools."""
    chosen, notes = chosen_net(parallel.ledger, plan.settings)
    jobs = plan.full_trainings(chosen, parallel.ledger[0])
    ended = dict(zip(jobs, run_jobs(site, [(f"full_train {name} {short(job.arch)}", job) for name, job in jobs.items()]), strict=True))
    if isinstance(failure := ended["final"], JobError):
        raise failure
    if isinstance(failure := ended["start"], JobError):
        notes.append(f"The start net has no full training to compare with: {failure.reason}.")
    if chosen.taps:
        notes.append(f"The outputs of the final net's pyramid read the merged levels {', '.join(map(str, chosen.taps))}.")
    results = _score(plan, site, jobs, {name: end for name, end in ended.items() if isinstance(end, Manifest)})
    update = {"name": "full_train", "key": plan.keys["full_train"], "results": results, "notes": tuple(notes)}
    return parallel.model_copy(update=update)


def _measured(plan: Plan, site: Site, start: Stage) -> Stage:
    """Enter latency and memory of the start net, where the settings ask for them; its training does not depend on these settings."""
    (trial,) = start.ledger
    (costs,) = measure(plan, site, [(trial.arch, trial.detector(plan.settings.detector))])
    if isinstance(costs, JobError):
        raise costs
    ledger = (replace(trial, metrics={**(trial.metrics or {}), **costs}),)
    return start.model_copy(update={"ledger": ledger, "benchmarks": plan.benchmarks(ledger)})


def _enter_round(plan: Plan, now: Stage, trials: list[Trial]) -> Stage:
    """Add the trials of one round to the ledger, and tell what they gained."""
    ledger = (*now.ledger, *trials)
    if trials:
        stage, number = trials[0].stage, trials[0].round
        found = volumes(ledger, plan.settings.objectives)
        before = max((volume for place, volume in found.items() if place != (stage, number)), default=0.0)
        log_line(f"{stage} r{number}: hyper-volume {found[stage, number]:.4f}, {found[stage, number] - before:+.4f}")
    return now.model_copy(update={"ledger": ledger, "benchmarks": plan.benchmarks(ledger)})


def _reignite(plan: Plan, site: Site, now: Stage, trials: list[Trial]) -> Stage:
    """Train the backbones of `trials` as classifiers; `now` with their weights and their accuracy, by the digest of the trial."""
    jobs = [(f"reignite {short(trial.arch)}", plan.reignite(trial)) for trial in trials]
    weights, top1 = dict(now.reignited), dict(now.top1)
    for (label, _), trial, manifest in zip(jobs, trials, completed(site, jobs), strict=True):
        weights[trial.digest] = Weights(kind="reignite", digest=manifest.digest, arch=trial.arch)
        top1[trial.digest] = manifest.metrics["top1"]
        log_line(f"{label}: top-1 {100 * top1[trial.digest]:.1f} %")
    return now.model_copy(update={"reignited": weights, "top1": top1})


def _score(plan: Plan, site: Site, jobs: dict[str, TrainJob], manifests: dict[str, Manifest]) -> dict[str, Result]:
    """Scores of the fully trained nets: of the final one on val, by pycocotools, and of both on test where the data has it."""
    wanted: list[tuple[str, Split]] = [("final", "val"), *((name, "test") for name in manifests if plan.test)]
    labelled = [(f"evaluate {name} {split}", plan.evaluate(jobs[name], manifests[name].digest, split)) for name, split in wanted]
    scores: dict[str, dict[str, Any]] = {name: {"val": scores_of(manifest)} for name, manifest in manifests.items()}
    for (name, split), scored in zip(wanted, completed(site, labelled), strict=True):
        scores[name][split] = scores_of(manifests[name]) | scores_of(scored)
    return {name: Result(arch=jobs[name].arch, digest=manifests[name].digest, scores=found) for name, found in scores.items()}
