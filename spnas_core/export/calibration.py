"""Images of a data set by which the ranges of a network in INT8 are found."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from spnas_core.data.any_set import open_set
from spnas_core.data.images import Floats
from spnas_core.errors import UserError
from spnas_core.jobs.works import work_of
from spnas_core.settings.reading import Reading
from spnas_core.weights.model_folder import Model


@dataclass(frozen=True)
class Calibration:
    """`images` of the split `split` of the data set at `data`, the same ones every time: at equal distances in the order of the split."""

    images: int
    data: str
    split: str = "train"
    reading: Reading = field(default_factory=Reading)

    def inputs(self, card: Model) -> Iterator[tuple[Floats, Floats]]:
        """Yield a network's inputs (1, 3, H, W) and (1, 2) of each image; UserError if the split has fewer."""
        task, reading = card.detector.task, self.reading.model_copy(update={"bits": card.bits})
        split: Any = open_set(task, self.data, reading).split(self.split)
        count = len(split.samples)
        if count < self.images:
            raise UserError(f"--int8: expected at most {count} images, as many as the split {self.split} has, got {self.images}")
        rows = np.linspace(0, count - 1, self.images).round().astype(int).tolist()
        samples: Any = [replace(split.samples[row], image_id=place) for place, row in enumerate(rows)]
        chosen = replace(split, samples=samples)
        return ((batch.images, batch.image_hw) for batch in work_of(card.detector).eval_batches(chosen, card.detector, 1, None))

    def facts(self) -> dict[str, Any]:
        """Give what model.json says of it."""
        return {"images": self.images, "split": self.split}
