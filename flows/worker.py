"""Worker of the work pool `spnas-devices` that runs jobs on threads of its own process: only the job itself is a process, a warm one.

A worker of Prefect's type `process` starts Python and loads Prefect anew for each run, which takes seconds. Prefect finds this type,
`spnas`, by the entry point `prefect.collections`. So some of its commands load this module, which loads those of the jobs later.
Source: https://docs.prefect.io/v3/api-ref/python/prefect-workers-base
"""

import contextlib
import functools
import logging
import os
import random
import socket
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast
from uuid import UUID

import anyio
import anyio.abc
import anyio.to_thread
import httpx
import prefect.settings
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.context import SettingsContext, SyncClientContext, get_settings_context
from prefect.events import emit_event
from prefect.exceptions import Abort, InfrastructureNotAvailable, InfrastructureNotFound, ObjectNotFound
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, Settings, get_current_settings
from prefect.states import Cancelled, Crashed
from prefect.workers.base import BaseJobConfiguration, BaseWorker, BaseWorkerResult

FLOW = "spnas-job"
WATCHED_EVERY = 5.0  # s between two looks at the state of a run
AGAIN = 0.5  # s until a worker looks again when another one was faster
SPARE = 8  # runs that a worker asks for beyond its limit: others may take some at the same time


class JobConfiguration(BaseJobConfiguration):
    """What pool and deployment say about a run. Of `env`, Prefect's settings count; the rest of the environment is that of the worker."""

    def prepare_for_flow_run(self, flow_run: FlowRun, deployment: Any = None, flow: Any = None, *_: Any, **__: Any) -> None:
        """Check that the run is one of a job."""
        if flow is None or flow.name != FLOW:
            raise ValueError(f"work pool of type spnas: expected runs of {FLOW}/run, got one of {getattr(flow, 'name', None)}")
        self._related_objects = {"deployment": deployment, "flow": flow, "flow-run": flow_run}


@functools.cache
def _settings_of(env: frozenset[tuple[str, str | None]]) -> tuple[Settings, int | None, str]:
    """Return Prefect's settings by the `env` of a run, its heartbeats apart (seconds), and the names in `env` that are no such settings."""
    known = {name: getattr(prefect.settings, name) for name, _ in env if name.startswith("PREFECT_") and hasattr(prefect.settings, name)}
    found = get_current_settings().copy_with_update({known[name]: value for name, value in env if name in known})
    # the engine's own heartbeats keep each run until a whole second is over
    quiet = found.copy_with_update({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    return quiet, found.flows.heartbeat_frequency, ", ".join(sorted({name for name, _ in env} - known.keys()))


class SpnasWorker(BaseWorker[JobConfiguration, Any, BaseWorkerResult]):
    """Worker that runs `flows.job.run_pool_job` on a thread for each run."""

    type = "spnas"
    job_configuration = JobConfiguration
    _display_name = "spnas"
    _description = "Runs jobs of spnas on devices of the worker's host."

    async def setup(self) -> None:
        """Load what all jobs need, and send the log lines of spnas to the pages of their runs."""
        from flows.job import Halt

        self._halts: dict[str, Halt] = {}
        for handler in logging.getLogger("prefect.extra").handlers:
            logging.getLogger("spnas_core").addHandler(handler)
        with contextlib.suppress(RuntimeError):  # if there is no server yet, each run has a client of its own, which costs it 40 ms
            self._exit_stack.enter_context(SyncClientContext.get_or_create())  # closed last: runs that are stopped report their states
        await super().setup()

    async def run(
        self, flow_run: FlowRun, configuration: JobConfiguration, task_status: anyio.abc.TaskStatus[Any] | None = None
    ) -> BaseWorkerResult:
        """Run a job to its end; a cancellation of the run, or the end of this worker, stops it, and it may save a checkpoint first."""
        from flows.job import Halt

        settings, heartbeat, unused = _settings_of(frozenset(configuration.env.items()))
        if unused:
            self.get_flow_run_logger(flow_run).warning("not used of the job variables' env, expected settings of Prefect: %s", unused)
        place = f"{_process()}:{flow_run.id}"
        halt = self._halts[place] = Halt()
        if task_status:
            task_status.started(place)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, flow_run, halt, heartbeat)
                work, alone = partial(_execute, flow_run, halt, settings), anyio.CapacityLimiter(1)
                fault = await anyio.to_thread.run_sync(work, limiter=alone)  # cancelled or not, it waits for the end
                group.cancel_scope.cancel()
        finally:
            del self._halts[place]
        if fault:
            self.get_flow_run_logger(flow_run).error("the run ended with an error of Prefect or of its server", exc_info=fault)
        if self._runs_task_group:
            self._runs_task_group.start_soon(self._poll)
        return BaseWorkerResult(identifier=place, status_code=1 if fault else 0)

    async def kill_infrastructure(self, infrastructure_pid: str, configuration: JobConfiguration, grace_seconds: int = 30) -> None:
        """Stop the job of a run that is cancelled as it begins."""
        if not infrastructure_pid.startswith(f"{_process()}:"):
            raise InfrastructureNotAvailable(f"it runs elsewhere: {infrastructure_pid}")
        if infrastructure_pid not in self._halts:
            raise InfrastructureNotFound(f"it has ended: {infrastructure_pid}")
        self._halts[infrastructure_pid].ask(Cancelled())

    async def _watch(self, flow_run: FlowRun, halt: Any, heartbeat: int | None) -> None:
        """Ask for the end of a run that is cancelled, or has ended for the server, or when this worker ends; send heartbeats."""
        due = time.monotonic()
        try:
            while True:
                await anyio.sleep(WATCHED_EVERY)
                if heartbeat and time.monotonic() >= due:
                    _emit_heartbeat(flow_run)
                    due = time.monotonic() + heartbeat
                try:
                    state = (await self.client.read_flow_run(flow_run.id)).state
                except (httpx.HTTPError, ObjectNotFound):  # the job goes on; so it does when its run is deleted
                    continue
                if state and (state.is_cancelling() or state.is_final()):
                    halt.ask(Cancelled() if state.is_cancelling() else state)
        finally:
            halt.ask(Crashed(message="its worker was stopped"))

    async def _give_worker_labels_to_flow_run(self, flow_run_id: UUID) -> None:
        """Leave the labels out, and the state Submitting: the log says which worker has a run, and a server takes 40 ms for both."""

    async def _propose_submitting_state(self, flow_run: FlowRun) -> None:
        """Leave the state out."""

    async def _propose_pending_state(self, flow_run: FlowRun) -> bool:
        """Take a run, or soon look for another where some other worker was faster."""
        taken = await super()._propose_pending_state(flow_run)
        if not taken and self._runs_task_group:
            self._runs_task_group.start_soon(self._poll, AGAIN)
        return taken

    async def _poll(self, after: float = 0.0) -> None:
        """Look for the next run without the wait for the next regular look, to which a failure is left."""
        try:
            await anyio.sleep(after)
            await self.get_and_submit_flow_runs()
        except Exception as error:  # noqa: BLE001 - it must not end the worker
            self._logger.debug("Prefect server: %s", error)

    async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
        """Return some scheduled runs, in any order within a queue: workers that look at once would all begin with the same one."""
        body = {
            "work_queue_names": list(self._work_queues),
            "scheduled_before": str(datetime.now(UTC) + timedelta(seconds=int(self._prefetch_seconds))),
            "limit": (self._limit or 1) + SPARE,
        }
        try:
            answer = await self.client.request(
                "POST", "/work_pools/{name}/get_scheduled_flow_runs", path_params={"name": self._work_pool_name}, json=body
            )
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.NOT_FOUND:  # the pool, which comes with the next heartbeat
                return []
            raise
        found = WorkerFlowRunResponse.model_validate_list(answer.json())
        queues = list(dict.fromkeys(one.work_queue_id for one in found))
        new = [one for one in found if f"{_process()}:{one.flow_run.id}" not in self._halts]  # an answer may be older than a run here
        return sorted(new, key=lambda one: (queues.index(one.work_queue_id), random.random()))


def _execute(flow_run: FlowRun, halt: Any, settings: Settings) -> BaseException | None:
    """Run the flow of a job on this thread until its run has a final state, and return what went wrong beside the job."""
    from prefect.flow_engine import run_flow

    from flows.job import HALT, run_pool_job

    HALT.set(halt)
    alone = flow_run.model_copy(update={"deployment_id": None})  # else the engine opens a websocket for each run, to see it suspended
    with SettingsContext(profile=get_settings_context().profile, settings=settings):
        try:
            run_flow(cast(Any, run_pool_job), flow_run=alone, return_type="state")
        except Abort:  # another worker has it, or it has ended for the server
            return None
        except BaseException as error:  # noqa: BLE001 - no run ends the worker
            return error
    return None


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _emit_heartbeat(flow_run: FlowRun) -> None:
    """Send the event that the engine would send (flows/automations.yaml)."""
    emit_event(
        event="prefect.flow-run.heartbeat",
        resource={"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.name": flow_run.name},
        related=[
            {"prefect.resource.id": f"prefect.flow.{flow_run.flow_id}", "prefect.resource.role": "flow", "prefect.resource.name": FLOW}
        ],
    )
