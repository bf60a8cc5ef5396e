"""Request of a runner to a worker, the worker's environment, and the interpretation of its exit."""

import re

from pydantic import Field

from spnas_core import job as jobs
from spnas_core.jobs.cpu_variables import cpu_variables
from spnas_core.settings.base import Settings

DONE, BAD_INPUT, FAILED = 0, 2, 3  # exit statuses; any other is a bug or a signal
OUT_OF_MEMORY = ("out of memory", "outofmemory", "bad_alloc", "cannot allocate memory", "memory not enough", "memory isn't enough")
# Texts and error codes of CANN, which MindSpore passes on in a RuntimeError: a device that does not answer, or whose hardware failed.
# Source: error codes of https://github.com/hicann/runtime; texts as in https://github.com/vllm-project/vllm-ascend/issues/8186
LOST_DEVICE = re.compile(
    r"""lost\ heartbeat | \bEL0001\b    # device not found or invalid: it does not exist or is abnormal
    | \bE39009\b                      # failed to connect the device: its heartbeats are missing, or the channel is disconnected
    | (?:result|ret|code)(?:\ is)?[\ =:\[]*(?:
        107022                         # its tasks are aborted (aclrtDeviceTaskAbort; MindSpore's ForceStopError)
        | 507010                       # its task scheduler lost its heartbeat
        | 507033                       # it did not start
        | 507053 | 507054              # its memory has an error that cannot be corrected
        | 507056                       # the link between two devices is broken
        | 507899                       # internal error of the driver
        | 507901                       # the connection between host and device is closed
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


class WorkerRequest(Settings):
    """Request of the runner to a worker: the job, its store, devices and limits."""

    job: jobs.Job = Field(discriminator="kind")
    store: str
    devices: tuple[int, ...] = Field((0,), min_length=1, description="a job trains and evaluates on all of them")
    threads: int = Field(1, ge=1)
    checkpoint_seconds: float = Field(60.0, description="time between two checkpoints of a training")
    parent: int | None = Field(None, description="process that starts the worker, which dies with it")

    @property
    def ranks(self) -> int:
        """Count of the job's processes, one per device; measurements and supernets use one."""
        return 1 if self.job.kind in ("benchmark", "measure", "supernet", "paths") else len(self.devices)


def environment(request: WorkerRequest) -> dict[str, str]:
    """Environment variables that MindSpore and its libraries read on import."""
    devices = ",".join(map(str, request.devices[: request.ranks]))
    if request.job.device_target == "Ascend":
        return _of_threads(request.threads) | {"ASCEND_RT_VISIBLE_DEVICES": devices}
    if request.job.device_target == "GPU":
        return _of_threads(request.threads) | {"CUDA_VISIBLE_DEVICES": devices}
    return cpu_environment(request.threads)


def cpu_environment(threads: int) -> dict[str, str]:
    """Environment variables of jobs on the CPU with this number of threads."""
    return _of_threads(threads) | cpu_variables()


def _of_threads(count: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**dict.fromkeys(names, str(count)), "GLOG_v": "3", "PYTHONUNBUFFERED": "1"}


def out_of_memory(text: str) -> bool:
    """Whether a message of MindSpore, the C++ library or the system reports a failed memory allocation."""
    return any(words in text.lower() for words in OUT_OF_MEMORY)


def lost_device(text: str) -> bool:
    """Whether a message of MindSpore or CANN reports a lost device: on another one, or on the same after a reset, the job may succeed."""
    return LOST_DEVICE.search(text) is not None
