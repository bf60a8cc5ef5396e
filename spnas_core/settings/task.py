"""What a net is for, as a value: names that the search and the report need. jobs/detection.py does the work of the first task."""

from dataclasses import dataclass
from typing import Literal

Score = Literal["AP", "AP50"]
MEAN_OF = "mean_"  # before the name of a score in metrics: its mean after the last epochs of a training


@dataclass(frozen=True)
class Task:
    """A task: its name, the score that tables and pictures show, and the scores that may be the first objective of a run.

    A run ranks its trials by its `objectives` (settings/search.py), of which the first is one of `scores`.
    """

    name: str
    score: Score
    scores: tuple[Score, ...]


DETECTION = Task("detection", "AP", ("AP", "AP50"))
