"""The curves of a training as TensorBoard reads them, in a process of its own: its messages and MindSpore's are of different parsers."""

import json
import subprocess
import sys

from spnas_core.job import TrainJob, digest
from spnas_core.store.artifacts import Store

READER = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}).Reload()
print(json.dumps({tag: [(point.step, point.value) for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}))
"""


def curves(store: Store, job: TrainJob) -> dict[str, list[tuple[int, float]]]:
    """Points of a job's curves by their names, as TensorBoard itself reads them."""
    (folder,) = {
        path.rsplit("/", 1)[0]
        for path in store.files("logs")
        if path.startswith(f"{job.kind}/") and digest(job) in path and "events" in path
    }
    done = subprocess.run([sys.executable, "-c", READER, str(store.local / "logs" / folder)], capture_output=True, text=True, check=True)
    return {tag: [tuple(point) for point in points] for tag, points in json.loads(done.stdout).items()}
