"""The Prefect services of one machine: server (on the loopback), pools, deployments, automations, workers: ``python -m flows.services up``.

All that it leaves (process ids, logs, Prefect's database) lies in one folder, ``$SPNAS_PREFECT``, by default `.prefect` right here; the
port is ``$PREFECT_PORT``, by default 4200. It is for one machine: for several see docs/prefect.md.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml

from spnas_core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent  # where prefect.yaml lies
SERVER, FLOWS, JOBS = PARTS = "server", "spnas", "spnas-devices"  # the two last are work pools
_PATIENCE = 180.0  # s, for the server's answer: it makes its database first
_GRACE = 40.0  # s, for runs that are stopped: their jobs save a checkpoint
PREFECT = (sys.executable, "-m", "prefect")
_started: list["subprocess.Popen[bytes]"] = []  # an object that goes away would warn that its process lives on


def up(folder: Path, port: int) -> str:
    """Start what does not run yet, deploy, and return what to type next; UserError where the port is taken or a part does not start.

    Where this fails, it stops again what it started, and nothing else.
    """
    before = {name for name in PARTS if running(folder, name)}
    try:
        url = start_server(folder, port)
        deploy(folder, url)
        for pool in (FLOWS, JOBS):
            if not running(folder, pool):
                start_worker(folder, url, pool)
    except BaseException:
        down(folder, [name for name in PARTS if name not in before])
        raise
    return (
        f"Prefect is up: http://127.0.0.1:{port}, its logs are in {folder}. Next:\n\n"
        f"  export PREFECT_API_URL={url}\n"
        f"  .venv/bin/prefect deployment run spnas/demo --watch\n"
        f"  .venv/bin/prefect deployment run spnas/full -p settings=bccd -p data=/path/to/data -p store=file:///path/to/store --watch\n\n"
        "make prefect-down stops it."
    )


def start_server(folder: Path, port: int) -> str:
    """Start the server on the loopback where it does not run, wait until it answers, and return the URL of its API."""
    url = f"http://127.0.0.1:{port}/api"
    folder.mkdir(parents=True, exist_ok=True)
    if server := running(folder, SERVER):
        words = server.cmdline()
        if (there := words[words.index("--port") + 1]) != str(port):
            other = "make prefect-down stops it; SPNAS_PREFECT=FOLDER is for a second one"
            raise UserError(f"port {port}: expected {there}, where the server of {folder} runs; {other}")
    else:
        if _answers(url):
            raise UserError(f"port {port}: expected a free one, but something answers there; another: make prefect-up PREFECT_PORT=4201")
        _start(folder, SERVER, ("server", "start", "--host", "127.0.0.1", "--port", str(port)), url)
    end = time.monotonic() + _PATIENCE
    while not _answers(url):
        if not running(folder, SERVER) or time.monotonic() > end:
            log = (folder / f"{SERVER}.log").read_text(errors="replace")
            raise UserError(_with_tail("Prefect server: expected it to start; the last lines of its log:", log))
        time.sleep(0.2)
    return url


def deploy(folder: Path, url: str) -> None:
    """Bring the work pools, the automations and the deployments of this clone to a server."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.events.schemas.automations import AutomationCore
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.process import ProcessWorker

    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        for pool in (FLOWS, JOBS):
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template), overwrite=True)
        for document in yaml.safe_load((ROOT / "flows" / "automations.yaml").read_text())["automations"]:
            automation = AutomationCore.model_validate(document)
            if there := client.read_automations_by_name(automation.name):
                client.update_automation(there[0].id, automation)
            else:
                client.create_automation(automation)
    store = os.environ.get("SPNAS_STORE") or (ROOT / "spnas-store").as_uri()  # of the watch over data sets (prefect.yaml)
    command, environment = [*PREFECT, "--no-prompt", "deploy", "--all"], {**prefect_variables(folder, url), "SPNAS_STORE": store}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise UserError(_with_tail("prefect deploy: expected it to work, got:", done.stdout + done.stderr))


def start_worker(folder: Path, url: str, pool: str) -> None:
    """Start a worker of `pool`: one run at a time, or one job on each device of ``$SPNAS_DEVICES``."""
    limit = len(os.environ.get("SPNAS_DEVICES", "0").split(",")) if pool == JOBS else 1
    _start(folder, pool, ("worker", "start", "--pool", pool, "--limit", str(limit), "--name", f"{pool} here"), url)


def down(folder: Path, parts: Sequence[str] = PARTS) -> str:
    """Stop workers, then the server, those of `parts`; runs that go on are stopped first, and their jobs save checkpoints."""
    workers = [found for pool in (FLOWS, JOBS) if pool in parts and (found := running(folder, pool))]
    servers = [found for found in [running(folder, SERVER)] if found and SERVER in parts]
    _stop([run for worker in workers for run in _below(worker)])  # before their workers would kill them
    for service in (*workers, *servers):
        _stop([service, *_below(service)])
    for process in _started:
        process.poll()  # it has ended, which its object learns here
    for name in parts:
        (folder / f"{name}.pid").unlink(missing_ok=True)
    return f"Prefect is down: {len(workers)} workers and {len(servers)} server were stopped."


def running(folder: Path, name: str) -> psutil.Process | None:
    """Process that was started as `name`, if it lives: a number that is some other program's by now does not count."""
    try:
        process = psutil.Process(int((folder / f"{name}.pid").read_text()))
        return process if "prefect" in process.cmdline() else None  # none is left of one that is dead, but not yet waited for
    except (FileNotFoundError, ValueError, psutil.Error):
        return None


def prefect_variables(folder: Path, url: str) -> dict[str, str]:
    """Environment of what belongs to the server at `url`."""
    return {
        **os.environ,
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PYTHONPATH": os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part),
    }


def _start(folder: Path, name: str, command: Sequence[str], url: str) -> None:
    """Start `prefect` with `command` in a session of its own, and note its process id."""
    with (folder / f"{name}.log").open("ab") as log:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        process = subprocess.Popen([*PREFECT, *command], cwd=ROOT, env=prefect_variables(folder, url), start_new_session=True, **quiet)
    _started.append(process)
    (folder / f"{name}.pid").write_text(str(process.pid))
    with contextlib.suppress(psutil.Error):  # it has ended already
        while not psutil.Process(process.pid).cmdline():  # which comes a moment later, and is what `running` looks at
            time.sleep(0.01)


def _below(process: psutil.Process) -> list[psutil.Process]:
    """Return the processes that one has started, directly or not; none where it has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _stop(processes: Sequence[psutil.Process]) -> None:
    """Ask processes to end, and kill those that have not within `GRACE` seconds."""
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                ask(process)
        _, processes = psutil.wait_procs(processes, timeout=_GRACE)


def _with_tail(message: str, log: str) -> str:
    """Say with the last lines of a log, as far as a person reads them, what went wrong."""
    return "\n".join([message, *(line[:400] for line in log.strip().splitlines()[-15:])])


def _answers(url: str) -> bool:
    """Whether something answers at a port of the loopback, whatever it is."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def main(action: str) -> str:
    """Do `up` or `down`."""
    folder = Path(os.environ.get("SPNAS_PREFECT") or ".prefect").absolute()
    if action == "down":
        return down(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `&` of a script ignores it, and workers, which inherit that, would not stop
    return up(folder, int(os.environ.get("PREFECT_PORT") or 4200))


if __name__ == "__main__":
    try:
        print(main(sys.argv[1]))
    except UserError as mistake:
        sys.exit(f"prefect-up: {mistake}")
