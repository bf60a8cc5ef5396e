"""Jobs on the Prefect work pool `spnas-devices`: each is a run of the deployment `spnas-job/run`, on the host of any of its workers.

This side and the host share only the store and the Prefect server. A job renews its claim in the store (claims.py), which shows that its
host is alive. If a host is lost, the job's run counts as crashed, and the next run continues from the checkpoint.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any, get_args
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed, Failed

from spnas_core import job as jobs
from spnas_core.errors import JobError, MissingArtifactError, Reason, Stopped, StoreError, UserError
from spnas_core.job import Job
from spnas_core.jobs import runner
from spnas_core.jobs.progress import log_line
from spnas_core.settings.run import Run
from spnas_core.store.artifacts import Store
from spnas_core.store.claims import Claim, Lease
from spnas_core.store.manifest import Manifest

DEPLOYMENT = "spnas-job/run"
GOING_ON = ("SCHEDULED", "PENDING", "RUNNING")
STARTING = 180.0  # s for a host to start a job
LOOK = 0.5  # s between two looks at the states of runs
NAMED: dict[str, type[Exception]] = {"BadInput": UserError, "MissingArtifact": MissingArtifactError, "Store": StoreError}


def failed(error: Exception) -> State[Any]:
    """State of a job's run that ended with a typed `error`; the state's name is the type."""
    if isinstance(error, JobError):
        return Failed(name=error.reason, message=error.message)
    return Failed(name=next(name for name, kind in NAMED.items() if isinstance(error, kind)), message=str(error))


def error_of(state: State[Any]) -> Exception:
    """Error that the final state of a job's run describes: the inverse of `failed`."""
    message = state.message or ""
    if state.name in get_args(Reason):
        return JobError(state.name, message)  # type: ignore[arg-type]
    if state.name in NAMED:
        return NAMED[state.name](message)
    if state.is_failed():
        return runner.JobBug(message)
    return JobError("killed", f"its run on the work pool ended as {state.name}: {message}")


class RunStates:
    """States of the runs that this process waits for. Whoever looks first after `LOOK` seconds asks the server for all that have begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: set[UUID] = set()
        self._begun: dict[UUID, State[Any] | None] = {}
        self._error: httpx.HTTPError | None = None
        self._asked = -LOOK

    @contextlib.contextmanager
    def followed(self, run: UUID) -> Iterator[None]:
        """Ask for this run, too."""
        with self._lock:
            self._runs.add(run)
        try:
            yield
        finally:
            with self._lock:
                self._runs.discard(run)

    def of(self, run: UUID, client: SyncPrefectClient) -> State[Any] | None:
        """State of a run, `LOOK` seconds old or less; None before it has begun. HTTPError, to all who look, if there is no answer."""
        with self._lock:
            if time.monotonic() - self._asked >= LOOK:
                self._error = None
                wanted = {"id": {"any_": list(self._runs)}, "state": {"type": {"not_any_": ["SCHEDULED"]}}}
                try:
                    found = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted))
                    self._begun = {run.id: run.state for run in found}
                except httpx.HTTPError as error:
                    self._error = error
                self._asked = time.monotonic()
            if self._error:
                raise self._error
            return self._begun.get(run)


_states = RunStates()


def run_on_pool(job: Job, store_url: str, label: str, settings: Run, stopped: threading.Event) -> Manifest:
    """Run `job` on the work pool and return its manifest; reuse an existing artifact or a run that is already in progress.

    JobError, UserError, StoreError, JobBug: as raised by the job's process; StoreError also if the server does not answer, UserError if it
    lacks the deployment. When `stopped` is set, the run on the pool is cancelled, and this function raises Stopped.
    """
    store, kind, digest = Store(store_url), job.kind, jobs.digest(job)
    if found := store.find(kind, digest):
        return found
    mark = "job-" + hashlib.sha256(f"{store.url} {kind}/{digest}".encode()).hexdigest()[:16]
    try:
        with get_client(sync_client=True) as client:
            run = _going_on(client, mark) or _begin(job, store.url, label, settings, mark)
            state = _follow(client, run, label, store.claim(kind, digest), Lease.of(settings.lease_seconds), stopped)
    except httpx.HTTPError as error:  # after a minute of retries by Prefect's client
        raise server_fault(error) from error
    if not state.is_completed():
        raise error_of(state)
    if found := store.find(kind, digest):
        return found
    raise runner.JobBug(f"{kind}/{digest}: its run on the work pool has completed, but its artifact is not in {store.url}")


def server_fault(error: httpx.HTTPError) -> Exception:
    """StoreError, one line, for a server that does not answer, or whose database does not (5xx); any other error is returned as it is."""
    if isinstance(error, httpx.TransportError):
        return StoreError(f"Prefect server: expected an answer, got: {error or type(error).__name__}")
    if isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error:
        return StoreError(f"Prefect server: expected an answer, got: HTTP status {error.response.status_code}; is its database away?")
    return error


def _going_on(client: SyncPrefectClient, mark: str) -> UUID | None:
    """Unfinished run of the same job, started by another run of the search, such as a killed one; None if there is none."""
    wanted = FlowRunFilter.model_validate({"tags": {"all_": [mark]}, "state": {"type": {"any_": GOING_ON}}})
    return next((run.id for run in client.read_flow_runs(flow_run_filter=wanted)), None)


def _begin(job: Job, store: str, label: str, settings: Run, mark: str) -> UUID:
    names = ("devices_per_job", "threads", "checkpoint_seconds", "lease_seconds", "memory_gb")
    parameters = {name: getattr(settings, name) for name in names}
    parameters |= {"job": job.model_dump(mode="json"), "store": store, "label": label, "timeout_seconds": settings.timeout(job.kind)}
    try:
        return run_deployment(DEPLOYMENT, parameters=parameters, flow_run_name=label, tags=["spnas", job.kind, mark], timeout=0).id
    except ObjectNotFound as error:
        expected = f"expected the deployment {DEPLOYMENT} on the Prefect server, found none"
        raise UserError(f"executor work_pool: {expected}; make prefect-up, or prefect --no-prompt deploy --all") from error


def _follow(client: SyncPrefectClient, run: UUID, label: str, claim: Claim, lease: Lease, stopped: threading.Event) -> State[Any]:
    """Wait for the final state of a job's run; it counts as crashed if its host does not renew the claim for the length of a lease.

    Before the first claim the limit is `STARTING` seconds, for the host to load Python and Prefect.
    """
    seen, since, told, due = None, time.monotonic(), False, 0.0
    with _states.followed(run):
        while not stopped.wait(min(LOOK, lease.heartbeat / 5)):
            state, now = _states.of(run, client), time.monotonic()
            if state is None:
                if not told and now - since > lease.seconds:
                    client.read_flow_run(run)  # ObjectNotFound if somebody has deleted it
                    log_line(f"{label}: waits for a worker of the work pool")
                    told = True
                continue
            if state.is_final():
                return state
            if now < due:
                continue
            due = now + lease.heartbeat / 5
            claimed, content = claim.newest()
            patience = lease.seconds if claimed else max(lease.seconds, STARTING)
            if (sign := (state.name, claimed, content)) != seen:
                seen, since = sign, now
            elif now - since > patience:
                lost = Crashed(message=f"its host has not been heard of for {patience:.0f} s")
                client.set_flow_run_state(run, lost, force=True)
                return lost
    client.set_flow_run_state(run, Cancelling())
    raise Stopped("its run on the work pool is cancelled")
