"""Differences of the final net to the nets that it is compared with, and whether they mean something."""

from typing import Any, NamedTuple

from spnas_core.data.any_set import AnySplit
from spnas_core.data.samples import Split
from spnas_core.report.inputs import ReportInputs
from spnas_core.report.intervals import Interval, ScoreDraws, interval, match_detections, score_draws
from spnas_core.report.pixels import mask_draws
from spnas_core.run.plan import EQUAL, START, ScoredSplit

START_NETS = {START: "by the same recipe", EQUAL: "at equal epochs"}  # how the start net was trained that the final one is compared with


class Comparison(NamedTuple):
    """Final net minus another net, on one split, in AP or the task's other `score`."""

    net: str
    split: ScoredSplit
    interval: Interval
    score: str = "AP"

    @property
    def words(self) -> str:
        """One sentence for a report."""
        gain, low, high, _ = (100 * value for value in self.interval)
        verdict = ("ahead of" if self.interval.mean > 0 else "behind") if self.interval.means_something else "a tie with"
        name = f"the start net {START_NETS[self.net]}" if self.net in START_NETS else self.net
        return f"On {self.split}: {verdict} {name}, {gain:+.1f} {self.score} (95 % interval over the images {low:+.1f} to {high:+.1f})."


class Gain(NamedTuple):
    """Gain of a candidate over its parent trained on by the same recipe and seed, on val, in the task's score."""

    number: int
    interval: Interval


MOST_GAINS = 24  # the newest candidates


def gains(inputs: ReportInputs) -> list[Gain]:
    """Gains of the newest candidates whose parents were trained on beside them, paired over the images of val."""
    compared = [(n, trial) for n, trial in enumerate(inputs.stage.ledger) if trial.controls and trial.rung is None][-MOST_GAINS:]
    if inputs.val is None:
        return []
    matched: dict[str, ScoreDraws | None] = {}
    for digest in {name for _, trial in compared for name in (trial.digest, trial.controls[0])}:
        outputs = inputs.outputs_of(digest)
        matched[digest] = None if outputs is None else draws_on(inputs.val, outputs)
    pairs = ((number, matched[trial.digest], matched[trial.controls[0]]) for number, trial in compared)
    return [Gain(number, interval(ours, theirs)) for number, ours, theirs in pairs if ours and theirs]


def draws_on(split: AnySplit, outputs: Any) -> ScoreDraws:
    """Score a net, AP or mIoU, on draws of the images of a split, the same for all nets, by its outputs there."""
    return score_draws(match_detections(split.annotations, outputs)) if isinstance(split, Split) else mask_draws(outputs)


def comparisons(inputs: ReportInputs) -> list[Comparison]:
    """Compare the final net with the others that were trained to the end, on each split whose images and detections there are."""
    splits: dict[ScoredSplit, AnySplit | None] = {"val": inputs.val, "test": inputs.test}
    found = []
    for split, opened in splits.items():
        names = [name for name, place in inputs.outputs if place == split]
        if opened is None or "final" not in names:
            continue
        matched = {name: draws_on(opened, inputs.outputs[name, split]) for name in names}
        score = inputs.plan.settings.work.score
        found += [Comparison(name, split, interval(matched["final"], matched[name]), score) for name in names if name != "final"]
    return found
