"""What a net is for, as a value: names that the search and the report need. jobs/detection.py does the work of the first task."""

from dataclasses import dataclass
from typing import Literal

Score = Literal["AP", "AP50"]


@dataclass(frozen=True)
class Task:
    """A task: its name, the score that it maximises, and the scores that may be the first objective of a run."""

    name: str
    score: Score
    scores: tuple[Score, ...]


DETECTION = Task("detection", "AP", ("AP", "AP50"))
