#!/usr/bin/env bash
# Prefect 3.8.8: with heartbeats, which are on by default, each run of a synchronous flow ends up to a second after its final state.
#
# Expected (https://docs.prefect.io/v3/api-ref/settings-ref, `flows.heartbeat_frequency`): "Number of seconds between flow run heartbeats.
# Heartbeats are used to detect crashed flow runs." So an event every 180 s (the default), and a flow of 0.01 s that takes no longer by it.
# Seen: the state is Completed at once, but the call of the flow returns only when a whole second from the start of the heartbeats is over.
# Why: the thread that sends them sleeps in steps of a second (flow_engine.py, `_send_heartbeats`), and a synchronous engine joins it.
#
# Consequence for this project: a process or a thread that runs short flows is kept for half a second per run in the mean, in which it
# takes no other. The worker of jobs sends their heartbeats itself (flows/worker.py). Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check prefect==3.8.8 'fastapi<0.151'
cd "$folder"
export PREFECT_HOME="$folder/home" PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_LOGGING_LEVEL=CRITICAL
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=120
cat > ends.py <<'EOF2'
import time
from statistics import median

from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings


@flow
def short() -> None:
    time.sleep(0.01)


def seconds(state) -> float:
    """Time from the final state of a run to the return of the call."""
    return time.time() - state.timestamp.timestamp()


def late(frequency: int | None) -> float:
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: frequency}):
        short(return_state=True)
        return median(seconds(short(return_state=True)) for _ in range(5))


without, given = late(None), late(180)
print(f"from the final state to the end of the call: {without:.2f} s without heartbeats, {given:.2f} s with one every 180 s")
assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() == 180
assert without < 0.4 < 0.6 < given < 1.3
EOF2
"$folder/venv/bin/python" ends.py
