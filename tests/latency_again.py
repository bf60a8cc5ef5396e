"""Script: latencies of the nets that a run trained to the end, measured again in another order, on an idle machine (docs/results.md).

    .venv/bin/python tests/latency_again.py STORE RUN...

Each is measured as a run does it, by the same jobs, in a store of its own; both latencies of a net are those at the speed that the device
had when its run began (`Plan.measured`). It prints the median of the relative changes, their size only, and Spearman's rank correlation of
both series, then the same of the times as they were.
"""

import sys
import tempfile
from collections.abc import Sequence

import numpy as np
from scipy import stats

from spnas_core.job import BenchmarkJob, TrainJob, digest
from spnas_core.jobs.runner import run_job
from spnas_core.report.inputs import reopen_stage
from spnas_core.report.offered import front_trials
from spnas_core.run.plan import Plan
from spnas_core.search.net import net_of
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest

SEED = 1


def measured(place: str, runs: Sequence[str]) -> list[tuple[str, Plan, BenchmarkJob, Manifest]]:
    """Name, plan of its run, job and artifact of each net of a front or of the end, once per run."""
    found = {}
    for run in runs:
        plan, stage = reopen_stage(store := Store(place), run)
        nets = [one.net for one in front_trials(plan, stage).values()]
        for result in stage.results.values():
            training = store.find("train", result.digest)
            assert training
            job = TrainJob.model_validate(training.job)
            nets.append(net_of(job.arch, job.detector, plan.settings.detector))
        for net in nets:
            before = store.find("benchmark", digest(job := plan.benchmark(net)))
            assert before
            found[digest(job)] = f"{run} {net}", plan, job, before
    return list(found.values())


def main(store: str, *runs: str) -> None:
    """Measure and print."""
    nets = measured(store, runs)
    again: list[tuple[int, Manifest]] = []
    with tempfile.TemporaryDirectory() as folder:
        for place in np.random.default_rng(SEED).permutation(len(nets)):
            name, plan, job, before = nets[place]
            again.append((place, run_job(job, folder, threads=job.threads)))
            ours, theirs = plan.measured(before, again[-1][1])
            print(f"{ours['latency_ms']:8.2f} {theirs['latency_ms']:8.2f} ms  {name}", flush=True)
    scaled = [[one["latency_ms"] for one in nets[place][1].measured(nets[place][3], found)] for place, found in again]
    clock = [[one.metrics["latency_ms"] for one in (nets[place][3], found)] for place, found in again]
    for words, series in (("at the speed of each run's start", scaled), ("as the clock said", clock)):
        first, second = np.array(series).T
        change = 100 * np.median(np.abs(second / first - 1))
        print(f"{len(nets)} nets, {words}: median change {change:.1f} %, rank correlation {stats.spearmanr(first, second)[0]:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
