"""The work of each task, by the head of a net."""

from spnas_core.jobs import detection, segmentation
from spnas_core.jobs.detection import TaskWork
from spnas_core.settings.detector import Detector
from spnas_core.settings.task import TaskName

_WORKS: dict[TaskName, TaskWork] = {"detection": detection.WORK, "segmentation": segmentation.SEGMENTATION_WORK}


def work_of(detector: Detector) -> TaskWork:
    """Work of the task that a net with these settings is for."""
    return _WORKS[detector.task.name]
