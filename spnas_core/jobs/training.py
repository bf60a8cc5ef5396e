"""Training loop of detectors and classifiers: epochs of steps, loss checks, progress events, periodic checkpoints.

A training resumed from its checkpoint ends with the same weights as an uninterrupted one: batches, noise and learning rate are functions of
(seed, step), and the checkpoint holds weights, statistics of norms, momenta and the step.
"""

import hashlib
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
from spnas_core.jobs.kept_weights import KeptWeights, is_exhausted
from spnas_core.jobs.progress import SHOWN_OF_EPOCH, JobContext
from spnas_core.jobs.timing import Stopwatch
from spnas_core.models.ranks import gather_ranks, rank
from spnas_core.models.step import TrainStep, get_weights, set_weights

StepInputs = tuple[npt.NDArray[Any], ...]
Losses = npt.NDArray[np.float32]
CHECKPOINT = "checkpoint.safetensors"
REPORT_SECONDS = 2.0


def run_epochs(
    step: TrainStep,
    batches: Callable[[int, int], Iterable[StepInputs]],
    rate: Callable[[int], float],
    epochs: int,
    steps: int,
    context: JobContext,
    score: Callable[[int], dict[str, Any]],
    kept: KeptWeights | None = None,
) -> list[dict[str, Any]]:
    """Train `epochs` epochs of `steps` steps, from the checkpoint of `context` if there is one; returns one record per epoch.

    `batches(epoch, first)` yields the net's inputs from step `first` of an epoch on, `rate(step)` returns the learning rate, `score(epoch)`
    returns entries for the epoch's record; it ends early where `kept` has a patience that they exhaust. JobError ``diverged`` at the first
    loss that is not finite, or at the end of an epoch if a weight or a statistic is not finite; ``killed`` when told to stop.
    """
    history, losses = load_checkpoint(step, context.resume / CHECKPOINT, kept)
    begun = saved = told = time.monotonic()
    before = len(history) * steps + len(losses)
    spent = history[-1]["seconds"] if history else 0.0
    watch = Stopwatch(history[-1].get("timing") if history else None)
    compiled = False
    context.report({"event": "resume", "done": before} if before else {"event": "compile"})

    def left(done: int) -> float:
        return round((time.monotonic() - begun) / max(1, done - before) * (epochs * steps - done), 1)

    def pause() -> None:
        nonlocal saved
        stopped = any(gather_ranks(context.stop.is_set()))  # all ranks stop at the same step, whichever was told first
        if rank().first and (stopped or time.monotonic() - saved > context.interval):
            save_checkpoint(step, history, losses, context.resume / CHECKPOINT, kept)
            context.report({"event": "checkpoint", "done": len(history) * steps + len(losses)})
            saved = time.monotonic()
        if stopped:
            gather_ranks(None)  # no rank ends before the checkpoint is written
            raise JobError("killed", f"stopped from outside after step {len(history) * steps + len(losses)} of {epochs * steps}")

    def is_over() -> bool:
        return kept is not None and is_exhausted([record[kept.name] for record in history if kept.name in record], kept.recipe.patience)

    for epoch in range(len(history), epochs):
        if is_over():
            break
        step.set_train()
        stream = watch.waiting("data", batches(epoch, len(losses)))
        for done, batch in enumerate(stream, start=epoch * steps + len(losses) + 1):
            with watch.during("steps" if compiled else "compile"):
                losses.append(step(Tensor(np.float32(rate(done - 1))), *map(Tensor, batch)).asnumpy())
            compiled = True
            if kept:
                kept.after_step(done)
            if not np.isfinite(losses[-1]).all():
                raise JobError("diverged", f"loss {losses[-1].tolist()} at step {done} of {epochs * steps}")
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                progress = {"epoch": epoch + 1, "epochs": epochs, "step": len(losses), "steps": steps}
                context.report({"event": "step", **progress, "loss": float(losses[-1].sum()), "seconds_left": left(done)})
            if len(losses) < steps:
                pause()
        check_state(step, f"after epoch {epoch + 1} of {epochs}")
        mean = np.mean(losses, axis=0)
        record = {"epoch": epoch + 1, "loss": float(mean.sum()), "losses": [round(float(loss), 5) for loss in mean]}
        with watch.during("evaluation"):
            record |= score(epoch)
        record |= {"seconds": round(spent + time.monotonic() - begun, 2), "timing": watch.seconds}
        history.append(record)
        losses.clear()
        if epoch + 1 < epochs:
            pause()
        shown: dict[str, Any] = {name: record[name] for name in SHOWN_OF_EPOCH if name in record}
        shown |= {"steps": steps, "timing": watch.seconds, "seconds_left": left((epoch + 1) * steps)}
        context.report({"event": "epoch", "epoch": epoch + 1, "epochs": epochs, **shown})
    return history


def check_state(step: TrainStep, when: str) -> None:
    """Raise JobError ``diverged`` for non-finite weights, statistics or momenta: a CPU ReLU turns NaN into 0, so losses may hide them.

    RuntimeError if they differ in any bit between ranks: from there on the ranks would train different nets.
    """
    together, digest = rank().of > 1, hashlib.sha256()
    for parameter in step.get_parameters():
        values = parameter.asnumpy()
        if not np.isfinite(values).all():
            raise JobError("diverged", f"{parameter.name} is not finite {when}")
        if together:
            digest.update(values.tobytes())
    if len(digests := set(gather_ranks(digest.hexdigest()))) > 1:
        raise RuntimeError(f"expected all ranks to have the same weights {when}, got {len(digests)} kinds")


def save_checkpoint(
    step: TrainStep, history: list[dict[str, Any]], losses: list[Losses], path: Path, kept: KeptWeights | None = None
) -> None:
    """Write weights, momenta, history, the losses of the unfinished epoch and what `kept` keeps to one file, atomically."""
    temporary = path.with_suffix(".partial")
    texts = {"history": history, "losses": [loss.tolist() for loss in losses]}
    more, text = kept.arrays() if kept else ({}, "")
    save_file(get_weights(step) | more, temporary, {"kept": text, **{name: json.dumps(value) for name, value in texts.items()}})
    temporary.replace(path)


def load_checkpoint(step: TrainStep, path: Path, kept: KeptWeights | None = None) -> tuple[list[dict[str, Any]], list[Losses]]:
    """Restore a checkpoint if there is one; returns its history and losses, else empty lists."""
    if not path.exists():
        return [], []
    with safetensors.safe_open(path, "numpy") as file:
        arrays, texts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - not a mapping
        set_weights(step, arrays)
        if kept and texts.get("kept"):
            kept.restore(arrays, texts["kept"])
    return json.loads(texts["history"]), [np.array(loss, np.float32) for loss in json.loads(texts["losses"])]
