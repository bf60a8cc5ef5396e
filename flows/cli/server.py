"""Ephemeral Prefect server of a run for which no server is configured: on the loopback, quiet, and never orphaned."""

import os
import subprocess
from typing import Any

from prefect.server.api.server import SubprocessASGIServer

# Waits for the end of its standard input, that is for the exit of the process at the other end, and then stops the server.
WATCH = 'read -r pid; cat >/dev/null; ps -ww -p "$pid" -o args= | grep -q prefect.server && kill -9 "$pid"'


class WatchedServer(SubprocessASGIServer):
    """Prefect's ephemeral server, which ends with this process even on SIGKILL."""

    def _run_uvicorn_command(self) -> "subprocess.Popen[Any]":
        process = super()._run_uvicorn_command()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        watch = subprocess.Popen(["sh", "-c", WATCH], stdin=subprocess.PIPE, start_new_session=True, **quiet)
        os.write(watch.stdin.fileno(), f"{process.pid}\n".encode())
        self._watch = watch  # its pipe stays open as long as this process lives
        return process


def watch_ephemeral_server() -> None:
    """Make Prefect use a `WatchedServer` as its ephemeral server; no effect if PREFECT_API_URL names a server."""
    WatchedServer()  # Prefect uses the first instance
