"""`spnas study front`: fronts of the search, of random search and of stock nets, and the recommended net beside the start net."""

from collections.abc import Sequence

from flows.baselines import Searched, random_search, sp_nas, start_training
from spnas_core.job import TrainJob, digest
from spnas_core.jobs.progress import log_line
from spnas_core.run.plan import Plan, inherited, short
from spnas_core.run.record import ended_trial
from spnas_core.search.estimate import own_scores
from spnas_core.search.ledger import Trial, chosen_net, epochs_behind, pareto_front
from spnas_core.search.net import Net
from spnas_core.search.stock import stock_family
from spnas_core.settings.search import Objectives
from spnas_core.store.manifest import Manifest
from spnas_core.study.fronts import FrontMethod, FrontOutcome, FrontPoint, TrainedNet
from spnas_core.study.methods import deal
from spnas_core.study.studies import Study
from tasks.jobs import Executor, completed


def compare_fronts(asked: Study, executor: Executor) -> list[FrontOutcome]:
    """Search with every method and seed, score the nets of each front on the test split, and train the recommended nets to the end."""
    starts = [(f"fine_tune s{p.settings.seed}", start_training(p, p.settings.fine_tune)) for p in asked.plans]
    completed(executor, starts)  # all at once, since each search begins with one training alone
    spnas = [sp_nas(plan, executor) for plan in asked.plans]
    found: dict[FrontMethod, list[Searched]] = {
        "spnas": spnas,
        "random": [random_search(one, executor) for one in spnas],
        "stock": [stock_nets(one, executor) for one in spnas],
    }
    points = {(method, one.plan.settings.seed): _points(one, executor) for method, ones in found.items() for one in ones}
    trained = [_recommended(one, executor) for one in spnas]
    return [
        FrontOutcome(
            arch=one.plan.settings.arch,
            artifacts=(*(f"train/{trial.digest}" for trial in one.ledger), *one.others),
            method=method,
            seed=one.plan.settings.seed,
            epochs=one.epochs,
            points=points[method, one.plan.settings.seed],
            recommended=trained[number][0] if method == "spnas" else None,
            reference=trained[number][1] if method == "spnas" else None,
        )
        for method, ones in found.items()
        for number, one in enumerate(ones)
    ]


def stock_nets(spnas: Searched, executor: Executor) -> Searched:
    """Spend the epochs of SP-NAS on stock nets, equally many on each, from scratch."""
    plan, settings = spnas.plan, spnas.plan.settings
    log_line(f"study: stock nets, seed {settings.seed}")
    family = stock_family(spnas.ledger[0].net, settings.detector)
    lengths = deal(spnas.epochs, spnas.epochs // len(family))
    jobs = [plan.train_net(net, settings.fine_tune.lasting(epochs)) for net, epochs in zip(family.values(), lengths, strict=True)]
    ended = executor.do([(f"stock s{settings.seed} {name}", job) for name, job in zip(family, jobs, strict=True)])
    ledger = [ended_trial(plan, "serial", 1, n, None, job, end) for n, (job, end) in enumerate(zip(jobs, ended, strict=True))]
    return Searched(plan, ledger, spnas.epochs)


def _points(one: Searched, executor: Executor) -> tuple[FrontPoint, ...]:
    """Score the nets of the front on val on test."""
    front = pareto_front(one.ledger, _objectives(one))
    tests = _tested(one.plan, executor, [(trial.digest, trial.net) for trial in front])
    return tuple(
        FrontPoint(net=str(trial.net), macs=(trial.metrics or {})["macs"], val=trial.value(one.plan.settings.work.score), test=test)
        for trial, test in zip(front, tests, strict=True)
    )


def _objectives(one: Searched) -> Objectives:
    """Give what the search ranks by, and MACs."""
    return (one.plan.settings.objectives[0], "macs")


def _recommended(one: Searched, executor: Executor) -> tuple[TrainedNet, TrainedNet]:
    """Train the cheapest net without loss, and the start net for as many epochs, to the end."""
    plan, settings = one.plan, one.plan.settings
    final = settings.final.model_copy(update={"choose": "cheapest"})
    chosen, _ = chosen_net(one.ledger, settings.model_copy(update={"final": final, "objectives": _objectives(one)}))
    reignited = {name.split("/")[1] for name in one.others}
    behind, full = epochs_behind(one.ledger, chosen, settings, reignited), settings.full_train
    recipes: Sequence[tuple[Trial, int]] = ((chosen, full.epochs), (one.ledger[0], full.epochs + behind))
    jobs = [plan.train_net(trial.net, full.lasting(epochs), (inherited(trial),)) for trial, epochs in recipes]
    distinct = {digest(job): job for job in jobs}
    done = completed(executor, [(f"full_train s{settings.seed} {short(job.arch)}", job) for job in distinct.values()])
    manifests = dict(zip(distinct, done, strict=True))
    trained = [manifests[digest(job)] for job in jobs]
    tests = _tested(plan, executor, [(manifest.digest, trial.net) for manifest, (trial, _) in zip(trained, recipes, strict=True)])
    total = settings.fine_tune.epochs + behind + full.epochs
    # each alone, not to be disturbed; the start net's too before any counts, since it tells the device's speed
    benchmarks = [completed(executor, [(f"benchmark {short(one.arch)}", plan.benchmark(one.net))])[0] for one, _ in recipes]
    found = []
    for (trial, _), manifest, test, measured in zip(recipes, trained, tests, plan.measured(*benchmarks), strict=True):
        costs = {"macs": manifest.metrics["macs"], "latency_ms": measured["latency_ms"], "epochs": total}
        found.append(TrainedNet(net=str(trial.net), val=own_scores(manifest.metrics)[settings.work.score], test=test, **costs))
    return found[0], found[1]


def _tested(plan: Plan, executor: Executor, nets: Sequence[tuple[str, Net]]) -> list[float]:
    """Score on test of trained nets, each given by its train artifact."""
    jobs = []
    for artifact, _ in nets:
        manifest = plan.store.manifest(f"train/{artifact}")
        assert isinstance(manifest, Manifest)  # it was trained a moment ago
        jobs.append(plan.evaluate(TrainJob.model_validate(manifest.job), artifact, "test"))
    work = [(f"test {short(str(net.arch))}", job) for (_, net), job in zip(nets, jobs, strict=True)]
    distinct = {digest(job): one for one in work for job in (one[1],)}
    done = dict(zip(distinct, completed(executor, list(distinct.values())), strict=True))
    return [float(done[digest(job)].metrics[plan.settings.work.score]) for job in jobs]
