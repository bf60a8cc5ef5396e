"""The serial search with a supernet: one training for all nets of a family, evolution on the scores of its paths, training of the best."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from spnas_core.arch import FEWEST_BLOCKS, MAX_BLOCKS, Arch
from spnas_core.errors import UserError
from spnas_core.job import PathsJob, SupernetJob, TrainJob, Weights, digest
from spnas_core.run.candidates import Round, train_jobs
from spnas_core.run.crew import Crew, Label, do, manifests
from spnas_core.run.plan import Plan, inherited
from spnas_core.run.record import PATH
from spnas_core.search.bounds import Bound, cost_bounds
from spnas_core.search.costs import CostOf, within
from spnas_core.search.evolve import ScoredPath, best_paths, propose_paths
from spnas_core.search.family import family_of
from spnas_core.search.ledger import Trial
from spnas_core.search.net import net_of
from spnas_core.search.paths import Bands
from spnas_core.settings.run import Run
from spnas_core.settings.search import SCORES


def _block_limits(settings: Run) -> tuple[int, int]:
    return max(FEWEST_BLOCKS, settings.space.min_blocks), min(MAX_BLOCKS, settings.space.max_blocks)


def supernet_job(plan: Plan, start: Trial) -> SupernetJob:
    """Job that trains the supernet around the start net."""
    settings, run = plan.settings.serial.supernet, plan.settings
    return SupernetJob(
        arch=start.arch,
        detector=start.net.detector(run.detector),
        family=settings.family,
        blocks=_block_limits(run),
        recipe=settings.recipe,
        paths=settings.paths,
        data=plan.data,
        weights=(inherited(start),),
        seed=run.seed,
        device_target=run.device_target,
    )


def paths_job(plan: Plan, supernet: SupernetJob, members: Sequence[Arch]) -> PathsJob:
    """Job that scores members of a supernet as paths."""
    common = {name: getattr(supernet, name) for name in ("arch", "detector", "family", "blocks", "recipe", "data", "seed", "device_target")}
    weights = (Weights(kind="supernet", digest=digest(supernet), arch=supernet.arch),)
    count = plan.settings.serial.supernet.calibration
    return PathsJob(calibration=count, members=tuple(map(str, members)), weights=weights, **common)


def search_paths(plan: Plan, crew: Crew, start: Trial, supernet: SupernetJob) -> tuple[list[ScoredPath], tuple[str, ...]]:
    """Paths that the evolution scores, generation by generation, and the artifacts that have the scores."""
    settings, objectives = plan.settings.serial.supernet, plan.settings.objectives
    bands = Bands(
        family_of(supernet.arch, supernet.family, supernet.blocks),
        lambda arch: plan.cost_of(replace(start.net, arch=arch)).macs,
        settings.paths.bands,
    )

    def fits(arch: Arch) -> bool:
        return within(plan.cost_of(replace(start.net, arch=arch)), plan.settings.budget)

    def best() -> str:
        highest = max(path.values[objectives[0]] for path in scored)
        return f"{len(scored)} paths scored, best {objectives[0]} {100 * highest:.1f}"

    scored, artifacts = list[ScoredPath](), list[str]()
    for generation in range(1, settings.evolution.generations + 1):
        members = propose_paths(bands, scored, settings.evolution, objectives, plan.settings.seed, fits)
        if not members:
            break
        label, job = Label("serial", "paths", supernet.arch, generation), paths_job(plan, supernet, members)
        (found,) = manifests(do(crew, [(label, job)]))
        artifacts.append(f"paths/{digest(job)}")
        costs = [plan.cost_of(replace(start.net, arch=arch)) for arch in members]
        for arch, cost in zip(members, costs, strict=True):
            scored.append(ScoredPath(arch, {**found.metrics["scores"][str(arch)], "macs": cost.macs, "params": cost.params}))
        crew.tell(partial("{}: {}".format, label, best()))
    return scored, tuple(artifacts)


def train_finalists(plan: Plan, crew: Crew, start: Trial) -> tuple[list[Trial], tuple[str, ...]]:
    """Train a supernet, search among its paths, and train the best by the recipe of the serial search, on the weights of their paths.

    Returns their trials, with the scores as paths among the metrics, and the artifacts of the search. UserError where the family has no
    net within the budget.
    """
    run, supernet = plan.settings, supernet_job(plan, start)
    do(crew, [(Label("serial", "supernet", supernet.arch), supernet)])
    scored, artifacts = search_paths(plan, crew, start, supernet)
    chosen = best_paths(scored, run.serial.supernet.finalists, run.objectives, start.net.arch)
    if not chosen:
        raise UserError(f"supernet: expected nets of the family around {start.arch} within the budget that score, got none")
    trainings: list[tuple[TrainJob, Trial | None]] = []
    for path in chosen:
        weights = Weights(kind="supernet", digest=digest(supernet), arch=str(path.arch))
        trainings.append((plan.train_net(replace(start.net, arch=path.arch), run.serial.recipe, (weights,)), None))
    trials = [_with_path_scores(*pair) for pair in zip(train_jobs(plan, crew, Round("serial", 1), trainings), chosen, strict=True)]
    return trials, (f"supernet/{digest(supernet)}", *artifacts)


def _with_path_scores(trial: Trial, path: ScoredPath) -> Trial:
    own = {f"{PATH}{name}": path.values[name] for name in SCORES if name in path.values}
    return trial if trial.metrics is None else replace(trial, metrics={**trial.metrics, **own})


def search_bounds(settings: Run, cost_of: CostOf) -> tuple[Bound, Bound]:
    """Cheapest and most expensive net of a run, as `cost_bounds`; with a supernet those of its family, and with the most parallel copies.

    UserError where the budget leaves no net: it is below the cheapest, or above the most expensive.
    """
    if settings.serial.evaluator == "train":
        return cost_bounds(settings, cost_of)
    start = net_of(settings.arch, settings.detector)
    family = family_of(str(start.arch), settings.serial.supernet.family, _block_limits(settings))
    bands = Bands(family, lambda arch: cost_of(replace(start, arch=arch)).macs, 1)
    copies = (settings.parallel.max_parallel,) * len(start.arch.stages)
    nets = [replace(start, arch=arch) for arch in (bands.smallest, family.start, bands.largest, bands.largest.with_parallel(copies))]
    found = [Bound(net, cost_of(net)) for net in nets]
    small, large = found[0].cost, found[2].cost
    least = settings.budget.model_copy(update={name: (getattr(settings.budget, name)[0], None) for name in ("params_m", "gmacs")})
    if not within(small, settings.budget, lower=False) or not within(large, least):
        have = f"{small.params / 1e6:.3g} to {large.params / 1e6:.3g} M parameters, {small.macs / 1e9:.3g} to {large.macs / 1e9:.3g} GMACs"
        limits = {name: list(getattr(settings.budget, name)) for name in ("params_m", "gmacs")}
        raise UserError(f"budget: expected limits that some net of the supernet's family meets, got {limits}; its nets have {have}")
    inside = [one for one in found if within(one.cost, settings.budget)] or found[:3]
    return inside[0], inside[-1]
