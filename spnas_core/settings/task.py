"""What a net is for, as a value: names that the search and the report need.

`jobs/detection.py` and `jobs/segmentation.py` do the work of the tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

TaskName = Literal["detection", "segmentation"]
Score = Literal["AP", "AP50", "mIoU", "pixel_accuracy"]
MEAN_OF = "mean_"  # before the name of a score in metrics: its mean after the last epochs of a training


@dataclass(frozen=True)
class Task:
    """A task: its name, the score that tables and pictures show, the scores that may be the first objective of a run, all its metrics.

    `shown`: metrics in tables of nets, by their titles; `of_class`: those of each class. A run ranks its trials by its `objectives`
    (settings/search.py), of which the first is one of `scores`.
    """

    name: TaskName
    score: Score
    scores: tuple[Score, ...]
    stats: tuple[str, ...]
    shown: Mapping[str, str]
    of_class: tuple[str, ...]

    def title(self, metric: str) -> str:
        """Title of one of the shown metrics."""
        return next(title for title, name in self.shown.items() if name == metric)


DETECTION = Task(
    "detection",
    "AP",
    ("AP", "AP50"),
    ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
    {"AP": "AP", "AP50": "AP50", "AP small": "AP_small", "AP medium": "AP_medium", "AP large": "AP_large"},
    ("AP", "AP50"),
)
SEGMENTATION = Task(
    "segmentation",
    "mIoU",
    ("mIoU", "pixel_accuracy"),
    ("mIoU", "pixel_accuracy", "mean_accuracy", "boundary_F"),
    {"mIoU": "mIoU", "pixel accuracy": "pixel_accuracy", "mean accuracy": "mean_accuracy", "boundary F": "boundary_F"},
    ("IoU", "accuracy"),
)
TASKS: dict[TaskName, Task] = {task.name: task for task in (DETECTION, SEGMENTATION)}


def task_of_metrics(metrics: Mapping[str, Any]) -> Task:
    """Task that metrics are of: that whose score is among them; detection where none is."""
    return next((task for task in TASKS.values() if task.score in metrics), DETECTION)
