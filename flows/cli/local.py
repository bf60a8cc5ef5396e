"""A run from the command line: a finished one is looked up; any other gets an ephemeral Prefect server if none is configured."""

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

from flows.cli.display import shown
from spnas_core.job import digest
from spnas_core.jobs.start import prepare
from spnas_core.report import publish_run
from spnas_core.report.offered import note_trained
from spnas_core.run.opening import open_plan
from spnas_core.run.record import read_stage
from spnas_core.settings.run import Run
from spnas_core.store.artifacts import Store
from spnas_core.study.methods import SIMPLE_METHODS, SimpleMethod
from spnas_core.study.studies import StudyKind, open_study, publish_report, stored_entries
from spnas_core.track.following import catch_up, open_trackers

_T = TypeVar("_T")
PREFECT_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_API_REQUEST_TIMEOUT": "300",  # s; a busy machine slows down the server, too
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # of a server whose database starts again: Prefect calls only some of them a 503
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}
EPHEMERAL = {  # settings without logs, since nobody looks at such a server
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_API_HOST": "127.0.0.1",
}
SERVED = {  # the run's page shows its log, as for a worker's run (prefect.yaml); only `shown` writes to standard error
    "PREFECT_LOGGING_EXTRA_LOGGERS": "spnas_core",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_HANDLERS_API_LEVEL": "INFO",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # flows/automations.yaml ends runs without a heartbeat for 90 s
}


def run_locally(settings: Run, data: str, store: str) -> dict[str, Any]:
    """Run the search, showing its progress on standard error, and return its summary."""
    url = Store(store).url
    with shown(), ended_by_signals():
        trackers, plan = open_trackers(settings), open_plan(settings, data, url)
        if not settings.refresh and plan.store.find("stage", plan.keys["full_train"]):
            summary = publish_run(plan, read_stage(plan.store, plan.keys["full_train"]))
            catch_up(plan, trackers)
            return summary
        return with_server(lambda: _flow(settings, plan.data.url, url))


def _flow(settings: Run, data: str, store: str) -> dict[str, Any]:
    if settings.device_target == "CPU" and settings.executor == "local":
        at_once = max(1, min(len(settings.device_groups), settings.serial.candidates))
        prepare((settings.threads, max(1, settings.threads // at_once)))  # for the first jobs, while Prefect and its server start
    from flows.spnas import spnas

    return spnas(settings, data, store)


def study_locally(
    kind: StudyKind,
    settings: Run,
    data: str,
    store: str,
    seeds: int = 1,
    count: int = 0,
    against: Collection[SimpleMethod] = SIMPLE_METHODS,
) -> dict[str, Any]:
    """Run a study, showing its progress on standard error, and return its summary."""
    url = Store(store).url
    with shown(), ended_by_signals():
        asked = open_study(kind, settings, data, url, seeds, count, against)
        if entries := stored_entries(asked):
            return publish_report(asked, entries)
        return with_server(lambda: _study_flow(kind, settings, asked.plans[0].data.url, url, seeds, count, asked.against))


def _study_flow(*words: Any) -> dict[str, Any]:
    from flows.study import study as study_flow

    return study_flow(*words)


def work_on_front(store: Store, run: str, train: Sequence[str], measure: bool, data: str | None) -> None:
    """Train and measure nets of a run's front, showing the progress on standard error; what the store has is not done again."""
    from flows.front import front_jobs

    with shown(), ended_by_signals():
        _, work = front_jobs(store, run, train, measure, data)  # mistakes, before a server starts
        if any(store.find(job.kind, digest(job)) is None for _, job in work):
            with_server(lambda: _front_flow(store.url, run, tuple(train), measure, data))
        else:
            note_trained(store, run, [digest(job) for _, job in work if job.kind == "train"])


def _front_flow(*words: Any) -> None:
    from flows.front import front_work

    front_work(*words)


def with_server(work: Callable[[], _T]) -> _T:
    """Call `work`, which runs a flow, with a Prefect server: that of PREFECT_API_URL, else an ephemeral one.

    UserError, one line, if the server does not answer at the start, StoreError if it does no more later.
    """
    import httpx
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from tasks.pool import server_fault

    if begin_server():
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            return work()
    try:
        return work()
    except httpx.HTTPError as error:  # after retries by Prefect's client
        raise server_fault(error) from error


def begin_server() -> bool:
    """Begin an ephemeral Prefect server, unless PREFECT_API_URL names one; whether it is ephemeral. UserError if that one does not answer.

    It takes 10 s to start in a new folder of Prefect's, so what calls `with_server` later may call this first.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    from flows.network import check_server, prepare_network

    api = PREFECT_API_URL.value() or None  # from the environment or a profile of Prefect
    prepare_network(os.environ, api)
    if api is not None:
        check_server(api)
    for name, value in (PREFECT_DEFAULTS | (EPHEMERAL if api is None else SERVED)).items():
        os.environ.setdefault(name, value)
    refresh_global_settings_context()  # before Prefect sets up its logging
    if api is None:
        from flows.cli.server import begin_ephemeral_server

        begin_ephemeral_server()
    return api is None


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM into SystemExit: the executor then stops its jobs, and the ephemeral server ends with the process."""

    def end(_signal: int, _frame: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
