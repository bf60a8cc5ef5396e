"""One job as a Prefect flow, which the workers of the work pool `spnas-devices` run on the device hosts.

A worker of type `spnas` (worker.py) runs it on a thread, where no signal reaches it: there it ends by a `Halt`.
"""

import contextvars
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from prefect import flow
from prefect.states import State
from pydantic import PositiveFloat, PositiveInt

from flows.parameters import StoreUrl
from spnas_core.errors import JobError, MissingArtifactError, StoreError, UserError
from spnas_core.job import Job, digest
from spnas_core.jobs import runner
from spnas_core.jobs.job_group import JobGroup
from spnas_core.store.claims import Lease
from spnas_core.store.manifest import Manifest
from tasks import page, pool
from tasks.devices import VARIABLE, devices_here, free_devices


class Halt:
    """End of a run on a thread: `ask` stops its job, which may save a checkpoint first, and gives the run its final state."""

    def __init__(self) -> None:
        self.state: State[Any] | None = None
        self.woken = threading.Event()

    def ask(self, state: State[Any]) -> None:
        """Ask for the end; the first state counts, and none where the job is done before."""
        self.state = self.state or state
        self.woken.set()


HALT: contextvars.ContextVar[Halt] = contextvars.ContextVar("spnas-halt")  # of the run in this context


@flow(name="spnas-job")
def run_pool_job(
    job: Job,
    store: StoreUrl,
    label: str = "job",
    devices_per_job: PositiveInt = 1,
    threads: PositiveInt = 1,
    timeout_seconds: PositiveFloat = 36000.0,
    memory_gb: PositiveFloat | None = None,
    checkpoint_seconds: PositiveFloat = 60.0,
    lease_seconds: PositiveFloat = 60.0,
) -> Any:
    """Run one job on free devices of this host; a typed failure gives the final state its name.

    Args:
        job: Document of the job, as in the manifest of an artifact.
        store: Store of its input weights and its artifact: any fsspec URL that both this host and the host of the search can open.
        label: Name of the run.
        devices_per_job: Devices of the job, from this host's SPNAS_DEVICES.
        threads: CPU threads, shared by the jobs that can run on this host at the same time.
        timeout_seconds: Longest time of the job.
        memory_gb: Limit of the job's host memory, GB; empty for no limit.
        checkpoint_seconds: Time between two checkpoints of a training.
        lease_seconds: Time without a heartbeat of this host after which the job continues elsewhere.
    """
    stopped, group, halt = threading.Event(), JobGroup(), HALT.get(Halt())

    def work() -> Manifest:
        devices = devices_here()
        if devices_per_job > len(devices):
            raise UserError(f"{VARIABLE}: expected at least devices_per_job = {devices_per_job} devices on this host, got {devices}")
        return runner.run_job(
            job,
            store,
            devices=free_devices([devices], devices_per_job, stopped),
            threads=max(1, threads * devices_per_job // len(devices)),
            timeout=timeout_seconds,
            on_progress=page.follow(label),
            checkpoint_seconds=checkpoint_seconds,
            memory_gb=memory_gb,
            lease=Lease.of(lease_seconds),
            group=group,
        )

    def stop(future: Future[Manifest]) -> None:
        stopped.set()
        while not future.done():  # a job that begins just now is not in the group yet
            group.stop(runner.GRACE)
            wait([future], timeout=1)

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(contextvars.copy_context().run, work)
        future.add_done_callback(lambda _: halt.woken.set())
        try:
            halt.woken.wait()
            if halt.state:
                stop(future)
            future.result()
        except (JobError, MissingArtifactError, StoreError, UserError) as error:
            return halt.state or pool.failed(error)
        except BaseException:  # including a cancellation by a signal
            stop(future)
            raise
    return f"{job.kind}/{digest(job)}"
