"""`spnas study baselines`: SP-NAS compared with simpler methods under the same budget of epochs and the same seeds.

Methods: the start net, trained longer; its random children, trained from scratch; random search with inheritance.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from flows.spnas import search
from spnas_core.job import Job, TrainJob, digest
from spnas_core.jobs.progress import log_line
from spnas_core.run.candidates import Round, train_jobs
from spnas_core.run.plan import Plan, inherited, short
from spnas_core.run.record import ended_trial
from spnas_core.search.ledger import SearchStage, Trial, ranked, winner
from spnas_core.search.propose import Proposal, propose_children, propose_parallel
from spnas_core.settings.training import Recipe
from spnas_core.store.manifest import Manifest
from spnas_core.study.images import gains_on_images
from spnas_core.study.methods import METHODS, SIMPLE_METHODS, Method, Outcome, SimpleMethod, deal, epochs_of, search_epochs
from spnas_core.study.studies import Study
from tasks.jobs import Executor, completed


@dataclass(frozen=True)
class Searched:
    """Search of one method with one seed: its trials, its epochs, and the artifacts that belong to no trial (`others`)."""

    plan: Plan
    ledger: Sequence[Trial]
    epochs: int
    others: tuple[str, ...] = ()


def compare(asked: Study, executor: Executor) -> list[Outcome]:
    """Search with every method and seed, train each chosen net by the final recipe, and score it on the test split."""
    _completed(executor, [(f"fine_tune s{p.settings.seed}", start_training(p, p.settings.fine_tune)) for p in asked.plans])
    spnas = [sp_nas(plan, executor) for plan in asked.plans]
    found = without_inheritance(spnas, executor, asked.against)
    if "random" in asked.against:
        found["random"] = [random_search(one, executor) for one in spnas]
    return conclude({**found, "spnas": spnas}, executor)


def sp_nas(plan: Plan, executor: Executor) -> Searched:
    """Run the search stages of SP-NAS."""
    log_line(f"study: SP-NAS, seed {plan.settings.seed}")
    stage = search(plan, executor)
    others = tuple(f"reignite/{weights.digest}" for weights in stage.reignited.values())
    return Searched(plan, stage.ledger, search_epochs(stage.ledger, plan.settings, len(others)), (*others, *stage.searched))


def without_inheritance(spnas: Sequence[Searched], executor: Executor, methods: Collection[SimpleMethod]) -> dict[Method, list[Searched]]:
    """Spend the epochs of SP-NAS on the start net alone; and on the start net and its children, all trained from scratch.

    Of these two, those of `methods`.
    """
    asked = [method for method in SIMPLE_METHODS if method in methods and method != "random"]
    if asked:
        log_line(f"study: {' and '.join(METHODS[method] for method in asked)}")
    longer, scratch = [], []
    for one in spnas:
        plan, recipe, seed = one.plan, one.plan.settings.fine_tune, one.plan.settings.seed
        lengths = deal(one.epochs - recipe.epochs, recipe.epochs)
        children = zip(propose_children(one.ledger[:1], plan.settings, 1, len(lengths), plan.cost_of), lengths, strict=False)
        longer.append((f"start s{seed}", start_training(plan, recipe.lasting(one.epochs))))
        jobs = [from_scratch(plan, child, recipe.lasting(epochs)) for child, epochs in children]
        scratch.append([(f"scratch s{seed} {short(job.arch)}", job) for job in jobs])
    work = [*(longer if "start" in asked else ()), *(child for children in scratch for child in children if "scratch" in asked)]
    ended = executor.do(work)
    trials = {
        digest(job): ended_trial(spnas[0].plan, "serial", 1, n, None, job, end)
        for n, ((_, job), end) in enumerate(zip(work, ended, strict=True))
    }
    found: dict[Method, list[Searched]] = {method: [] for method in asked}
    for one, (_, job), children in zip(spnas, longer, scratch, strict=True):
        if "start" in found:
            found["start"].append(Searched(one.plan, [trials[digest(job)]], epochs_of([job])))
        if "scratch" in found:
            jobs = [child for _, child in children]
            ledger = [one.ledger[0], *(trials[digest(child)] for child in jobs)]
            found["scratch"].append(Searched(one.plan, ledger, one.plan.settings.fine_tune.epochs + epochs_of(jobs)))
    return found


def random_search(spnas: Searched, executor: Executor) -> Searched:
    """Spend the epochs of SP-NAS on random search: uniform parents, the same operators, rounds of the same size, inherited weights.

    It trains as many parallel candidates as SP-NAS; the epochs that SP-NAS spends on reignition go to additional serial candidates.
    """
    plan, settings = spnas.plan, spnas.plan.settings
    log_line(f"study: random search, seed {settings.seed}")
    ledger, number, jobs = list(spnas.ledger[:1]), 0, [start_training(plan, settings.fine_tune)]

    def train(stage: SearchStage, place: int, children: Sequence[Proposal], recipes: Sequence[Recipe]) -> None:
        work = [plan.short_training(recipe, child, {}) for child, recipe in zip(children, recipes, strict=False)]
        ledger.extend(train_jobs(plan, executor, Round(stage, place), work))
        jobs.extend(job for job, _ in work)

    parallel = [trial for trial in spnas.ledger if trial.stage == "parallel"]
    copies = search_epochs(parallel, settings, 0) // settings.parallel.recipe.epochs  # fewer than `parallel` where some stopped early
    lengths = deal(spnas.epochs - epochs_of(jobs) - copies * settings.parallel.recipe.epochs, settings.serial.recipe.epochs)
    while lengths:
        number += 1
        children = propose_children(ledger, settings, number, min(settings.serial.candidates, len(lengths)), plan.cost_of)
        if not children:
            break  # the search space has no more nets
        train("serial", number, children, [settings.serial.recipe.lasting(epochs) for epochs in lengths])
        lengths = lengths[len(children) :]
    if copies:
        finished, rng = ranked(ledger, settings.objectives), np.random.default_rng(settings.seed)
        parents = [finished[place] for place in rng.integers(len(finished), size=copies)]
        asked = settings.model_copy(update={"parallel": settings.parallel.model_copy(update={"candidates": copies})})
        train("parallel", 1, propose_parallel(parents, asked, plan.cost_of, ledger=ledger), [settings.parallel.recipe] * copies)
    return Searched(plan, ledger, epochs_of(jobs))


def conclude(found: dict[Method, list[Searched]], executor: Executor) -> list[Outcome]:
    """Train the net that each method chose by val score to the end, from its weights, and score it on the test split."""
    all_found = [(method, one, winner(one.ledger, one.plan.settings.objectives)) for method, ones in found.items() for one in ones]
    jobs = [final_training(one.plan, chosen) for _, one, chosen in all_found]
    labels = [f"{METHODS[method]}, seed {one.plan.settings.seed}" for method, one, _ in all_found]
    finals = _completed(executor, [(f"final {label}", job) for label, job in zip(labels, jobs, strict=True)])
    tests = [one.plan.evaluate(job, final.digest, "test") for (_, one, _), job, final in zip(all_found, jobs, finals, strict=True)]
    scored = _completed(executor, [(f"test {label}", job) for label, job in zip(labels, tests, strict=True)])
    places = [(method, one.plan.settings.seed) for method, one, _ in all_found]
    behind = gains_on_images(all_found[0][1].plan, dict(zip(places, scored, strict=True)))
    outcomes = []
    for (method, one, chosen), place, final, test in zip(all_found, places, finals, scored, strict=True):
        gain, all_gain = behind.get(place, (None, None))
        scores = one.plan.settings.work.scores
        trainings = [one.plan.store.find(*name.split("/")) for name in (*(f"train/{trial.digest}" for trial in one.ledger), *one.others)]
        outcomes.append(
            Outcome(
                method=method,
                seed=one.plan.settings.seed,
                arch=chosen.arch,
                artifacts=(*(f"{m.kind}/{m.digest}" for m in trainings if m), f"train/{final.digest}"),
                nets=len(one.ledger),
                failed=sum(trial.failure is not None for trial in one.ledger),
                epochs=one.epochs,
                minutes=sum(m.seconds for m in trainings if m) / 60,
                params=final.metrics["params"],
                macs=final.metrics["macs"],
                val={name: final.metrics[name] for name in scores},
                test={name: test.metrics[name] for name in scores},
                behind=gain,
                all_behind=all_gain,
            )
        )
    return outcomes


def start_training(plan: Plan, recipe: Recipe) -> TrainJob:
    """Job that trains the start net."""
    return plan.train(plan.settings.arch, plan.settings.detector, recipe)


def from_scratch(plan: Plan, child: Proposal, recipe: Recipe) -> TrainJob:
    """Job that trains a child from scratch."""
    return plan.train_net(child.net, recipe)


def final_training(plan: Plan, trial: Trial) -> TrainJob:
    """Job that trains the net of a trial to the end, from the trial's weights."""
    return plan.train_net(trial.net, plan.settings.full_train, (inherited(trial),))


def _completed(executor: Executor, work: Sequence[tuple[str, Job]]) -> list[Manifest]:
    """Run jobs, equal jobs once, and return the manifests of all; raises the first failure."""
    distinct = {digest(job): (label, job) for label, job in work}
    manifests = dict(zip(distinct, completed(executor, list(distinct.values())), strict=True))
    return [manifests[digest(job)] for _, job in work]
