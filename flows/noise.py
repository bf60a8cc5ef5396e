"""`spnas study noise`: the same nets trained briefly with several seeds, to see how far their scores can be believed."""

import json
from collections.abc import Sequence

from spnas_core.job import TrainJob
from spnas_core.names import HISTORY_FILE
from spnas_core.run.plan import Plan, inherited, short
from spnas_core.search.ledger import Trial
from spnas_core.search.propose import Proposal, propose_children
from spnas_core.settings.training import Recipe
from spnas_core.store.manifest import Manifest
from spnas_core.study.noise import NoisyScore
from spnas_core.study.studies import Study
from tasks.jobs import Executor, completed
from tasks.stages import run_stage

USUAL_EMA = 0.98  # decay per step of the average, where the settings have none: it forgets a step within about 50


def measure_noise(asked: Study, executor: Executor) -> list[NoisyScore]:
    """Train children of the start net, and the start net itself, on its weights, with every seed, evaluating each epoch."""
    plan = asked.plans[0]
    start = run_stage(plan, executor, "fine_tune", None)
    children = propose_children(start.ledger, plan.settings, 1, asked.count, plan.cost_of)
    nets = [Proposal(start.ledger[0].net, start.ledger[0]), *children]
    recipe = plan.settings.serial.recipe
    watched = recipe.model_copy(update={"eval_epochs": 1, "ema": 0.0})
    averaging = watched.model_copy(update={"ema": recipe.ema or USUAL_EMA})
    seeds = [one.settings.seed for one in asked.plans]
    wanted = [(net, seed, way) for net in nets for seed in seeds for way in (watched, averaging)]
    jobs = [(f"{short(str(net.net.arch))} s{seed}", _job(plan, net, seed, way)) for net, seed, way in wanted]
    done = dict(zip(((net.net, seed, way.ema) for net, seed, way in wanted), completed(executor, jobs), strict=True))

    def entry(net: Proposal, seed: int) -> NoisyScore:
        ours, control = ([done[of.net, seed, way.ema] for way in (watched, averaging)] for of in (net, nets[0]))
        plain, averaged, *controls = (_curve(plan, manifest) for manifest in (*ours, *control))
        return NoisyScore(
            arch=str(net.net.arch),
            artifacts=tuple(f"train/{one.digest}" for one in (*ours, *control)),
            seed=seed,
            macs=ours[0].metrics["macs"],
            plain=plain,
            averaged=averaged,
            control=(controls[0], controls[1]),
        )

    return [entry(net, seed) for net in children for seed in seeds]


def _job(plan: Plan, net: Proposal, seed: int, recipe: Recipe) -> TrainJob:
    parent: Trial = net.parent
    return plan.train_net(net.net, recipe, (inherited(parent),)).model_copy(update={"seed": seed})


def _curve(plan: Plan, manifest: Manifest) -> tuple[float, ...]:
    """Score after each epoch of a training."""
    history: Sequence[dict[str, float]] = json.loads(plan.store.fetch("train", manifest.digest, HISTORY_FILE).read_text())
    return tuple(record[plan.settings.work.score] for record in history)
