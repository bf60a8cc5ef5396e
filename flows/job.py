"""One job as a Prefect flow: what the workers of the work pool `spnas-devices` run, which stand on the device hosts."""

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect import flow
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


@flow(name="spnas-job", flow_run_name="{label}")
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
    """Do one job on free devices of this host; a foreseen failure gives the last state its name.

    Args:
        job: What to do: a job's document, as the manifest of an artifact holds it.
        store: Where its weights come from and its artifact goes: any fsspec URL that this host and the search's can open.
        label: Name of the run.
        devices_per_job: Devices that do it together, of those in this host's SPNAS_DEVICES.
        threads: CPU threads, shared by the jobs that can run on this host at once.
        timeout_seconds: Longest time of the job.
        memory_gb: Most memory of the host that the job may have, GB; no limit where there is none.
        checkpoint_seconds: Time between two checkpoints of a training.
        lease_seconds: When this host has not been heard of for so long, the job goes on elsewhere.
    """
    stopped, group = threading.Event(), JobGroup()

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

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(contextvars.copy_context().run, work)
        try:
            future.result()
        except (JobError, MissingArtifactError, StoreError, UserError) as error:
            return pool.failed(error)
        except BaseException:  # it is cancelled, among others: the job saves a checkpoint
            stopped.set()
            group.stop(runner.GRACE)
            raise
    return f"{job.kind}/{digest(job)}"
