"""Worker process of one job: ``python -m spnas_core.jobs.worker JOB.json``.

The file holds a `WorkerRequest`. Standard output has one JSON object per line: the job's progress and, last, {"event": "done"} or
{"event": "failed", "reason", "message"}; all else goes to standard error. On SIGTERM a training saves a checkpoint and ends as ``killed``.
Exit status: 0 done, 2 a user's mistake, 3 a typed failure; any other is a bug (1, with its traceback) or a signal.
On several devices this process starts itself again as the ranks of a `cluster`, handles the store, and exits as the first rank that fails.
"""

import contextlib
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
from types import TracebackType
from typing import Any, NoReturn, TextIO

from pydantic import ValidationError

from spnas_core import job as jobs
from spnas_core.errors import JobError, MissingArtifactError, StoreError, UserError
from spnas_core.jobs import cluster, graphs
from spnas_core.jobs.progress import JobContext, line
from spnas_core.jobs.request import BAD_INPUT, DONE, FAILED, WorkerRequest, environment, lost_device, out_of_memory
from spnas_core.names import METRICS_FILE
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest
from spnas_core.store.retries import first_line, is_full

OUT, RESUME, GRAPHS = "out", "resume", "graphs"  # subfolders of the folder that the processes of a job share
_Report = Callable[[dict[str, Any]], None]
_log = logging.getLogger(__name__)


def die_with(parent: int | None) -> None:
    """Make the kernel kill this process when the thread that started it ends (Linux); exit at once if it has ended already."""
    if parent is None:
        return
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(FAILED)


def prepare_device(request: WorkerRequest) -> None:
    """Set MindSpore's device, one of those that `environment` makes visible, and its threads; join the other ranks."""
    import mindspore

    from spnas_core.jobs import cpu
    from spnas_core.models import ranks

    if request.job.device_target == "CPU":
        cpu.use_threads(request.threads)
    else:
        mindspore.set_device(request.job.device_target, cluster.role()[1])
    if request.ranks > 1:
        ranks.join_cluster()


def do_job(job: jobs.Job, store: Store, out: Path, context: JobContext) -> dict[str, Any]:
    """Run a job of any kind and return its metrics; the imports load MindSpore."""
    if isinstance(job, jobs.TrainJob):
        from spnas_core.jobs import train

        return train.run(job, store, out, context)
    if isinstance(job, jobs.ReigniteJob):
        from spnas_core.jobs import reignite

        return reignite.run(job, store, out, context)
    if isinstance(job, jobs.BenchmarkJob):
        from spnas_core.jobs import benchmark

        return benchmark.run(job, context)
    if isinstance(job, jobs.MeasureJob):
        from spnas_core.jobs import measure

        return measure.run(job, context)
    if isinstance(job, jobs.SupernetJob):
        from spnas_core.jobs import supernet

        return supernet.run(job, store, out, context)
    if isinstance(job, jobs.PathsJob):
        from spnas_core.jobs import paths

        return paths.run(job, store, context)
    from spnas_core.jobs import evaluate

    return evaluate.run(job, store, out, context)


def perform(request: WorkerRequest, report: _Report, lines: TextIO, stop: threading.Event) -> Manifest:
    """Run the job, from its checkpoint if it has one, and publish its artifact; reuse an existing artifact.

    When `stop` is set, the job saves a checkpoint and ends as ``killed``. `lines` is standard output.
    """
    store, job = Store(request.store), request.job
    kind, digest = job.kind, jobs.digest(job)
    if manifest := store.find(kind, digest):
        return manifest
    begun, checkpoints = time.monotonic(), store.checkpoints(kind, digest)
    with tempfile.TemporaryDirectory(prefix=f"spnas-{kind}-") as scratch:
        folder = Path(scratch)
        (folder / OUT).mkdir()
        graphs.borrow(graphs.key(job, request.ranks), folder / GRAPHS)
        checkpoints.load(folder / RESUME)
        if request.ranks == 1:
            metrics = compute(request, folder, report, stop)
        else:
            share = {"parent": os.getpid(), "threads": max(1, request.threads // request.ranks)}
            (folder / "job.json").write_text(request.model_copy(update=share).model_dump_json())
            cluster.run_ranks([sys.executable, "-m", "spnas_core.jobs.worker", str(folder / "job.json")], request.ranks, lines, stop)
            metrics = json.loads((folder / METRICS_FILE).read_text())
        graphs.keep(graphs.key(job, request.ranks), folder / GRAPHS)
        manifest = store.publish(job, folder / OUT, metrics, time.monotonic() - begun)
    checkpoints.drop()
    return manifest


def compute(request: WorkerRequest, folder: Path, report: _Report, stop: threading.Event) -> dict[str, Any]:
    """Run the job in this process, alone or as a rank; writes files to `folder`, and checkpoints to the store too."""
    store, resume = Store(request.store), folder / RESUME
    checkpoints = store.checkpoints(request.job.kind, jobs.digest(request.job))
    os.environ.update(graphs.cache_variables(folder / GRAPHS))

    def on_progress(event: dict[str, Any]) -> None:
        if event["event"] == "checkpoint":
            graphs.keep(graphs.key(request.job, request.ranks), folder / GRAPHS)
            try:
                checkpoints.save(resume)
            except StoreError as error:
                _log.warning("no checkpoint was saved: %s", error)
                return
        report(event)

    prepare_device(request)
    if request.job.device_target == "CPU" and request.ranks == 1 and request.job.kind in ("train", "reignite", "evaluate"):
        from spnas_core.jobs import speed_check

        if found := speed_check.slow_convolution():
            report({"event": "warning", "text": found})
    return do_job(request.job, store, folder / OUT, JobContext(on_progress, resume, request.checkpoint_seconds, stop))


def main(path: str) -> int:
    """Run the job of the file `path`, or a rank's share of it, and return the exit status, negative for a signal."""
    lines = own_stdout()
    role, rank = cluster.role()
    label = f"rank {rank}" if rank else Path(path).stem

    def report(event: dict[str, Any]) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line(label, event)}\n")  # first, so that the log shows how far the job came
        lines.write(json.dumps(event) + "\n")
        lines.flush()

    def fail(status: int, reason: str, message: str) -> int:
        report({"event": "failed", "reason": reason, "message": message})
        return status

    try:
        request = WorkerRequest.model_validate_json(Path(path).read_bytes())
        die_with(request.parent)
        os.environ.update(environment(request))
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda _signal, _frame: stop.set())
        if role:
            _take_part(request, Path(path).parent, role, rank, report, stop)
            return DONE
        report({"event": "start", "pid": os.getpid()})
        manifest = perform(request, report, lines, stop)
    except ValidationError as error:
        return fail(BAD_INPUT, "bad_input", f"job {path}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}")
    except UserError as error:
        return fail(BAD_INPUT, "bad_input", str(error))
    except MissingArtifactError as error:
        return fail(FAILED, "missing_artifact", str(error))
    except JobError as error:
        return fail(FAILED, error.reason, error.message)
    except cluster.RankError as error:
        return error.status  # the failed rank has reported the reason itself
    except OSError as error:
        if isinstance(error, StoreError) or is_full(error):
            return fail(FAILED, "store", first_line(error))
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or out_of_memory(str(error)):
            return fail(FAILED, "out_of_memory", (str(error).splitlines() or ["MemoryError"])[0])
        if lost_device(str(error)):
            return fail(FAILED, "crashed", next(filter(lost_device, str(error).splitlines())).strip())
        raise
    report({"event": "done", "seconds": manifest.seconds})
    return DONE


def _take_part(request: WorkerRequest, folder: Path, role: str, rank: int, report: _Report, stop: threading.Event) -> None:
    """Run the job as one process of a cluster; only the first rank reports and writes the metrics."""
    from spnas_core.models import ranks

    if role == "MS_SCHED":
        ranks.join_cluster()
        return
    metrics = compute(request, folder, (lambda _: None) if rank else report, stop)
    if rank == 0:
        (folder / METRICS_FILE).write_text(json.dumps(metrics))
    ranks.gather_ranks(None)  # MindSpore may treat a rank that exits early as lost


def own_stdout() -> TextIO:
    """Reserve standard output for progress: other output, including that of C++ code, goes to standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


def leave(status: int) -> NoReturn:
    """Exit with `status`, or, if it is negative, by that signal.

    It exits at once: MindSpore's exit handlers take half a second, may wait for other ranks, and were seen to crash after all was done.
    """
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no other handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)  # what C++ has written
    os._exit(status)


def leave_with_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
    """Exit a rank after an unforeseen exception."""
    sys.__excepthook__(kind, error, trace)
    leave(1)


if __name__ == "__main__":
    if cluster.role()[0]:
        sys.excepthook = leave_with_traceback
    leave(main(sys.argv[1]))
