"""The five stages of SP-NAS (Jiang et al., CVPR 2020): fine_tune, serial, reignite, parallel, full_train; and structures, as SM-NAS has it.

Each takes the record of the stage before and returns its own. Which jobs come next follows from the plan, the records and how earlier jobs
ended, and from nothing else; a crew does the jobs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from spnas_core.errors import JobError
from spnas_core.job import TrainJob, Weights, digest
from spnas_core.necks import CellNeck, taps_of
from spnas_core.run.candidates import Evaluator, Round, measure, train_each
from spnas_core.run.crew import Crew, Label, Work, do, manifests
from spnas_core.run.folds import with_start_folds
from spnas_core.run.pilot import piloted
from spnas_core.run.plan import EQUAL, START, FinalNet, Plan, RoundStage, ScoredSplit
from spnas_core.run.record import Result, StageRecord, ended_trial, scores_of
from spnas_core.run.supernet import train_finalists
from spnas_core.search.ledger import Trial, chosen_net, epochs_behind, volumes
from spnas_core.search.net import gene_words, net_of
from spnas_core.search.propose import Proposal, propose_next, propose_parallel
from spnas_core.search.structures import courses, finalists, parallel_parents, propose_structures
from spnas_core.settings.run import StageName
from spnas_core.store.manifest import Manifest


def fine_tune(plan: Plan, crew: Crew, _before: StageRecord | None = None) -> StageRecord:
    """Train the start net on the data: trial 0 of the ledger, whose weights all others inherit."""
    job = plan.train(plan.settings.arch, plan.settings.detector, plan.settings.fine_tune)
    (ended,) = do(crew, [(Label("fine_tune", "fine_tune", job.arch), job)])
    return StageRecord(name="fine_tune", key=plan.keys["fine_tune"], ledger=(ended_trial(plan, "fine_tune", 0, 0, None, job, ended),))


def structural_search(plan: Plan, crew: Crew, start: StageRecord, score_round: Evaluator = train_each) -> StageRecord:
    """Search head, neck, input, widths and depth together, in rounds, as a front of the objectives."""
    finished, record = crew.newest_round(plan, _measured(plan, crew, start, "structures"), "structures")
    for number in range(finished + 1, plan.rounds("structures") + 1):
        begun = time.monotonic()
        children = propose_structures(record.ledger, plan.settings, number, plan.cost_of)
        record = _with_round(plan, crew, record, score_round(plan, crew, Round("structures", number), children, record.reignited))
        until = plan.after(number, "structures")
        record = record.model_copy(update={"name": "structures", "key": until.keys["structures"]})
        crew.leave(until, record, time.monotonic() - begun)
    return record


def serial_search(plan: Plan, crew: Crew, start: StageRecord, score_round: Evaluator = train_each) -> StageRecord:
    """Mutate the best in rounds, training on inherited weights; after rounds without gain, reignite the best net and continue from it.

    After a structural search, so of each chosen structure, side by side: each round has candidates of all.
    """
    run, settings = plan.settings, plan.settings.serial
    finished, record = crew.newest_round(plan, start if run.structures else _measured(plan, crew, start, "serial"))
    if settings.evaluator == "supernet":
        return record.model_copy(update={"key": plan.keys["serial"]}) if finished else _searched(plan, crew, record)
    record = record if finished else piloted(plan, crew, with_start_folds(plan, crew, record))
    found = courses(record.ledger, run)
    for number in range(finished + 1, settings.rounds + 1):
        begun = time.monotonic()
        if stuck := [course.reignitions[number - 1] for course in found if number - 1 in course.reignitions]:
            crew.tell(lambda: f"serial: no gain in {settings.n_stuck} rounds, the best net is reignited")
            record = _reignited(plan, crew, Label("serial", "reignite", "", number), record, stuck)
        children, members = list[Proposal](), list[int]()
        for family, course in enumerate(found):
            others = [*(one.net for one in record.ledger), *(one.net for one in children)] if run.structures else []
            known = {net.identity for net in others}
            as_parent = partial(record.parent, stem=run.reignite.stem)
            members.append(len(children))
            children += propose_next(course, run, number, plan.cost_of, as_parent, known, family)
        trials = score_round(plan, crew, Round("serial", number), children, record.reignited)
        for course, (first, end) in zip(found, pairwise((*members, len(children))), strict=True):
            course.add(trials[first:end])
        record = _with_round(plan, crew, record, trials)
        until = plan.after(number)
        record = record.model_copy(update={"name": "serial", "key": until.keys["serial"]})
        crew.leave(until, record, time.monotonic() - begun)
    return record


def reignite(plan: Plan, crew: Crew, serial: StageRecord) -> StageRecord:
    """Train the backbones of the best serial nets as classifiers, before they get parallel copies, if they are to get any."""
    if not plan.settings.parallel.candidates:
        return serial.model_copy(update={"name": "reignite", "key": plan.keys["reignite"]})
    trials = parallel_parents(serial.ledger, serial.ledger, plan.settings)
    record = _reignited(plan, crew, Label("reignite", "reignite", ""), serial, trials)
    return record.model_copy(update={"name": "reignite", "key": plan.keys["reignite"]})


def parallel_search(plan: Plan, crew: Crew, reignited: StageRecord, score_round: Evaluator = train_each) -> StageRecord:
    """Give the best serial nets parallel copies of their stages, and train each briefly."""
    run = plan.settings
    parents = parallel_parents(reignited.parents(run.reignite.stem), reignited.ledger, run)
    children = propose_parallel(parents, run, plan.cost_of, ledger=reignited.ledger)
    record = _with_round(plan, crew, reignited, score_round(plan, crew, Round("parallel", 1), children, reignited.reignited))
    return record.model_copy(update={"name": "parallel", "key": plan.keys["parallel"]})


def full_train(plan: Plan, crew: Crew, parallel: StageRecord) -> StageRecord:
    """Train the best parallel net to its end, and the start net by the same recipe or at equal epochs; score both with pycocotools."""
    chosen, notes = chosen_net(parallel.ledger, plan.settings)
    others = finalists(parallel.ledger, chosen, plan.settings)
    behind = max(epochs_behind(parallel.ledger, one, plan.settings, parallel.reignited) for one in (chosen, *others))
    jobs = plan.full_trainings(chosen, parallel.ledger[0], behind, others)
    labels = {name: Label("full_train", "full_train", job.arch, net=name, ends_run=name == "final") for name, job in jobs.items()}
    nets = {name: net_of(job.arch, job.detector, plan.settings.detector) for name, job in jobs.items()}
    measured = measure(plan, crew, [(labels[name], net) for name, net in nets.items()]) if plan.settings.structures else []
    # after the final net the dearest first, so that no device waits long for the last one
    turns = sorted(jobs, key=lambda name: (name != "final", -jobs[name].recipe.epochs * plan.cost_of(nets[name]).macs))
    ended = dict(zip(turns, do(crew, [(labels[name], jobs[name]) for name in turns]), strict=True))
    if isinstance(failure := ended[EQUAL if plan.settings.final.equal_epochs else START], JobError):
        notes.append(f"The start net has no full training to compare with: {failure.reason}.")
    if taps := taps_of(chosen.net.neck):
        notes.append(f"The outputs of the final net's pyramid read the merged levels {', '.join(map(str, taps))}.")
    if isinstance(chosen.net.neck, CellNeck) and chosen.net.neck != parallel.ledger[0].net.neck:
        notes.append(f"The cells of the final net's pyramid are {chosen.net.neck.cells}.")
    results = _results(plan, crew, jobs, labels, {name: one for name in jobs if isinstance(one := ended[name], Manifest)})
    for name, costs in zip(jobs, measured, strict=False):
        if name in results:
            origin = jobs[name].weights[0].digest if jobs[name].weights else ""
            found = {} if isinstance(costs, JobError) else dict(costs)
            results[name] = results[name].model_copy(update={"costs": found, "trial": origin})
    benchmarks = [digest(plan.benchmark(net)) for net in nets.values()] if plan.settings.structures and plan.settings.measures else []
    update: dict[str, Any] = {"benchmarks": tuple(dict.fromkeys((*parallel.benchmarks, *benchmarks)))} if benchmarks else {}
    update |= {"name": "full_train", "key": plan.keys["full_train"], "results": results, "notes": (*parallel.notes, *notes)}
    return parallel.model_copy(update=update)


STAGES: dict[StageName, Callable[[Plan, Crew, Any], StageRecord]] = {  # the last argument is the record of the stage before
    "fine_tune": fine_tune,
    "structures": structural_search,
    "serial": serial_search,
    "reignite": reignite,
    "parallel": parallel_search,
    "full_train": full_train,
}


def _measured(plan: Plan, crew: Crew, start: StageRecord, stage: RoundStage) -> StageRecord:
    """Enter latency and memory of the start net, where the settings ask for them; its training does not depend on these settings."""
    (trial,) = start.ledger
    (costs,) = measure(plan, crew, [(Label(stage, "benchmark", trial.arch), trial.net)])
    assert not isinstance(costs, JobError)  # without it the run ends
    ledger = (replace(trial, metrics={**(trial.metrics or {}), **costs}),)
    return start.model_copy(update={"ledger": ledger, "benchmarks": plan.benchmarks(ledger)})


def _searched(plan: Plan, crew: Crew, start: StageRecord) -> StageRecord:
    """Search among the paths of a supernet, and train the best of them: the one round of such a serial search."""
    begun = time.monotonic()
    trials, searched = train_finalists(plan, crew, start.ledger[0])
    record = _with_round(plan, crew, start, trials)
    record = record.model_copy(update={"name": "serial", "key": plan.keys["serial"], "searched": searched})
    crew.leave(plan, record, time.monotonic() - begun)
    return record


def _with_round(plan: Plan, crew: Crew, record: StageRecord, trials: Sequence[Trial]) -> StageRecord:
    """Add the trials of one round to the ledger, and tell what they gained."""
    ledger = (*record.ledger, *trials)

    def gain() -> str:
        place = trials[0].stage, trials[0].round
        found = volumes(ledger, plan.settings.objectives)
        before = max((volume for one, volume in found.items() if one != place), default=0.0)
        return f"{place[0]} r{place[1]}: hyper-volume {found[place]:.4f}, {found[place] - before:+.4f}"

    if trials:
        crew.tell(gain)
    measured = (*(record.benchmarks or plan.benchmarks(record.ledger)), *plan.benchmarks(trials))
    return record.model_copy(update={"ledger": ledger, "benchmarks": tuple(dict.fromkeys(measured))})


def _reignited(plan: Plan, crew: Crew, label: Label, record: StageRecord, trials: Sequence[Trial]) -> StageRecord:
    """Train the backbones of `trials` as classifiers; the record with their weights and their accuracy, by the digest of the trial."""
    work = [(replace(label, arch=trial.arch), plan.reignite(trial)) for trial in trials]
    weights, top1 = dict(record.reignited), dict(record.top1)
    for (own, _), trial, manifest in zip(work, trials, manifests(do(crew, work)), strict=True):
        weights[trial.digest] = Weights(kind="reignite", digest=manifest.digest, arch=trial.arch)
        top1[trial.digest] = share = manifest.metrics["top1"]
        crew.tell(partial("{}: top-1 {:.1f} %".format, own, 100 * share))
    return record.model_copy(update={"reignited": weights, "top1": top1})


def _results(
    plan: Plan, crew: Crew, jobs: Mapping[FinalNet, TrainJob], labels: Mapping[FinalNet, Label], trained: Mapping[FinalNet, Manifest]
) -> dict[str, Result]:
    """Scores of the fully trained nets: of the final one on val, by pycocotools, and of both on test where the data has it."""
    wanted: list[tuple[FinalNet, ScoredSplit]] = [("final", "val")]
    wanted += [(name, "test") for name in trained if plan.test]
    work: list[Work] = [
        (replace(labels[name], role="evaluate", split=split, ends_run=True), plan.evaluate(jobs[name], trained[name].digest, split))
        for name, split in wanted
    ]
    scores: dict[FinalNet, dict[str, Any]] = {name: {"val": scores_of(manifest)} for name, manifest in trained.items()}
    for (name, split), scored in zip(wanted, manifests(do(crew, work)), strict=True):
        scores[name][split] = scores_of(trained[name]) | scores_of(scored)
    own = plan.settings.detector
    start = net_of(plan.settings.arch, own)
    genes = {name: gene_words(net_of(job.arch, job.detector, own), start) for name, job in jobs.items()}
    return {
        name: Result(arch=jobs[name].arch, digest=trained[name].digest, scores=found, genes=genes[name]) for name, found in scores.items()
    }
