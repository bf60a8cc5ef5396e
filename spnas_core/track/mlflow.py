"""MLflow as a tracker: a run of MLflow for the search, and one nested in it for each of its trainings.

Source: the client's documentation, https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html. MLflow's own environment
variables count: MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, MLFLOW_EXPERIMENT_NAME and so on.
"""

import os
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from spnas_core.errors import UserError
from spnas_core.track.tracked import TrackedRun

_EXPERIMENT = "spnas"
_KEY, _SEARCH, _VERSION = "spnas.key", "spnas.search", "spnas.version"  # tags: of the run, of its search, of what was told
_STATUS = {"running": "RUNNING", "done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_LONGEST = 500  # characters of a parameter: the least that servers allow
_AT_ONCE = 90  # parameters and points of one request: servers allow 100 parameters
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # s, for 120
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # whoever tells us tells us again
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where --json writes
}


class Mlflow:
    """Tracker on the MLflow server at `address`; runs are found again by their tags."""

    def __init__(self, address: str) -> None:
        if find_spec("mlflow") is None:
            raise UserError("tracker.mlflow: expected MLflow or its client to be installed, found none: pip install --editable '.[mlflow]'")
        self._address = address
        self._client: Any = None
        self._experiment = ""
        self._ids: dict[str, str] = {}  # of MLflow's runs, by key

    def tell(self, run: TrackedRun) -> None:
        """Make the run in MLflow if it is not there, and bring it up to `run`."""
        try:
            if self._client is None:
                self._connect()
            self._bring_up(run, self._id(run))
        except BaseException:
            self._client, self._ids = None, {}  # whatever answers next may know none of these runs
            raise

    def _connect(self) -> None:
        for name, value in MLFLOW_DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._address)
        if not (found := os.environ.get("MLFLOW_EXPERIMENT_ID")):
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
            experiment = client.get_experiment_by_name(name)
            found = experiment.experiment_id if experiment else client.create_experiment(name)
        self._client, self._experiment = client, found

    def _id(self, run: TrackedRun) -> str:
        """Find or make a run; of two with the same key, made at the same moment, the first counts."""
        if run.key not in self._ids:
            same = self._client.search_runs([self._experiment], f"tags.`{_KEY}` = '{run.key}'", order_by=["attributes.start_time ASC"])
            self._ids[run.key] = same[0].info.run_id if same else self._create(run)
        return self._ids[run.key]

    def _create(self, run: TrackedRun) -> str:
        tags = {_KEY: run.key, _SEARCH: run.parent or run.key, "mlflow.source.name": "spnas"}
        tags |= {"mlflow.parentRunId": self._ids[run.parent]} if run.parent else {}
        begun = int(1000 * (run.begun or time.time()))
        return str(self._client.create_run(self._experiment, start_time=begun, tags=tags, run_name=run.name).info.run_id)

    def _bring_up(self, run: TrackedRun, number: str) -> None:
        held = self._client.get_run(number).data
        if held.tags.get(_VERSION) == run.version:
            return
        self._send_numbers(run, number, held)
        with tempfile.TemporaryDirectory(prefix="spnas-mlflow-") as scratch:
            for path, file in run.files.items():
                local, folder = Path(scratch) / Path(path).name, str(PurePosixPath(path).parent)
                local.write_bytes(file.read())
                self._client.log_artifact(number, str(local), None if folder == "." else folder)
        self._finish(run, number)

    def _send_numbers(self, run: TrackedRun, number: str, held: Any) -> None:
        """Send the parameters and points that MLflow lacks.

        A run of MLflow shows of a metric the point of the greatest step, whenever it was sent; so a score that changes goes a step further.
        """
        from mlflow.entities import Metric, Param

        now = int(1000 * time.time())
        items: list[Any] = [Param(name, str(value)[:_LONGEST]) for name, value in run.parameters.items() if name not in held.params]
        for name, value in run.scores.items():
            if held.metrics.get(name) != value:
                items.append(Metric(name, value, now, len(self._client.get_metric_history(number, name)) if name in held.metrics else 0))
        for name, curve in run.curves.items():
            there = {(one.step, one.value) for one in self._client.get_metric_history(number, name)} if name in held.metrics else set()
            items += [Metric(name, value, now, step) for step, value in curve.items() if (step, value) not in there]
        for first in range(0, len(items), _AT_ONCE):
            part = items[first : first + _AT_ONCE]
            params, metrics = ([one for one in part if isinstance(one, kind)] for kind in (Param, Metric))
            self._client.log_batch(number, metrics=metrics, params=params)

    def _finish(self, run: TrackedRun, number: str) -> None:
        """Set the status, and last the version: what breaks off before is told again."""
        from mlflow.entities import RunTag

        if run.state != "running":
            self._client.set_terminated(number, _STATUS[run.state], int(1000 * (run.ended or time.time())))
        else:
            self._client.update_run(number, _STATUS[run.state])
        self._client.log_batch(number, tags=[RunTag("mlflow.note.content", run.note), RunTag(_VERSION, run.version)])
