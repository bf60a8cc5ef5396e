"""The smallest detector that tests train, and what befalls its jobs; jobs that differ in numbers alone share their compiled graphs."""

import os
import signal
from collections.abc import Callable
from typing import Any

from flows import presets
from spnas_core.settings.detector import Detector
from spnas_core.settings.task import TaskName

SIZES: dict[str, Any] = {
    "image_size": (64, 64), "base_width": 4, "fpn_channels": 8, "head_channels": 16, "anchor_scale": 4, "rpn_batch": 16,
    "proposals_train": 20, "proposals_test": 10, "roi_batch": 8, "max_boxes": 8, "detections": 10,
}  # fmt: skip
SMOKE = presets.load_preset("smoke").detector  # of these sizes
SMALL = Detector(**SIZES, stem="3x3")


def smoke_document(task: TaskName = "detection") -> dict[str, Any]:
    """The smoke preset as a document, or the same search for the other task."""
    whole = presets.load_preset("smoke").model_dump(mode="json")
    if task == "segmentation":
        detector = {**whole["detector"], "image_size": [32, 32], "head": {"channels": 8, "auxiliary": "dice"}}
        whole |= {"name": "masks", "task": task, "objectives": ["mIoU", "macs"], "detector": detector}
    return whole


def sigterm_at_epoch(number: int) -> Callable[[dict[str, Any]], None]:
    """What follows a job, and sends its worker SIGTERM at the end of an epoch."""
    pids: list[int] = []

    def follow(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            pids.append(event["pid"])
        if event["event"] == "epoch" and event["epoch"] == number:
            os.kill(pids[0], signal.SIGTERM)

    return follow
