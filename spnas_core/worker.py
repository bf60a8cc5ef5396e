"""One job in a process of its own: ``python -m spnas_core.worker JOB.json``.

The file holds an `Order`. Standard output is one JSON object per line: the job's progress and, last, {"event": "done"} or
{"event": "failed", "reason", "message"}; all else goes to standard error. At SIGTERM a training saves a checkpoint and ends as ``killed``.
Exit status: 0 done, 2 a user's mistake, 3 a typed failure; anything else is a bug (1, with its traceback) or a death.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from pydantic import Field, ValidationError

from spnas_core import graphs
from spnas_core import job as jobs
from spnas_core.config import Settings
from spnas_core.errors import JobError, MissingArtifactError, StoreError, UserError
from spnas_core.manifest import Manifest
from spnas_core.progress import Desk, line
from spnas_core.retries import first_line, is_full
from spnas_core.store import Store

DONE, BAD_INPUT, FAILED = 0, 2, 3
OUT_OF_MEMORY = ("out of memory", "outofmemory", "bad_alloc", "cannot allocate memory", "memory not enough", "memory isn't enough")
Report = Callable[[dict[str, Any]], None]
log = logging.getLogger(__name__)


class Order(Settings):
    """What the runner asks of a worker."""

    job: jobs.Job = Field(discriminator="kind")
    store: str
    device_id: int = 0
    threads: int = Field(1, ge=1)
    checkpoint_seconds: float = Field(60.0, description="time between two checkpoints of a training")
    parent: int | None = Field(None, description="process id of the runner: the worker dies with it")


def environment(order: Order) -> dict[str, str]:
    """Variables that MindSpore and its libraries read when they are loaded."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    found = {**dict.fromkeys(names, str(order.threads)), "GLOG_v": "3", "PYTHONUNBUFFERED": "1"}
    if order.job.device_target == "Ascend":
        found["ASCEND_RT_VISIBLE_DEVICES"] = str(order.device_id)
    if order.job.device_target == "GPU":
        found["CUDA_VISIBLE_DEVICES"] = str(order.device_id)
    return found


def die_with(parent: int | None) -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux); leave at once if it has ended already."""
    if parent is None:
        return
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(FAILED)


def prepare_device(order: Order) -> None:
    """Point MindSpore to its device and its threads."""
    import mindspore

    mindspore.set_device(order.job.device_target, 0)  # the only one that `environment` leaves visible
    if order.job.device_target == "CPU":
        mindspore.device_context.cpu.op_tuning.threads_num(order.threads)


def run(job: jobs.Job, store: Store, out: Path, desk: Desk) -> dict[str, Any]:
    """Do a job of any kind; the imports load MindSpore."""
    if isinstance(job, jobs.TrainJob):
        from spnas_core import train

        return train.run(job, store, out, desk)
    if isinstance(job, jobs.ReigniteJob):
        from spnas_core import reignite

        return reignite.run(job, store, out, desk)
    if isinstance(job, jobs.BenchmarkJob):
        from spnas_core import benchmark

        return benchmark.run(job, desk)
    from spnas_core import evaluate

    return evaluate.run(job, store, out, desk)


def perform(order: Order, report: Report, stop: threading.Event) -> Manifest:
    """Do the job, from its checkpoint where it has one, and publish its artifact; a finished one is only looked up.

    When `stop` is set, the job saves a checkpoint and ends as ``killed``.
    """
    store, job = Store(order.store), order.job
    kind, digest = job.kind, jobs.digest(job)
    if found := store.find(kind, digest):
        return found
    begun, checkpoints = time.monotonic(), store.checkpoints(kind, digest)
    with tempfile.TemporaryDirectory(prefix=f"spnas-{kind}-") as scratch:
        out, resume, compiled = Path(scratch) / "out", Path(scratch) / "resume", Path(scratch) / "graphs"
        out.mkdir()
        likeness = graphs.key(job)
        graphs.borrow(likeness, compiled)
        os.environ.update(graphs.variables(compiled))
        checkpoints.load(resume)

        def on_progress(event: dict[str, Any]) -> None:
            if event["event"] == "checkpoint":
                graphs.keep(likeness, compiled)
                try:
                    checkpoints.save(resume)
                except StoreError as error:
                    log.warning("no checkpoint was saved: %s", error)
                    return
            report(event)

        prepare_device(order)
        desk = Desk(on_progress, resume, order.checkpoint_seconds, stop)
        metrics = run(job, store, out, desk)
        graphs.keep(likeness, compiled)
        manifest = store.publish(job, out, metrics, time.monotonic() - begun)
    checkpoints.drop()
    return manifest


def out_of_memory(text: str) -> bool:
    """Whether a message of MindSpore, the C++ library or the system speaks of memory that could not be had."""
    return any(words in text.lower() for words in OUT_OF_MEMORY)


def main(path: str) -> int:
    """Work on the job of the file `path`; the exit status says how it ended."""
    lines = _own_stdout()

    def report(event: dict[str, Any]) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line(Path(path).stem, event)}\n")  # first: the log tells how far it came
        lines.write(json.dumps(event) + "\n")
        lines.flush()

    def fail(status: int, reason: str, message: str) -> int:
        report({"event": "failed", "reason": reason, "message": message})
        return status

    try:
        order = Order.model_validate_json(Path(path).read_bytes())
        die_with(order.parent)
        os.environ.update(environment(order))
        report({"event": "start", "pid": os.getpid()})
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda _signal, _frame: stop.set())
        manifest = perform(order, report, stop)
    except ValidationError as error:
        return fail(BAD_INPUT, "bad_input", f"job {path}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}")
    except UserError as error:
        return fail(BAD_INPUT, "bad_input", str(error))
    except MissingArtifactError as error:
        return fail(FAILED, "missing_artifact", str(error))
    except JobError as error:
        return fail(FAILED, error.reason, error.message)
    except OSError as error:
        if isinstance(error, StoreError) or is_full(error):
            return fail(FAILED, "store", first_line(error))
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or out_of_memory(str(error)):
            return fail(FAILED, "out_of_memory", (str(error).splitlines() or ["MemoryError"])[0])
        raise
    report({"event": "done", "seconds": manifest.seconds})
    return DONE


def _own_stdout() -> TextIO:
    """Keep standard output for progress alone: what else is written there, also by C++ code, goes to standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
