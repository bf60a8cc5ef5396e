"""What each rank of `test_ranks.py` does, ``python rank_script.py FOLDER``, and what one process does to compare with."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from safetensors.numpy import save_file

from spnas_core.errors import JobError
from spnas_core.jobs import training
from spnas_core.jobs.progress import JobContext
from spnas_core.models import ranks
from spnas_core.models.blocks import Conv, ConvNorm, Norm
from spnas_core.models.step import TrainStep, get_weights

STEPS, EPOCHS, BATCH = 3, 4, 6


class Small(ConvNorm):
    """A convolution, a norm and a mean: a net whose step compiles at once."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        ms.set_seed(1)
        self.conv, self.bn = Conv(3, 4, 3), Norm(4, 1e-5, frozen)
        self.count = ranks.RankSum()

    def losses(self, x: Tensor, weight: Tensor) -> Tensor:
        """Weighted mean square distance (1,) of images (B, 3, 8, 8) from one; how many count differs from rank to rank."""
        distance = (self.apply_norm(self.conv, self.bn, x) - 1.0).pow(2).mean((1, 2, 3))
        return ((distance * weight).sum() / self.count(weight.sum())).reshape(1)


def batches(epoch: int, first: int, share: slice) -> Iterator[training.StepInputs]:
    for number in range(first, STEPS):
        rng = np.random.default_rng((epoch, number))
        x = rng.standard_normal((BATCH, 3, 8, 8)).astype(np.float32) * (1 + np.arange(BATCH, dtype=np.float32).reshape(-1, 1, 1, 1))
        weight = (np.arange(BATCH) % 3 < 1 + epoch % 2).astype(np.float32)
        yield x[share], weight[share]


def train(context: JobContext, frozen: bool, share: slice, stop_at: int | None = None) -> tuple[nn.Cell, list[dict[str, Any]]]:
    net = Small(frozen)
    step = TrainStep(net, 0.9, (1e-3,) * len(net.trainable_params()), 1.0)

    def stopping(epoch: int, first: int) -> Iterator[training.StepInputs]:
        for number, batch in enumerate(batches(epoch, first, share), start=epoch * STEPS + first):
            if number == stop_at:
                context.stop.set()
            yield batch

    return net, training.run_epochs(step, stopping, lambda n: 0.1 / (n + 1), EPOCHS, STEPS, context, lambda _: {})


def main(folder: Path) -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ranks.join_cluster()
    if os.environ["MS_ROLE"] == "MS_SCHED":
        return
    me = ranks.rank()
    found: dict[str, Any] = {"gathered": ranks.gather_ranks([me.number, "ü" * (1 + 5 * me.number)]), "nothing": ranks.gather_ranks(None)}
    for name, frozen in (("frozen", True), ("trained", False)):
        net, history = train(JobContext(lambda _: None, folder), frozen, me.share)
        save_file(get_weights(net), folder / f"{name}{me.number}.safetensors")
        found[name] = [record["loss"] for record in history]
    try:
        train(JobContext(lambda _: None, folder), True, me.share, 4 if me.number else None)
    except JobError as error:
        found["stopped"] = error.message
    net.conv.weight.set_data(net.conv.weight + me.number)
    try:
        training.check_state(TrainStep(net, 0.9, (0.0,) * 3, None), "after all")
    except RuntimeError as error:
        found["apart"] = str(error)
    (folder / f"found{me.number}.json").write_text(json.dumps(found))
    ranks.gather_ranks(None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # as the worker does
