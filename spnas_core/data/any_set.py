"""The data set of a task, in any layout: boxes (`splits.py`) or masks (`masks/mask_set.py`)."""

from spnas_core.data.masks.mask_samples import MaskSplit
from spnas_core.data.masks.mask_set import MaskSet
from spnas_core.data.samples import Split
from spnas_core.data.splits import DataSet
from spnas_core.settings.reading import Reading
from spnas_core.settings.task import SEGMENTATION, Task
from spnas_core.store.artifacts import Store

AnySet = DataSet | MaskSet
AnySplit = Split | MaskSplit


def open_set(task: Task, url: str, reading: Reading | None = None, strict: bool = False, store: Store | None = None) -> AnySet:
    """Open the data set at `url`; a `store` has indexes of large annotation files."""
    return MaskSet(url, reading, strict) if task is SEGMENTATION else DataSet(url, reading, strict, store=store)
