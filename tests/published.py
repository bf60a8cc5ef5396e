"""A serial search whose trainings are in the store as if they had been done: what a run costs is then all but its jobs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from spnas_core.job import TrainJob
from spnas_core.jobs import runner
from spnas_core.metrics import STATS
from spnas_core.run.plan import Plan, inherited
from spnas_core.run.record import ended_trial
from spnas_core.search.ledger import Trial
from spnas_core.search.net import net_of
from spnas_core.search.propose import propose_serial
from spnas_core.store.manifest import Manifest


def publish(plan: Plan, job: TrainJob, rng: np.random.Generator, scratch: Path) -> Manifest:
    """Leave an artifact as the training would."""
    cost = plan.cost_of(net_of(job.arch, job.detector))
    scores = {**dict.fromkeys(STATS, 0.5), "AP": float(rng.random())}
    return plan.store.publish(job, scratch, {**scores, "macs": cost.macs, "params": cost.params}, 1.0)


def published_search(plan: Plan, scratch: Path, trained: Callable[[int, int], bool] = lambda _number, _index: False) -> tuple[Trial, ...]:
    """Ledger of the start net (round 0) and of all candidates; `trained` says for which round and index the training is really done."""
    rng, settings = np.random.default_rng(0), plan.settings.serial
    scratch.mkdir()

    def done(job: TrainJob, number: int, index: int) -> Manifest:
        return runner.run_job(job, plan.store.url) if trained(number, index) else publish(plan, job, rng, scratch)

    job = plan.train(plan.settings.arch, plan.settings.detector, plan.settings.fine_tune)
    ledger: tuple[Trial, ...] = (ended_trial(plan, "fine_tune", 0, 0, None, job, done(job, 0, 0)),)
    for number in range(1, settings.rounds + 1):
        for index, child in enumerate(propose_serial(ledger, plan.settings, number, plan.cost_of)):
            job = plan.train_net(child.net, settings.recipe, (inherited(child.parent),))
            ledger += (ended_trial(plan, "serial", number, index, child.parent.digest, job, done(job, number, index)),)
    return ledger
