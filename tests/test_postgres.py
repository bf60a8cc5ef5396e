"""Prefect's server on PostgreSQL, behind a password, with workers of the work pool: a search that sees the database restart."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from command_line import SPNAS
from postgres_server import NAME, PASSWORD, QUOTED, PostgresServer, needs_postgres, serve_postgres
from prefect import flow
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_RETRY_EXTRA_CODES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from prefect_client import Host, wait_for
from published import published_search
from s3_server import free_ports

from flows import presets, services
from flows.cli.local import PREFECT_DEFAULTS
from flows.database import check_database, database_of, database_url, of_clients, of_server, shown_database
from flows.network import check_server
from spnas_core.errors import UserError
from spnas_core.job import Job
from spnas_core.job import digest as job_digest
from spnas_core.run.opening import open_plan
from spnas_core.run.record import StageRecord
from spnas_core.store.artifacts import Store
from tasks import pool
from tasks.jobs import Executor
from tasks.stages import run_stage

PAIR = "me:a-word"


@pytest.mark.parametrize(
    ("given", "prefects", "shown"),
    [
        ("postgresql://me@h/x", "postgresql+asyncpg://me@h/x", "PostgreSQL h:5432/x"),
        ("postgres://me:a%40b@h:1/x", "postgresql+asyncpg://me:a%40b@h:1/x", "PostgreSQL h:1/x"),
        ("postgresql+asyncpg://me@h", "postgresql+asyncpg://me@h", "PostgreSQL h:5432/me"),
        ("postgresql://me@h/x?sslmode=require", "postgresql+asyncpg://me@h/x?ssl=require", "PostgreSQL h:5432/x"),
        ("postgresql://me@/x?host=/run", "postgresql+asyncpg://me@/x?host=%2Frun", "PostgreSQL /run:5432/x"),
        ("sqlite:////a/b.db", "sqlite+aiosqlite:////a/b.db", "SQLite /a/b.db"),
    ],
)
def test_urls_of_databases(given: str, prefects: str, shown: str) -> None:
    found = database_url("DATABASE", given)
    assert (found, shown_database(found)) == (prefects, shown)
    assert database_url("DATABASE", found) == found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("mysql://me:hush@h/x", r"expected postgresql://USER@HOST:PORT/NAME or sqlite:///FILE, got mysql://\.\.\."),
        ("postgresql+psycopg2://me:hush@h/x", r"got postgresql\+psycopg2://\.\.\."),
        ("me:hush@h/x", "got no URL"),
        ("postgresql://me:hush@h:port/x", "got a URL that cannot be read"),
        ("postgresql://me:hush@h/x?channel_binding=require", "expected no parameters but sslmode, .*, got channel_binding"),
    ],
)
def test_urls_of_no_database_are_one_line(given: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"^DATABASE: .*{words}[^\n]*$") as caught:
        database_url("DATABASE", given)
    assert "hush" not in str(caught.value)


def test_only_the_server_is_told_of_its_database() -> None:
    given = {"DATABASE": "postgres://a@h/x", "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite:///y", "PGPASSWORD": "hush", "OTHER": "z"}
    assert of_server(given) == {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://a@h/x", "PGPASSWORD": "hush"}
    assert of_clients(given) == {"OTHER": "z"}
    assert database_of({"DATABASE": "", "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite:///y"}) == "sqlite+aiosqlite:///y"
    assert of_server({"OTHER": "z"}) == {}


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with serve_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def served(database: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """API and folder of a Prefect server on PostgreSQL that asks for a password, with deployments; flows of this process use it."""
    folder = tmp_path_factory.mktemp("on-postgres")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE", database.url)
        for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"):
            patch.setenv(name, PAIR)
        codes = {PREFECT_CLIENT_RETRY_EXTRA_CODES: PREFECT_DEFAULTS["PREFECT_CLIENT_RETRY_EXTRA_CODES"]}
        try:
            url = services.start_server(folder, *free_ports(1))
            known = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: PAIR}
            with temporary_settings({**known, **codes, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                services.deploy(folder, url)
                yield url, folder
        finally:
            services.down(folder)


@pytest.mark.training
@needs_postgres
def test_databases_that_let_nobody_in_are_one_line(database: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for old, new, words in (
        (QUOTED, "wrong-word", 'password authentication failed for user "prefect"'),
        (f"/{NAME}", "/nope", 'database "nope" does not exist'),
        (f":{database.port}/", f":{free_ports(1)[0]}/", "Connect call failed"),
        (f"/{NAME}", f"/{NAME}?sslmode=require", "rejected SSL upgrade"),
    ):
        monkeypatch.setenv("DATABASE", database.url.replace(old, new))
        with pytest.raises(UserError, match=r"^DATABASE: expected PostgreSQL 127\.0\.0\.1:\d+/\w+ to let us in, got: [^\n]*$") as caught:
            services.start_server(tmp_path, *free_ports(1))
        assert words in str(caught.value)
        assert not any(word in str(caught.value) for word in ("wrong-word", QUOTED, PASSWORD))
    assert not list(tmp_path.glob("*.pid"))
    check_database(database_url("DATABASE", database.url))


@pytest.mark.training
@needs_postgres
def test_the_password_of_the_database_is_nowhere(
    served: tuple[str, Path], database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = served
    assert int(database.sql("select count(*) from deployment", database=NAME)) == 5
    secrets = (QUOTED, PASSWORD)
    assert not [path for path in folder.rglob("*") if path.is_file() and any(one.encode() in path.read_bytes() for one in secrets)]
    lists = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lists if QUOTED in line or (PASSWORD in line and "initdb" not in line)]
    monkeypatch.setenv("DATABASE", "postgresql://other@127.0.0.1/x")
    with pytest.raises(UserError, match=r"DATABASE: expected that of the server of .*, which runs, or none"):
        services.start_server(folder, int(url.split(":")[2].partition("/")[0]))


ASK = """
from flows.cli.local import with_server

def work():
    from prefect import flow
    return flow(lambda: 6, name="six")()

print(with_server(work))
"""


@pytest.mark.training
@needs_postgres
def test_a_server_that_asks_for_a_password(served: tuple[str, Path], tiny_data: Path, tmp_path: Path) -> None:
    """One line where there is none, or a wrong one; a flow with the right one."""
    url, _ = served

    def ask(pair: str | None, *command: str) -> "subprocess.CompletedProcess[str]":
        given = {"PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path / "home"), **({"PREFECT_API_AUTH_STRING": pair} if pair else {})}
        kept = {name: value for name, value in os.environ.items() if "AUTH_STRING" not in name}
        return subprocess.run(command, capture_output=True, text=True, env=kept | given, check=False, timeout=240)

    run = (*SPNAS, "run", "smoke", "--data", str(tiny_data), "--store", str(tmp_path / "store"))
    for pair, got in ((None, "none"), ("me:another", "one that it refuses")):
        done = ask(pair, *run)
        lines = [line for line in done.stderr.splitlines() if line.startswith("spnas: ")]
        server = url.removesuffix("/api")
        assert lines == [f"spnas: PREFECT_API_AUTH_STRING: expected USER:PASSWORD of the Prefect server at {server}/api, got {got}"]
        assert done.returncode == 2
        assert "another" not in done.stderr
        assert "Traceback" not in done.stderr
    done = ask(PAIR, sys.executable, "-c", ASK)
    assert done.stdout == "6\n", done.stderr
    check_server(url)


@pytest.mark.training
@needs_postgres
@pytest.mark.parametrize(
    ("rounds", "candidates", "workers", "bound"),
    [(2, 6, 2, 20.0), pytest.param(4, 50, 4, 3.0, marks=pytest.mark.long)],
    ids=["12-candidates", "200-candidates"],
)
def test_a_search_whose_database_is_restarted(
    served: tuple[str, Path],
    database: PostgresServer,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rounds: int,
    candidates: int,
    workers: int,
    bound: float,
) -> None:
    """Each candidate is a run of its own on the pool. Most find their training in the store, where it appears once they have been asked
    for; of the first round some are trained, and with four workers, one of them is killed meanwhile. The ledger is that of a search
    which nobody disturbed. Without the machine's other work a candidate takes `bound` seconds at most, waiting included.
    """
    url, _ = served
    kills = workers > 2
    wanted = [f"serial.rounds={rounds}", f"serial.candidates={candidates}", "serial.max_reignite=0"]
    whole = open_plan(presets.load_preset("smoke", wanted), str(tiny_data), (tmp_path / "whole").as_uri())

    def is_trained(number: int, index: int) -> bool:
        return kills and (number == 0 or (number == 1 and index % 20 == 5))

    ledger = published_search(whole, tmp_path / "nothing", is_trained)
    trained = {trial.digest for trial in ledger if is_trained(trial.round, trial.index)}
    plan = open_plan(whole.settings.model_copy(update={"executor": "work_pool"}), str(tiny_data), (tmp_path / "store").as_uri())
    shutil.copytree(tmp_path / "whole" / "train" / str(ledger[0].digest), tmp_path / "store" / "train" / str(ledger[0].digest))
    asked, over = list[str](), threading.Event()
    begin: Callable[..., UUID] = pool._begin

    def begun(job: Job, *words: Any) -> UUID:
        run, digest = begin(job, *words), job_digest(job)
        asked.append(digest)
        if digest not in trained and (found := whole.store.find(job.kind, digest)):
            Store(plan.store.url).publish(job, tmp_path / "nothing", found.metrics, found.seconds)
        return run

    monkeypatch.setattr(pool, "_begin", begun)

    def ended() -> int:
        return int(database.sql("select count(*) from flow_run where name like 'serial %' and state_type = 'COMPLETED'", database=NAME))

    def disturb() -> None:
        wait_for("ended runs", lambda: over.is_set() or ended() >= before + candidates // 3, 1800)
        database.stop()
        time.sleep(5)
        database.start()
        if kills:
            wait_for("training", lambda: next((host for host in hosts if host.works()), None) or over.is_set(), 1800).kill()

    @flow(name="serial-on-postgres")
    def search() -> StageRecord:
        start = StageRecord(name="fine_tune", key=plan.keys["fine_tune"], ledger=ledger[:1])
        return run_stage(plan, Executor(plan.store.url, plan.settings), "serial", start)

    before, hosts = ended(), [Host(tmp_path / f"host{number}", url) for number in range(workers)]
    try:
        with ThreadPoolExecutor(1) as thread:
            begun_at, disturbed = time.monotonic(), thread.submit(disturb)
            try:
                found = search()
            finally:
                over.set()
            seconds = time.monotonic() - begun_at
            disturbed.result()
    finally:
        for host in hosts:
            if host.process.poll() is None:
                host.kill()
    assert found.ledger == ledger
    assert len(set(asked)) == rounds * candidates
    each = seconds / rounds / candidates
    print(f"{rounds * candidates} candidates, {workers} workers: {seconds:.1f} s, {each:.2f} s each, {len(asked)} runs of the pool")
    assert each < bound
