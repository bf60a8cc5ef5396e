"""Ephemeral Prefect server of a run for which no server is configured: on the loopback, quiet, and never orphaned."""

import os
import subprocess
from typing import Any

from prefect.server.api.server import SubprocessASGIServer

# Waits for the end of its standard input, that is for the exit of the process at the other end, and then stops the server.
WATCH = 'read -r pid; cat >/dev/null; ps -ww -p "$pid" -o args= | grep -q prefect.server && kill -9 "$pid"'


class WatchedServer(SubprocessASGIServer):
    """Prefect's ephemeral server, which ends with this process even on SIGKILL."""

    _begun: "subprocess.Popen[Any] | None" = None

    def begin(self) -> None:
        """Start its process and do not wait for it, as `start` then does, which Prefect calls as soon as it needs the server."""
        if self._begun is None and not self.running:
            self.port = self.find_available_port()
            self._begun = self._run_uvicorn_command()

    def _run_uvicorn_command(self) -> "subprocess.Popen[Any]":
        if self._begun is not None:
            process, self._begun = self._begun, None
            return process
        process = super()._run_uvicorn_command()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        watch = subprocess.Popen(["sh", "-c", WATCH], stdin=subprocess.PIPE, start_new_session=True, **quiet)
        os.write(watch.stdin.fileno(), f"{process.pid}\n".encode())
        self._watch = watch  # its pipe stays open as long as this process lives
        return process


def begin_ephemeral_server() -> None:
    """Begin a `WatchedServer`, and make Prefect use it as its ephemeral server; call it only where PREFECT_API_URL names no server."""
    WatchedServer().begin()  # Prefect uses the first instance
