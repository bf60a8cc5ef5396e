"""Script: latencies of the nets that a run trained to the end, measured again in another order, on an idle machine (docs/results.md).

    .venv/bin/python tests/latency_again.py STORE RUN...

Each is measured as a run does it, by the same jobs, in a store of its own. It prints the median of the relative changes, their size only,
and Spearman's rank correlation of both series; a run's first latencies come from its own store.
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
from spnas_core.search.net import net_of
from spnas_core.store.artifacts import Store

SEED = 1


def measured(place: str, runs: Sequence[str]) -> list[tuple[str, BenchmarkJob, float]]:
    """Name, job and latency, ms, of each net of a front or of the end, once per run."""
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
            job = plan.benchmark(net)
            before = store.find("benchmark", digest(job))
            assert before
            found[digest(job)] = f"{run} {net}", job, before.metrics["latency_ms"]
    return list(found.values())


def main(store: str, *runs: str) -> None:
    """Measure and print."""
    nets = measured(store, runs)
    again = np.zeros(len(nets))
    with tempfile.TemporaryDirectory() as folder:
        for place in np.random.default_rng(SEED).permutation(len(nets)):
            name, job, before = nets[place]
            again[place] = run_job(job, folder, threads=job.threads).metrics["latency_ms"]
            print(f"{before:8.2f} {again[place]:8.2f} ms  {name}", flush=True)
    first = np.array([before for _, _, before in nets])
    change = 100 * np.abs(again / first - 1)
    print(f"{len(nets)} nets: median change {np.median(change):.1f} %, rank correlation {stats.spearmanr(first, again)[0]:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
