"""Run jobs as Prefect tasks: as many at once as there are groups of devices, each in processes of its own."""

import itertools
import queue
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from spnas_core import job as jobs
from spnas_core import runner
from spnas_core.config import Retries
from spnas_core.errors import JobError, Stopped, UserError
from spnas_core.job import Job
from spnas_core.manifest import Manifest
from spnas_core.progress import log_progress
from spnas_core.store import Store
from tasks.results import artifact_key, result_storage

Ended = Manifest | JobError


@dataclass(frozen=True)
class Site:
    """Where jobs run, each on one group of `devices`, and leave their artifacts; no part of what they are.

    `threads` are shared by the jobs that run at once.
    """

    store: str
    devices: tuple[tuple[int, ...], ...] = ((0,),)
    threads: int = 1
    timeout: float | None = None
    checkpoint_seconds: float = 60.0
    memory_gb: float | None = None
    retries: Retries = field(default_factory=Retries)
    free: "queue.SimpleQueue[tuple[int, ...]]" = field(default_factory=queue.SimpleQueue, compare=False)

    def __post_init__(self) -> None:
        """Put every group of devices into the queue of free ones."""
        for group in self.devices:
            self.free.put(group)


def is_tried_again(policy: Retries, attempts: int, error: Any) -> bool:
    """Whether a job that failed with `error` at its last of `attempts` is started again."""
    if isinstance(error, JobError):
        return attempts <= int(getattr(policy, error.reason)) and not isinstance(error, Stopped)
    return isinstance(error, OSError) and not isinstance(error, UserError) and attempts <= policy.store


@task(
    name="job",
    task_run_name="{label}",
    cache_policy=CacheKeyFnPolicy(cache_key_fn=artifact_key),
    persist_result=True,
    result_serializer="json",
    retry_jitter_factor=0.5,
)
def run_job(key: str, label: str, job: Job, site: Site, threads: int) -> Manifest:
    """Run one job on free devices of `site` with `threads` CPU threads; `key` is its artifact's KIND/DIGEST."""
    devices = site.free.get()
    try:
        return runner.run_job(
            job,
            site.store,
            devices=devices,
            threads=threads,
            timeout=site.timeout,
            on_progress=lambda event: log_progress(label, event),
            checkpoint_seconds=site.checkpoint_seconds,
            memory_gb=site.memory_gb,
        )
    finally:
        site.free.put(devices)


def run_jobs(site: Site, work: Iterable[tuple[str, Job]]) -> list[Ended]:
    """Run labelled jobs and return, in their order, each one's manifest or its typed failure; anything else stops them all."""
    work = list(work)
    at_once = max(1, min(len(work), len(site.devices)))
    with ThreadPoolTaskRunner(max_workers=len(site.devices)) as runners:
        try:
            futures = [runners.submit(_checked(site, job), _parameters(site, label, job, site.threads // at_once)) for label, job in work]
            return [_ended(future.result(raise_on_failure=False)) for future in futures]
        except BaseException:
            runner.stop_all(runner.GRACE)
            raise


def _parameters(site: Site, label: str, job: Job, threads: int) -> dict[str, Any]:
    return {"key": f"{job.kind}/{jobs.digest(job)}", "label": label, "job": job, "site": site, "threads": max(1, threads)}


def _checked(site: Site, job: Job) -> Any:
    """Give the task with its results under the store, and the site's retries; a cached result whose artifact is gone does not count."""
    attempts = itertools.count(1)

    def condition(_task: Any, _run: Any, state: Any) -> bool:
        return is_tried_again(site.retries, next(attempts), state.result(raise_on_failure=False))

    there = Store(site.store).find(job.kind, jobs.digest(job)) is not None
    return run_job.with_options(
        result_storage=result_storage(site.store),
        refresh_cache=not there,
        retries=max(site.retries.model_dump().values()),
        retry_delay_seconds=exponential_backoff(backoff_factor=1),
        retry_condition_fn=condition,
    )


def _ended(result: Any) -> Ended:
    if isinstance(result, Manifest | JobError):
        return result
    if isinstance(result, BaseException):
        raise result
    raise TypeError(f"job: expected a manifest, got {type(result).__name__}")


def completed(site: Site, work: Sequence[tuple[str, Job]]) -> list[Manifest]:
    """Run labelled jobs without which the run cannot go on: the first failure is raised, after all have ended."""
    found: list[Manifest] = []
    for (label, _), ended in zip(work, run_jobs(site, work), strict=True):
        if isinstance(ended, JobError):
            raise JobError(ended.reason, f"{label}: {ended.message}") from ended
        found.append(ended)
    return found
