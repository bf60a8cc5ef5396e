#!/usr/bin/env bash
# mlflow 3.17.2: the value that a run shows of a metric is not the one with the latest timestamp, but the one of the greatest step.
#
# Expected (https://mlflow.org/docs/latest/api_reference/python_api/mlflow.entities.html, RunData.metrics): "For each metric key, the metric
# value with the latest timestamp is returned. In case there are multiple values with the same latest timestamp, the maximum of these".
# Seen, with the database that `mlflow server` has by default: step decides first, then timestamp, then value. A later point at a smaller
# step is in the metric's history, but neither in `run.data.metrics` nor in what `search_runs` sorts and filters by.
# Why: SqlAlchemyStore compares (step, timestamp, value). The documentation of the R client says so, that of Python does not.
#
# Consequence for this project: a score that changes after it was sent (trials so far, a stage computed anew) is sent at the next step;
# at the same step it would depend on whose clock is ahead (spnas_core/track/mlflow.py). Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check mlflow==3.17.2
cd "$folder"
cat > shown.py <<'EOF'
from mlflow import MlflowClient

client = MlflowClient("sqlite:///mlflow.db")
experiment = client.create_experiment("one")
run = client.create_run(experiment).info.run_id
client.log_metric(run, "AP", 0.5, timestamp=1_000, step=3)
client.log_metric(run, "AP", 0.4, timestamp=2_000, step=1)  # later
shown = client.get_run(run).data.metrics["AP"]
history = [(point.timestamp, point.step, point.value) for point in client.get_metric_history(run, "AP")]
sought = len(client.search_runs([experiment], "metrics.AP < 0.45"))
print(f"(timestamp, step, value): {history}; shown: {shown}; runs with AP < 0.45: {sought}")
assert (shown, sought) == (0.5, 0)
EOF
MLFLOW_DISABLE_TELEMETRY=true venv/bin/python shown.py 2>> log
