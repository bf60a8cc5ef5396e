"""What a runner asks of a worker, the environment that goes with it, and how the worker's end is read."""

from pydantic import Field

from spnas_core import job as jobs
from spnas_core.settings import Settings

DONE, BAD_INPUT, FAILED = 0, 2, 3  # exit statuses; anything else is a bug or a death
OUT_OF_MEMORY = ("out of memory", "outofmemory", "bad_alloc", "cannot allocate memory", "memory not enough", "memory isn't enough")


class Order(Settings):
    """What the runner asks of a worker."""

    job: jobs.Job = Field(discriminator="kind")
    store: str
    devices: tuple[int, ...] = Field((0,), min_length=1, description="a job trains and evaluates on all of them")
    threads: int = Field(1, ge=1)
    checkpoint_seconds: float = Field(60.0, description="time between two checkpoints of a training")
    parent: int | None = Field(None, description="process id of the runner: the worker dies with it")

    @property
    def ranks(self) -> int:
        """Processes that do the job, one per device; what is measured is measured on one."""
        return 1 if self.job.kind in ("benchmark", "measure") else len(self.devices)


def environment(order: Order) -> dict[str, str]:
    """Variables that MindSpore and its libraries read when they are loaded."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    found = {**dict.fromkeys(names, str(order.threads)), "GLOG_v": "3", "PYTHONUNBUFFERED": "1"}
    devices = ",".join(map(str, order.devices[: order.ranks]))
    if order.job.device_target == "Ascend":
        found["ASCEND_RT_VISIBLE_DEVICES"] = devices
    if order.job.device_target == "GPU":
        found["CUDA_VISIBLE_DEVICES"] = devices
    return found


def out_of_memory(text: str) -> bool:
    """Whether a message of MindSpore, the C++ library or the system speaks of memory that could not be had."""
    return any(words in text.lower() for words in OUT_OF_MEMORY)
