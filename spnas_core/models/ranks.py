"""Ranks: the processes of one job, one per device; the number of this one, and communication between them.

MindSpore manages the group: a process joins it once, before it builds a net. Without joining, a process is alone, and these functions have
no effect.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor, communication, nn, ops


@dataclass(frozen=True)
class Rank:
    """Number `number` of the `of` processes of a job."""

    number: int = 0
    of: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank reports, saves checkpoints and writes the artifact."""
        return self.number == 0

    @property
    def share(self) -> slice:
        """Slice of a batch or a list for this rank; the slices of all ranks cover it without overlap."""
        return slice(self.number, None, self.of)


def join_cluster() -> None:
    """Join the other ranks by the environment of `cluster.rank_variables`; the scheduler's process ends in here, after them."""
    communication.init()


def rank() -> Rank:
    """Rank of this process."""
    return Rank(communication.get_rank(), communication.get_group_size()) if communication.GlobalComm.INITED else Rank()


def gather_ranks(value: Any) -> list[Any]:
    """Collect a JSON value from every rank, in order; each rank waits here for the others."""
    if rank().of == 1:
        return [value]
    collect, words = ops.AllGather(), json.dumps(value).encode()
    sizes = collect(Tensor([len(words)])).asnumpy()
    size = (int(sizes.max()) + 3) // 4 * 4  # texts of one length, as whole int32, are what AllGather takes
    found = collect(Tensor(np.frombuffer(words.ljust(size), np.int32))).asnumpy()
    return [json.loads(text) for text in np.ascontiguousarray(found).view(f"S{size}").tolist()]


class RankSum(nn.Cell):
    """Sum over all ranks of a number that counts as a constant; alone, the number itself."""

    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce() if rank().of > 1 else None

    def construct(self, x: Tensor) -> Tensor:
        """Sum () of x ()."""
        return x if self.all_reduce is None else self.all_reduce(ops.stop_gradient(x))
