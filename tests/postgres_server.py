"""A real PostgreSQL server on the loopback, from Debian's package `postgresql`, with a user and a database for Prefect."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import free_ports

USER, PASSWORD, NAME = "prefect", "o-so/se:cret@%41", "runs"
QUOTED = "o-so%2Fse%3Acret%40%2541"
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
needs_postgres = pytest.mark.skipif(not BINARIES, reason="no PostgreSQL here: apt-get install postgresql")


class PostgresServer:
    """The server with its data in `folder`; it can be stopped and started again. It refuses to be root's: then it is that of `postgres`."""

    def __init__(self, folder: Path) -> None:
        self._folder, (self.port,) = folder, free_ports(1)
        self.url = f"postgresql://{USER}:{QUOTED}@127.0.0.1:{self.port}/{NAME}"
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the data folder, the user and the database; `folder` is an empty one that any user may enter."""
        (self._folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self._folder, self._folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        access = ("--auth=scram-sha-256", "--username=postgres", f"--pwfile={self._folder / 'password'}")
        self._run("initdb", *access, "--encoding=UTF8", "--no-sync", f"--pgdata={self._folder / 'data'}")
        self.start()
        self.sql(f"create user {USER} password '{PASSWORD}'", f"create database {NAME} owner {USER}")

    def start(self) -> None:
        """Start it and wait until it answers."""
        words = self._words("postgres", "-D", self._folder / "data", "-k", self._folder, "-h", "127.0.0.1", "-p", self.port, "-F")
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder)
        while self._process.poll() is None:
            if not self._run("pg_isready", "--host=127.0.0.1", f"--port={self.port}", "--timeout=60", check=False).returncode:
                return
        pytest.fail(f"PostgreSQL has not started: {(self._folder / 'log.txt').read_text()[-2000:]}")

    def stop(self) -> None:
        """Stop it at once, whoever is connected (its "fast shutdown")."""
        if self._process:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """Result of statements, as its superuser."""
        words = ("--host=127.0.0.1", f"--port={self.port}", "--username=postgres", "--tuples-only", "--no-align", database)
        return self._run("psql", *words, *(word for one in statements for word in ("--command", one))).stdout

    def _words(self, program: str, *words: object) -> list[str]:
        user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups") if os.geteuid() == 0 else ()
        return [*user, str(BINARIES[-1] / program), *map(str, words)]

    def _run(self, program: str, *words: object, check: bool = True) -> "subprocess.CompletedProcess[str]":
        found = {**os.environ, "PGPASSWORD": PASSWORD}
        return subprocess.run(self._words(program, *words), env=found, cwd=self._folder, capture_output=True, text=True, check=check)


@contextlib.contextmanager
def serve_postgres() -> Iterator[PostgresServer]:
    """A server in a temporary folder: not one of pytest, which the user `postgres` may not enter."""
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder))
        try:
            server.create()
            yield server
        finally:
            server.stop()
