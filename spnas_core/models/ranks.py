"""The processes that do one job together, one per device: which one this is, and what they tell each other.

MindSpore keeps the group: a process joins it once, before it builds a net. One that has not joined is alone, and all of this does nothing.
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
        """Whether this is the one that reports, saves checkpoints and leaves the artifact."""
        return self.number == 0

    @property
    def share(self) -> slice:
        """Its part of a batch or a list; the parts of all ranks are the whole, without overlap."""
        return slice(self.number, None, self.of)


def join_cluster() -> None:
    """Meet the other processes, as the variables of `cluster.variables` say; a scheduler's process ends here when they have ended."""
    communication.init()


def rank() -> Rank:
    """Which one this process is."""
    return Rank(communication.get_rank(), communication.get_group_size()) if communication.GlobalComm.INITED else Rank()


def gather_ranks(value: Any) -> list[Any]:
    """Give the value, anything that JSON holds, of every rank, in their order; each waits here for the others."""
    if rank().of == 1:
        return [value]
    collect, words = ops.AllGather(), json.dumps(value).encode()
    sizes = collect(Tensor([len(words)])).asnumpy()
    size = (int(sizes.max()) + 3) // 4 * 4  # texts of one length, as whole int32, are what AllGather takes
    found = collect(Tensor(np.frombuffer(words.ljust(size), np.int32))).asnumpy()
    return [json.loads(text) for text in np.ascontiguousarray(found).view(f"S{size}").tolist()]


class RankSum(nn.Cell):
    """Add up over all ranks a number that counts as a constant; alone, it is the number."""

    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce() if rank().of > 1 else None

    def construct(self, x: Tensor) -> Tensor:
        """Sum () of x ()."""
        return x if self.all_reduce is None else self.all_reduce(ops.stop_gradient(x))
