"""Prefect's crew: jobs as Prefect tasks, one per free group of devices, each in its own process, here or on hosts of a work pool."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from spnas_core import job as jobs
from spnas_core.errors import JobError, MissingArtifactError, Stopped, UserError
from spnas_core.job import Job
from spnas_core.jobs import runner
from spnas_core.jobs.job_group import JobGroup
from spnas_core.jobs.progress import log_line
from spnas_core.run.crew import Ended, succeeded
from spnas_core.run.plan import Plan, RoundStage
from spnas_core.run.record import StageRecord, newest_round, publish_stage
from spnas_core.settings.run import Retries, Run, StageName
from spnas_core.store.artifacts import Store
from spnas_core.store.claims import Lease
from spnas_core.store.manifest import Manifest
from tasks import page, pool
from tasks.devices import free_devices
from tasks.results import artifact_key, result_storage

AT_ONCE = 64  # most jobs submitted to a work pool at the same time


class Slots:
    """Device groups of one run in this process, and the jobs that hold them."""

    def __init__(self, groups: Iterable[tuple[int, ...]]) -> None:
        self.jobs = JobGroup()
        self.stopped = threading.Event()
        self._free: queue.SimpleQueue[tuple[int, ...]] = queue.SimpleQueue()
        for group in groups:
            self._free.put(group)

    @contextlib.contextmanager
    def hold(self) -> Iterator[tuple[int, ...]]:
        """Hold a group as soon as one is free; Stopped if the run was stopped."""
        group = self._free.get()
        try:
            if self.stopped.is_set():
                raise Stopped("it was stopped while it waited for free devices")
            yield group
        finally:
            self._free.put(group)

    def stop(self) -> None:
        """Stop the jobs, which may save a checkpoint first, and start no more."""
        self.stopped.set()
        self.jobs.stop(runner.GRACE)


@dataclass(frozen=True)
class Executor:
    """Prefect's crew: it runs jobs as tasks on the devices in the settings of a run; the jobs publish their artifacts in a store.

    `refresh` names the stages to recompute; during such a stage, `renew` sets the artifact of a job aside, by kind and digest. All copies
    of an executor share `slots`.
    """

    store: str
    settings: Run = field(default_factory=Run)
    refresh: tuple[StageName, ...] = ()
    renew: Callable[[str, str], None] | None = None
    slots: Slots = field(default=None, compare=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Create the slots of a new run."""
        if self.slots is None:
            object.__setattr__(self, "slots", Slots(self.settings.device_groups))

    def at_once(self, work: int) -> int:
        """Concurrency for `work` jobs; jobs of a work pool wait there for a device."""
        return max(1, min(work, AT_ONCE if self.settings.executor == "work_pool" else len(self.settings.device_groups)))

    def devices(self) -> AbstractContextManager[tuple[int, ...]]:
        """Hold a group of devices as soon as one is free; Stopped if the run was stopped.

        Devices are held exclusively on this host, against other runs and jobs of the work pool; with the CPU they only limit this run.
        """
        if self.settings.device_target == "CPU":
            return self.slots.hold()
        return free_devices(self.settings.device_groups, self.settings.devices_per_job, self.slots.stopped)

    def do(self, work: Sequence[tuple[object, Job]]) -> list[Ended]:
        """Run labelled jobs and return the manifest or the typed failure of each, in order; any other exception stops them all."""
        at_once = self.at_once(len(work))
        threads = max(1, self.settings.threads // at_once)
        with ThreadPoolTaskRunner(max_workers=at_once) as runners:
            try:
                futures = [runners.submit(_checked(self, job), _parameters(self, str(label), job, threads)) for label, job in work]
                ended = [future.result(raise_on_failure=False) for future in futures]
                return [_ended(Store(self.store), job, result) for (_, job), result in zip(work, ended, strict=True)]
            except BaseException:
                self.slots.stop()
                raise

    def newest_round(self, plan: Plan, start: StageRecord, stage: RoundStage = "serial") -> tuple[int, StageRecord]:
        """Last round of a stage with a record in the store, and that record."""
        return newest_round(plan, start, stage)

    def leave(self, plan: Plan, record: StageRecord, seconds: float) -> None:
        """Publish the record of a round."""
        publish_stage(plan, record, seconds)

    def tell(self, line: Callable[[], str]) -> None:
        """Log a line."""
        log_line(line())


def is_tried_again(policy: Retries, attempts: int, error: Any) -> bool:
    """Whether a job is retried after its attempt number `attempts` failed with `error`."""
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
def job_task(key: str, label: str, job: Job, executor: Executor, threads: int) -> str:
    """Run one job as `executor` says, with `threads` CPU threads; Prefect stores only `key`, its artifact's KIND/DIGEST."""
    settings = executor.settings
    if settings.executor == "work_pool":
        pool.run_on_pool(job, executor.store, label, settings, executor.slots.stopped)
        return key
    runner.run_job(
        job,
        executor.store,
        devices=executor.devices(),
        threads=threads,
        timeout=settings.timeout(job.kind),
        on_progress=page.follow(label),
        checkpoint_seconds=settings.checkpoint_seconds,
        memory_gb=settings.memory_gb,
        lease=Lease.of(settings.lease_seconds),
        group=executor.slots.jobs,
    )
    return key


def _parameters(executor: Executor, label: str, job: Job, threads: int) -> dict[str, Any]:
    return {"key": f"{job.kind}/{jobs.digest(job)}", "label": label, "job": job, "executor": executor, "threads": threads}


def _checked(executor: Executor, job: Job) -> Any:
    """Task with its results under the store and the run's retries; it ignores a cached result whose artifact no longer exists.

    It has no tags: for tags, Prefect requests concurrency slots from the server, which takes about two seconds with SQLite.
    """
    kind, digest, policy, attempts = job.kind, jobs.digest(job), executor.settings.retries, itertools.count(1)

    def condition(_task: Any, _run: Any, state: Any) -> bool:
        return is_tried_again(policy, next(attempts), state.result(raise_on_failure=False))

    if executor.renew:
        executor.renew(kind, digest)
    return job_task.with_options(
        result_storage=result_storage(executor.store),
        refresh_cache=Store(executor.store).find(kind, digest) is None,
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


def completed(executor: Executor, work: Sequence[tuple[object, Job]]) -> list[Manifest]:
    """Run labelled jobs and return their manifests; raises the first failure, after all have ended."""
    return [succeeded(label, ended) for (label, _), ended in zip(work, executor.do(work), strict=True)]
