"""Run jobs as Prefect tasks: as many at once as there are groups of devices, in processes of their own, here or on hosts of a work pool."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from spnas_core import job as jobs
from spnas_core.config import Retries, Run, StageName
from spnas_core.errors import JobError, MissingArtifactError, Stopped, UserError
from spnas_core.job import Job
from spnas_core.jobs import runner
from spnas_core.store.artifacts import Store
from spnas_core.store.claims import Lease
from spnas_core.store.manifest import Manifest
from tasks import page, pool
from tasks.devices import free_devices
from tasks.results import artifact_key, result_storage

Ended = Manifest | JobError
AT_ONCE = 64  # most jobs that are asked of a work pool at the same time


@dataclass(frozen=True)
class Site:
    """Where jobs run and leave their artifacts, by the settings of a run; no part of what they are.

    `refresh` names the stages that are computed anew; while one is, `renew` sets the artifact of a job aside, by kind and digest.
    """

    store: str
    settings: Run = field(default_factory=Run)
    refresh: tuple[StageName, ...] = ()
    renew: Callable[[str, str], None] | None = None
    free: "queue.SimpleQueue[tuple[int, ...]]" = field(default_factory=queue.SimpleQueue, init=False, compare=False)
    stopped: threading.Event = field(default_factory=threading.Event, init=False, compare=False)

    def __post_init__(self) -> None:
        """Put every group of the CPU's slots into the queue of free ones."""
        for group in self.settings.device_groups:
            self.free.put(group)

    def at_once(self, work: int) -> int:
        """How many of `work` jobs go on at the same time; those of a work pool wait there for a device."""
        return max(1, min(work, AT_ONCE if self.settings.executor == "work_pool" else len(self.settings.device_groups)))

    @contextlib.contextmanager
    def devices(self) -> Iterator[tuple[int, ...]]:
        """Hold a free group of devices, as soon as there is one; Stopped where the run was.

        Devices are nobody else's on this host, be it another run or a job of the work pool; those of the CPU are mere slots of this run.
        """
        if self.settings.device_target != "CPU":
            with free_devices(self.settings.device_groups, self.settings.devices_per_job, self.stopped) as held:
                yield held
            return
        group = self.free.get()
        try:
            if self.stopped.is_set():
                raise Stopped("it was stopped while it waited for free devices")
            yield group
        finally:
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
def run_job(key: str, label: str, job: Job, site: Site, threads: int) -> str:
    """Run one job where `site` says, with `threads` CPU threads; what Prefect keeps is no more than `key`, its artifact's KIND/DIGEST."""
    settings = site.settings
    if settings.executor == "work_pool":
        pool.run_job(job, site.store, label, settings, site.stopped)
        return key
    runner.run_job(
        job,
        site.store,
        devices=site.devices(),
        threads=threads,
        timeout=settings.timeout(job.kind),
        on_progress=page.follow(label),
        checkpoint_seconds=settings.checkpoint_seconds,
        memory_gb=settings.memory_gb,
        lease=Lease.of(settings.lease_seconds),
    )
    return key


def run_jobs(site: Site, work: Iterable[tuple[str, Job]]) -> list[Ended]:
    """Run labelled jobs and return, in their order, each one's manifest or its typed failure; anything else stops them all."""
    work = list(work)
    at_once = site.at_once(len(work))
    threads = max(1, site.settings.threads // at_once)
    with ThreadPoolTaskRunner(max_workers=at_once) as runners:
        try:
            futures = [runners.submit(_checked(site, job), _parameters(site, label, job, threads)) for label, job in work]
            ended = [future.result(raise_on_failure=False) for future in futures]
            return [_ended(Store(site.store), job, result) for (_, job), result in zip(work, ended, strict=True)]
        except BaseException:
            site.stopped.set()
            runner.stop_all(runner.GRACE)
            raise


def _parameters(site: Site, label: str, job: Job, threads: int) -> dict[str, Any]:
    return {"key": f"{job.kind}/{jobs.digest(job)}", "label": label, "job": job, "site": site, "threads": threads}


def _checked(site: Site, job: Job) -> Any:
    """Give the task with its results under the store, and the run's retries; a cached result whose artifact is gone does not count.

    It has no tags: for those, Prefect asks the server for places under limits of their names, which takes about two seconds with SQLite.
    """
    kind, digest, policy, attempts = job.kind, jobs.digest(job), site.settings.retries, itertools.count(1)

    def condition(_task: Any, _run: Any, state: Any) -> bool:
        return is_tried_again(policy, next(attempts), state.result(raise_on_failure=False))

    if site.renew:
        site.renew(kind, digest)
    return run_job.with_options(
        result_storage=result_storage(site.store),
        refresh_cache=Store(site.store).find(kind, digest) is None,
        retries=max(policy.model_dump().values()),
        retry_delay_seconds=exponential_backoff(backoff_factor=1),
        retry_condition_fn=condition,
    )


def _ended(store: Store, job: Job, result: Any) -> Ended:
    if isinstance(result, JobError):
        return result
    if isinstance(result, BaseException):
        raise result
    if found := store.find(job.kind, jobs.digest(job)):
        return found
    raise MissingArtifactError(f"store {store.url}: expected {job.kind}/{jobs.digest(job)}, whose job has ended; start the run again")


def completed(site: Site, work: Sequence[tuple[str, Job]]) -> list[Manifest]:
    """Run labelled jobs without which the run cannot go on: the first failure is raised, after all have ended."""
    found: list[Manifest] = []
    for (label, _), ended in zip(work, run_jobs(site, work), strict=True):
        if isinstance(ended, JobError):
            raise JobError(ended.reason, f"{label}: {ended.message}") from ended
        found.append(ended)
    return found
