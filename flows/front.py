"""Full trainings and measurements of nets of a run's front, as a Prefect flow: ordinary jobs, which are done once in a store."""

from collections.abc import Sequence

from prefect import flow

from flows.presets.places import settle_run
from spnas_core.errors import UserError
from spnas_core.job import Job
from spnas_core.report.inputs import reopen_stage
from spnas_core.report.offered import all_fronts, full_training, net_of_front, note_trained
from spnas_core.run.plan import Plan, short
from spnas_core.search.ledger import Trial
from spnas_core.store.artifacts import Store
from tasks.jobs import Executor, completed


def front_jobs(store: Store, run: str, train: Sequence[str], measure: bool, data: str | None) -> tuple[Plan, list[tuple[str, Job]]]:
    """Labelled jobs for nets of the front of a finished run; UserError for another net, or a run that is not finished."""
    plan, stage = reopen_stage(store, run, data)
    trials = all_fronts(plan, stage)
    if "final" not in stage.results:
        words = f"run {run}: expected a finished run to train and measure nets of, since its front may change still"
        raise UserError(f"{words}, got one up to the stage {stage.name}; spnas resume {run} goes on")
    wanted: list[Trial] = list({one.digest: one for one in (net_of_front(trials, text, run) for text in train)}.values())
    jobs: list[tuple[str, Job]] = [(f"full_train {short(one.arch)}", full_training(plan, one)) for one in wanted]
    nets = dict.fromkeys((plan.start, *(one.net for one in trials.values()))) if measure else ()  # the start net's tells the device's speed
    return plan, jobs + [(f"benchmark {short(str(net.arch))}", plan.benchmark(net)) for net in nets]


@flow(name="spnas-front")
def front_work(store: str, run: str, train: Sequence[str] = (), measure: bool = False, data: str | None = None) -> None:
    """Train nets of the front of run `run` to the end, all at once as devices are free, and measure them one after the other.

    Args:
        store: Store of the run.
        run: Name of the run.
        train: Nets, by number, text or the beginning of the digest.
        measure: Whether to measure latency and memory of all nets of the front.
        data: Where the data lies, if it has moved.
    """
    plan, work = front_jobs(Store(store), run, train, measure, data)
    executor = Executor(plan.store.url, settle_run(plan.settings))
    trainings = [one for one in work if one[1].kind == "train"]
    if trainings:
        trained = completed(executor, trainings)
        note_trained(plan.store, run, [one.digest for one in trained])
    for one in work:
        if one not in trainings:
            completed(executor, [one])
