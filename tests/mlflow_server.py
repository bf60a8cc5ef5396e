"""A real MLflow server on the loopback, and what it holds."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from s3_server import free_ports

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}


class MlflowServer:
    """The server with its data in `folder`; it can be killed and started again, on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder, (self._port,) = folder, free_ports(1)
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **QUIET}, start_new_session=True)
        opener, end = urllib.request.build_opener(urllib.request.ProxyHandler({})), time.monotonic() + 120
        while time.monotonic() < end:
            try:
                opener.open(f"{self.address}/health", timeout=5).close()
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise TimeoutError(f"MLflow does not answer: {(self._folder / 'log.txt').read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """Kill it and its workers as a power cut would."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.address)

    def runs(self, experiment: str) -> list[Any]:
        """Return MLflow's runs of an experiment, the first ones first; none where there is no such experiment."""
        found = self.client.get_experiment_by_name(experiment)
        order = ["attributes.start_time ASC"]
        return list(self.client.search_runs([found.experiment_id], max_results=1000, order_by=order)) if found else []

    def curve(self, run: Any, name: str) -> list[tuple[int, float]]:
        """Return all points of a curve, repeated ones too."""
        return sorted((one.step, one.value) for one in self.client.get_metric_history(run.info.run_id, name))
