"""Differences of the final net to the nets that it is compared with, and whether they mean something."""

from typing import NamedTuple

from spnas_core.data.samples import Split
from spnas_core.report.inputs import ReportInputs
from spnas_core.report.intervals import Interval, MatchedDetections, difference, match_detections
from spnas_core.run.plan import ScoredSplit


class Comparison(NamedTuple):
    """Final net minus another net, on one split, in AP."""

    net: str
    split: ScoredSplit
    interval: Interval

    @property
    def words(self) -> str:
        """One sentence for a report."""
        gain, low, high, _ = (100 * value for value in self.interval)
        verdict = ("ahead of" if self.interval.mean > 0 else "behind") if self.interval.means_something else "a tie with"
        name = {"start": "the start net by the same recipe", "start, equal epochs": "the start net at equal epochs"}.get(self.net, self.net)
        return f"On {self.split}: {verdict} {name}, {gain:+.1f} AP (95 % interval over the images {low:+.1f} to {high:+.1f})."


class Gain(NamedTuple):
    """Gain of a candidate over its parent trained on by the same recipe and seed, on val, in AP."""

    number: int
    interval: Interval


MOST_GAINS = 24  # the newest candidates


def gains(inputs: ReportInputs) -> list[Gain]:
    """Gains of the newest candidates whose parents were trained on beside them, paired over the images of val."""
    compared = [(n, trial) for n, trial in enumerate(inputs.stage.ledger) if trial.controls and trial.rung is None][-MOST_GAINS:]
    if inputs.val is None:
        return []
    matched: dict[str, MatchedDetections | None] = {}
    for digest in {name for _, trial in compared for name in (trial.digest, trial.controls[0])}:
        results = inputs.detections_of(digest)
        matched[digest] = None if results is None else match_detections(inputs.val.annotations, results)
    pairs = ((number, matched[trial.digest], matched[trial.controls[0]]) for number, trial in compared)
    return [Gain(number, difference(ours, theirs)) for number, ours, theirs in pairs if ours and theirs]


def comparisons(inputs: ReportInputs) -> list[Comparison]:
    """Compare the final net with the others that were trained to the end, on each split whose images and detections there are."""
    splits: dict[ScoredSplit, Split | None] = {"val": inputs.val, "test": inputs.test}
    found = []
    for split, opened in splits.items():
        names = [name for name, place in inputs.outputs if place == split]
        if opened is None or "final" not in names:
            continue
        matched = {name: match_detections(opened.annotations, inputs.outputs[name, split]) for name in names}
        found += [Comparison(name, split, difference(matched["final"], matched[name])) for name in names if name != "final"]
    return found
