"""Course of a search: what its next round follows from, kept up as rounds end, so that a round costs no more the longer the search is."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby

import numpy as np

from spnas_core.search.ledger import Trial, first_best, has_scores, ranked, winner
from spnas_core.search.pareto import Point, dominates
from spnas_core.settings.search import OBJECTIVES, Objectives


class Course:
    """Start net and serial rounds of a ledger; parallel trials do not count. It is a function of these trials alone.

    `tried` are the identities of all nets that were tried, `reignitions` the serial rounds after which the search reignites, at most
    `max_reignite`, with the best net that was not reignited before.
    """

    def __init__(self, trials: Iterable[Trial] = (), n_stuck: int = 1, max_reignite: int = 0, objectives: Objectives = OBJECTIVES) -> None:
        self.tried, self.reignitions = set[Hashable](), dict[int, Trial]()
        self._n_stuck, self._max_reignite, self._objectives = n_stuck, max_reignite, objectives
        self._ranked, self._points = list[Trial](), np.empty((0, len(objectives)))
        self._front: list[Point] = []
        self._last, self._gain = 0, -1  # last round, and the last that gained
        serial = sorted((trial for trial in trials if trial.stage != "parallel"), key=lambda trial: trial.round)
        for _, those in groupby(serial, key=lambda trial: trial.round):
            self.add(list(those))

    def add(self, trials: Sequence[Trial]) -> None:
        """Add the trials of the next round."""
        if not trials:
            return
        self._last = trials[0].round
        self.tried |= {trial.net.identity for trial in trials}
        new = ranked(trials, self._objectives)
        points = [trial.point(self._objectives) for trial in new]
        gains = [
            point for trial, point in zip(new, points, strict=True) if has_scores(trial, self._objectives) and not self._equalled(point)
        ]
        if gains:
            self._gain = self._last
        for point in points:
            if not self._equalled(point):
                self._front = [one for one in self._front if not dominates(point, one)] + [point]
        if new:
            self._ranked += new
            self._points = np.concatenate([self._points, np.array(points, np.float64)])
        if len(self.reignitions) < self._max_reignite and self.is_stuck(self._n_stuck, max(self.reignitions, default=0)):
            left = [trial for trial in self._ranked if trial not in self.reignitions.values()]
            if left:
                self.reignitions[self._last] = winner(left, self._objectives)

    def is_stuck(self, n_stuck: int, since: int = 0) -> bool:
        """Whether the last `n_stuck` serial rounds, all after round `since`, gained no hyper-volume.

        That is, whether an earlier trial equals or dominates each of theirs, or theirs has a score of 0; no volume has to be computed.
        """
        return self._last - since >= n_stuck and bool(self._ranked) and self._gain <= self._last - n_stuck

    def best(self, n: int) -> list[tuple[int, Trial]]:
        """Return the `n` best trials with their Pareto ranks, as `ranked_best` does."""
        return first_best(self._ranked, self._points, n, self._objectives)

    def last(self, n: int) -> list[Trial]:
        """Return the last `n` ranked trials, in the order of the search."""
        return self._ranked[-n:]

    def _equalled(self, point: Point) -> bool:
        """Whether a trial so far equals or dominates a point."""
        return any(one == point or dominates(one, point) for one in self._front)


def reignitions(ledger: Iterable[Trial], n_stuck: int, max_reignite: int, objectives: Objectives = OBJECTIVES) -> dict[int, Trial]:
    """Return the serial rounds after which the search reignites, at most `max_reignite`, with the best net not yet reignited."""
    return Course(ledger, n_stuck, max_reignite, objectives).reignitions
