"""The loop that detectors and classifiers share: epochs of steps, losses checked, progress reported, a checkpoint now and then.

A training that goes on from its checkpoint ends with the weights of one that ran through: batches, noise and learning rate are
functions of (seed, step), and the checkpoint holds weights, statistics of norms and momenta.
"""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
from mindspore import Tensor
from safetensors.numpy import save_file

from spnas_core.errors import JobError
from spnas_core.models.step import TrainStep, get_weights, set_weights

Report = Callable[[dict[str, Any]], None]
Arrays = tuple[npt.NDArray[Any], ...]
CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS, REPORT_SECONDS = 30.0, 2.0


def run_epochs(
    step: TrainStep,
    batches: Callable[[int], Iterable[Arrays]],
    rate: Callable[[int], float],
    epochs: int,
    steps: int,
    report: Report,
    resume: Path,
    score: Callable[[int], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Train `epochs` of `steps` batches, from the checkpoint in `resume` where there is one; returns one record per epoch.

    `batches(epoch)` gives an epoch's inputs of the net, `rate(step)` the learning rate, `score(epoch)` what to add to the epoch's record.
    JobError ``diverged`` at the first loss that is not finite, or after an epoch that leaves a weight or a statistic so.
    """
    history = load_checkpoint(step, resume / CHECKPOINT)
    begun = saved = told = time.monotonic()
    first = len(history)
    spent = history[-1]["seconds"] if history else 0.0
    if first == 0:
        report({"event": "compile"})
    for epoch in range(first, epochs):
        step.set_train()
        losses = []
        for number, batch in enumerate(batches(epoch), start=epoch * steps):
            losses.append(step(Tensor(np.float32(rate(number))), *map(Tensor, batch)).asnumpy())
            if not np.isfinite(losses[-1]).all():
                raise JobError("diverged", f"loss {losses[-1].tolist()} at step {number + 1} of {epochs * steps}")
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                left = (told - begun) / (number + 1 - first * steps) * (epochs * steps - number - 1)
                progress = {"epoch": epoch + 1, "epochs": epochs, "step": number + 1 - epoch * steps, "steps": steps}
                report({"event": "step", **progress, "loss": float(losses[-1].sum()), "seconds_left": round(left, 1)})
        check_finite(step, f"after epoch {epoch + 1} of {epochs}")
        mean = np.mean(losses, axis=0)
        record = {"epoch": epoch + 1, "loss": float(mean.sum()), "losses": [round(float(loss), 5) for loss in mean], **score(epoch)}
        record["seconds"] = round(spent + time.monotonic() - begun, 2)
        history.append(record)
        if epoch + 1 < epochs and time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_checkpoint(step, history, resume / CHECKPOINT)
            saved = time.monotonic()
        left = (time.monotonic() - begun) / (epoch + 1 - first) * (epochs - epoch - 1)
        shown: dict[str, Any] = {name: record[name] for name in ("loss", "AP", "AP50", "top1") if name in record}
        report({"event": "epoch", "epoch": epoch + 1, "epochs": epochs, **shown, "seconds_left": round(left, 1)})
    return history


def check_finite(step: TrainStep, when: str) -> None:
    """Refuse weights, statistics and momenta that are not finite: a ReLU on the CPU makes zeros of NaN, so losses need not show it."""
    for parameter in step.get_parameters():
        if not np.isfinite(parameter.asnumpy()).all():
            raise JobError("diverged", f"{parameter.name} is not finite {when}")


def save_checkpoint(step: TrainStep, history: list[dict[str, Any]], path: Path) -> None:
    """Write weights, momenta and history to one file, complete or not at all."""
    temporary = path.with_suffix(".partial")
    save_file(get_weights(step), temporary, {"history": json.dumps(history)})
    temporary.replace(path)


def load_checkpoint(step: TrainStep, path: Path) -> list[dict[str, Any]]:
    """Put a checkpoint back where there is one; returns its history, else an empty list."""
    if not path.exists():
        return []
    with safetensors.safe_open(path, "numpy") as file:
        set_weights(step, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - it is no mapping
        history: list[dict[str, Any]] = json.loads(file.metadata()["history"])
        return history
