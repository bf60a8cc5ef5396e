"""Prefect services of one machine: server (on the loopback), pools, deployments, automations, workers: ``python -m flows.services up``.

All its files (process ids, logs, Prefect's database) are in one folder, ``$SPNAS_PREFECT``, by default `.prefect` in the current folder;
the port is ``$PREFECT_PORT``, by default 4200, and the database is that of ``$DATABASE`` (database.py), by default SQLite. For several
machines see docs/prefect.md.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import yaml

from flows.database import DATABASE_VARIABLE, check_database, database_of, of_clients, of_server, shown_database
from flows.network import check_server, prepare_network
from spnas_core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent  # the folder of prefect.yaml
SERVER, FLOWS, JOBS = PARTS = "server", "spnas", "spnas-devices"  # the last two are work pools
_PATIENCE = 180.0  # s for the server's first answer: it creates its database first
_GRACE = 40.0  # s for stopped runs: their jobs save a checkpoint
PREFECT = (sys.executable, "-m", "prefect")
_started: list["subprocess.Popen[bytes]"] = []  # kept, since a deleted Popen object warns that its process still runs


def up(folder: Path, port: int) -> str:
    """Start the services that do not run yet, deploy, and return a hint for the user; UserError if the port is taken or a service fails.

    On failure, it stops the services that it started, and no others.
    """
    before = {name for name in PARTS if running(folder, name)}
    try:
        url = start_server(folder, port)
        check_server(url)
        deploy(folder, url)
        for pool in (FLOWS, JOBS):
            if not running(folder, pool):
                start_worker(folder, url, pool)
    except BaseException:
        down(folder, [name for name in PARTS if name not in before])
        raise
    database = f", its database is {shown_database(found)}" if (found := database_of(os.environ)) else ""
    return (
        f"Prefect is up: http://127.0.0.1:{port}, its logs are in {folder}{database}. Next:\n\n"
        f"  export PREFECT_API_URL={url}\n"
        f"  .venv/bin/prefect deployment run spnas/demo --watch\n"
        f"  .venv/bin/prefect deployment run spnas/full -p settings=bccd -p data=/path/to/data -p store=file:///path/to/store --watch\n\n"
        "make prefect-down stops it."
    )


def start_server(folder: Path, port: int) -> str:
    """Start the server on the loopback if it does not run, wait until it answers, and return the URL of its API.

    UserError if the database of the environment does not answer, or is another than that of the server that runs.
    """
    url, database = f"http://127.0.0.1:{port}/api", database_of(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    if server := running(folder, SERVER):
        words = server.cmdline()
        if (there := words[words.index("--port") + 1]) != str(port):
            other = "make prefect-down stops it; SPNAS_PREFECT=FOLDER is for a second one"
            raise UserError(f"port {port}: expected {there}, where the server of {folder} runs; {other}")
        if database and database != server.environ().get(DATABASE_VARIABLE):
            raise UserError(f"DATABASE: expected that of the server of {folder}, which runs, or none; make prefect-down stops it")
    else:
        if _is_taken(port):
            raise UserError(f"port {port}: expected a free one, but something answers there; another: make prefect-up PREFECT_PORT=4201")
        if database:
            check_database(database)
        _start(folder, SERVER, ("server", "start", "--host", "127.0.0.1", "--port", str(port)), url, of_server(os.environ))
    end = time.monotonic() + _PATIENCE
    while not _answers(url):
        if not running(folder, SERVER) or time.monotonic() > end:
            log = (folder / f"{SERVER}.log").read_text(errors="replace")
            raise UserError(_with_tail("Prefect server: expected it to start; the last lines of its log:", log))
        time.sleep(0.2)
    return url


def deploy(folder: Path, url: str) -> None:
    """Register the work pools, automations and deployments of this clone with a server."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.events.schemas.automations import AutomationCore
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.process import ProcessWorker

    from flows.worker import SpnasWorker

    prepare_network(os.environ, url)
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        there = {pool.name: pool.type for pool in client.read_work_pools()}
        for pool, new in ((FLOWS, ProcessWorker), (JOBS, SpnasWorker)):
            kind = ProcessWorker if there.get(pool) == ProcessWorker.type else new  # a pool keeps its type
            template = kind.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=pool, type=kind.type, base_job_template=template), overwrite=True)
        for document in yaml.safe_load((ROOT / "flows" / "automations.yaml").read_text())["automations"]:
            automation = AutomationCore.model_validate(document)
            if there := client.read_automations_by_name(automation.name):
                client.update_automation(there[0].id, automation)
            else:
                client.create_automation(automation)
    store = os.environ.get("SPNAS_STORE") or (ROOT / "spnas-store").as_uri()  # for the flow that watches data sets (prefect.yaml)
    command, environment = [*PREFECT, "--no-prompt", "deploy", "--all"], {**prefect_variables(folder, url), "SPNAS_STORE": store}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise UserError(_with_tail("prefect deploy: expected it to work, got:", done.stdout + done.stderr))


def start_worker(folder: Path, url: str, pool: str) -> None:
    """Start a worker of `pool`: for one run at a time, or for one job per device of ``$SPNAS_DEVICES``."""
    limit, kind = (len(os.environ.get("SPNAS_DEVICES", "0").split(",")), "spnas") if pool == JOBS else (1, "process")
    _start(folder, pool, ("worker", "start", "--pool", pool, "--type", kind, "--limit", str(limit), "--name", f"{pool} here"), url)


def down(folder: Path, parts: Sequence[str] = PARTS) -> str:
    """Stop the workers and then the server, as far as they are in `parts`; first the active runs, whose jobs save checkpoints."""
    workers = [found for pool in (FLOWS, JOBS) if pool in parts and (found := running(folder, pool))]
    servers = [found for found in [running(folder, SERVER)] if found and SERVER in parts]
    runs = [run for worker in workers for run in _below(worker, recursive=False) if not _is_of_job(run)]
    _stop(runs)  # first, since workers of type process would kill them; they and workers of type spnas stop their jobs
    for service in (*workers, *servers):
        below = _below(service)
        _stop([service])
        _stop(below)
    for process in _started:
        process.poll()  # updates the object of an ended process
    for name in parts:
        (folder / f"{name}.pid").unlink(missing_ok=True)
    return f"Prefect is down: {len(workers)} workers and {len(servers)} server were stopped."


def running(folder: Path, name: str) -> psutil.Process | None:
    """Find the live process that was started as `name`, else None; a process id reused by another program does not count."""
    try:
        process = psutil.Process(int((folder / f"{name}.pid").read_text()))
        return process if "prefect" in process.cmdline() else None  # a zombie has no command line
    except (FileNotFoundError, ValueError, psutil.Error):
        return None


def prefect_variables(folder: Path, url: str) -> dict[str, str]:
    """Environment variables for processes that use the server at `url`."""
    environment = of_clients(os.environ)
    prepare_network(environment, url)
    return {
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # of a server whose database starts again
        **environment,
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PYTHONPATH": os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part),
    }


def _start(folder: Path, name: str, command: Sequence[str], url: str, more: Mapping[str, str] | None = None) -> None:
    """Start `prefect` with `command` and `more` variables in a new session, and write its process id to a file."""
    variables = prefect_variables(folder, url) | (more or {})
    with (folder / f"{name}.log").open("ab") as log:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        process = subprocess.Popen([*PREFECT, *command], cwd=ROOT, env=variables, start_new_session=True, **quiet)
    _started.append(process)
    (folder / f"{name}.pid").write_text(str(process.pid))
    with contextlib.suppress(psutil.Error):  # it has ended already
        while not psutil.Process(process.pid).cmdline():  # it appears a moment after the start, and `running` reads it
            time.sleep(0.01)


def _below(process: psutil.Process, recursive: bool = True) -> list[psutil.Process]:
    """Descendants of a process, or its children alone; empty if it has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive)
    return []


def _is_of_job(process: psutil.Process) -> bool:
    """Whether a process is a job, or the warm one that forks jobs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(word.startswith("spnas_core.jobs.") for word in process.cmdline())
    return False


def _stop(processes: Sequence[psutil.Process]) -> None:
    """Terminate processes, and kill those that have not ended within `_GRACE` seconds."""
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                ask(process)
        _, processes = psutil.wait_procs(processes, timeout=_GRACE)


def _with_tail(message: str, log: str) -> str:
    """Text of `message` with the last lines of a log, shortened."""
    return "\n".join([message, *(line[:400] for line in log.strip().splitlines()[-15:])])


def _is_taken(port: int) -> bool:
    """Whether something listens at a port of the loopback, be it a server that never answers."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    """Whether any HTTP server answers at `url`, even with an error status."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def main(action: str) -> str:
    """Run `up` or `down` and return its message."""
    folder = Path(os.environ.get("SPNAS_PREFECT") or ".prefect").absolute()
    if action == "down":
        return down(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` ignores it, and workers would inherit that and not stop
    return up(folder, int(os.environ.get("PREFECT_PORT") or 4200))


if __name__ == "__main__":
    try:
        print(main(sys.argv[1]))
    except UserError as mistake:
        sys.exit(f"prefect-up: {mistake}")
