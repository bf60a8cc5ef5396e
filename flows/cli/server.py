"""The ephemeral Prefect server of a run without a server of its own: on the loopback, quiet, and never left behind."""

import os
import subprocess
from typing import Any

from prefect.server.api.server import SubprocessASGIServer

# Waits for the end of its standard input, that is of the process that holds the other side, and then ends the server.
WATCH = 'read -r pid; cat >/dev/null; ps -ww -p "$pid" -o args= | grep -q prefect.server && kill -9 "$pid"'


class WatchedServer(SubprocessASGIServer):
    """Prefect's own ephemeral server; it dies with this process also where that is killed with SIGKILL."""

    def _run_uvicorn_command(self) -> "subprocess.Popen[Any]":
        process = super()._run_uvicorn_command()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        watch = subprocess.Popen(["sh", "-c", WATCH], stdin=subprocess.PIPE, start_new_session=True, **quiet)
        os.write(watch.stdin.fileno(), f"{process.pid}\n".encode())
        self._watch = watch  # its pipe stays open as long as this process lives
        return process


def watch_ephemeral_server() -> None:
    """Have Prefect use a `WatchedServer` when it starts an ephemeral server; without effect where PREFECT_API_URL names one."""
    WatchedServer()  # the first instance is the one that Prefect finds
