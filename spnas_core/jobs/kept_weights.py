"""Weights that a training evaluates and leaves: the last ones, their moving average, or those of the best evaluation.

The average is exponential and counts from its first snapshot on, as Adam's moments do (Kingma and Ba, ICLR 2015, section 3), so that it
does not lean towards the initial weights. Statistics of norms are averaged too. All of it is in the checkpoints of the training.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mindspore import nn

from spnas_core.models.step import get_weights, set_weights
from spnas_core.settings.task import DETECTION
from spnas_core.settings.training import Recipe
from spnas_core.weights.tensor_names import Arrays

SNAPSHOT_STEPS = 8  # steps between two snapshots of the average: a copy of all weights costs a tenth of a small step
_AVERAGE, _BEST = "average:", "best:"  # prefixes of tensors in a checkpoint


class KeptWeights:
    """The weights of `net` that a training by `recipe` keeps; `name`: of the score by which evaluations are compared."""

    def __init__(self, net: nn.Cell, recipe: Recipe, name: str = DETECTION.score) -> None:
        self.net, self.recipe, self.name = net, recipe, name
        self._sum: Arrays = {}  # of the snapshots, each times its share
        self._snapshots = 0
        self._best: Arrays = {}
        self._best_score = self._last_score = -1.0

    def after_step(self, done: int) -> None:
        """Take a snapshot, if it is time for one; `done` steps are done."""
        if not self.recipe.ema or done % SNAPSHOT_STEPS:
            return
        decay = np.float32(self.recipe.ema**SNAPSHOT_STEPS)
        now = get_weights(self.net)
        self._sum = {name: self._sum.get(name, np.float32(0)) * decay + array * (1 - decay) for name, array in now.items()}
        self._snapshots += 1

    def now(self) -> Arrays:
        """Weights to evaluate: the average, or the present ones where there is none yet."""
        if not self._snapshots:
            return get_weights(self.net)
        share = np.float32(1 - self.recipe.ema ** (SNAPSHOT_STEPS * self._snapshots))
        return {name: array / share for name, array in self._sum.items()}

    @contextmanager
    def in_net(self) -> Iterator[None]:
        """Have these weights in the net during a `with` block."""
        if not self._snapshots:
            yield
            return
        trained = get_weights(self.net)
        set_weights(self.net, self.now())
        try:
            yield
        finally:
            set_weights(self.net, trained)

    def offer(self, score: float) -> None:
        """Keep the weights that were evaluated with `score`, if none before were better."""
        self._last_score = score
        if self.recipe.keep_best and score > self._best_score:
            self._best, self._best_score = self.now(), score

    @property
    def has_better(self) -> bool:
        """Whether an earlier evaluation was better than the last that was offered."""
        return bool(self._best) and self._last_score < self._best_score

    def last(self) -> Arrays:
        """Weights that the training leaves."""
        return self._best or self.now()

    def arrays(self) -> tuple[Arrays, str]:
        """All that is kept, for a checkpoint: tensors, and the rest as text."""
        found = {_AVERAGE + name: array for name, array in self._sum.items()} | {_BEST + name: array for name, array in self._best.items()}
        return found, json.dumps({"snapshots": self._snapshots, "best_score": self._best_score})

    def restore(self, arrays: Arrays, text: str) -> None:
        """Take over what `arrays` gave."""
        self._sum, self._best = (
            {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)} for prefix in (_AVERAGE, _BEST)
        )
        found = json.loads(text)
        self._snapshots, self._best_score = found["snapshots"], found["best_score"]


def is_exhausted(scores: list[float], patience: int) -> bool:
    """Whether the last `patience` evaluations of `scores` brought none better than those before; never with a patience of 0."""
    return bool(patience) and len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])
