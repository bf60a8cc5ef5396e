"""Front of a run: what one may take from a search, each net with its costs, its AP and the interval of that, and what differences mean.

The front is that of the run's objectives, and of the costs that limits name where every ranked net has them: so of all nets of the run,
the best within the limits is on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from spnas_core.data.samples import Split
from spnas_core.errors import UserError
from spnas_core.job import digest
from spnas_core.names import DETECTIONS_FILE, WEIGHTS_FILE
from spnas_core.report.inputs import artifact_document, readable_split, reopen_stage
from spnas_core.report.intervals import Interval, ScoreDraws, interval, match_detections, score_draws
from spnas_core.report.offered import clocks_of_store, front_trials, full_training, latency_there
from spnas_core.run.plan import Plan, short
from spnas_core.run.record import StageRecord
from spnas_core.search.clock import DeviceClock
from spnas_core.search.ledger import Trial
from spnas_core.settings.task import DETECTION
from spnas_core.store.artifacts import Store
from spnas_core.store.manifest import Manifest

Limits = Mapping[str, float]  # most of a cost, by its name: params, macs, latency_ms, latency_ms@DEVICE


@dataclass(frozen=True)
class Scored:
    """AP of a net on val after one training, with its interval; `gain`: over the net before it on the front, after the same training.

    `train` is the digest of the training. Both are None where the detections or the data are not there any more.
    """

    train: str
    score: float
    ap: Interval | None = None
    gain: Interval | None = None


@dataclass(frozen=True)
class FrontNet:
    """One net of the front, by its number in the ledger; `costs` by name, as far as known; `full` is None until it was trained to the end.

    `size`: bytes of its weights. `predicted`: names of the costs that a fit says, instead of a measurement. `drawn`: the draws behind the
    intervals, of both trainings.
    """

    number: int
    trial: Trial
    costs: Mapping[str, float]
    size: int
    short: Scored
    full: Scored | None = None
    predicted: frozenset[str] = frozenset()
    drawn: tuple[ScoreDraws | None, ScoreDraws | None] = (None, None)

    @property
    def label(self) -> str:
        """Place in the search."""
        one = self.trial
        return f"{one.stage} r{one.round} c{one.index + 1}" if one.round else "start net"

    @property
    def title(self) -> str:
        """Architecture, shortened, with what else of the net was chosen."""
        return short(self.trial.arch, 60)

    @property
    def train(self) -> str:
        """Digest of the training whose weights one takes: the full one where there is one."""
        return self.full.train if self.full else self.short.train

    def within(self, limits: Limits) -> bool:
        """Whether all limited costs are known and within their limits."""
        return all(name in self.costs and self.costs[name] <= most for name, most in limits.items())


@dataclass(frozen=True)
class Recommendation:
    """Recommended net within limits, None where none is; `tie`: the cheapest within them from which it cannot be told apart."""

    limits: Limits
    net: FrontNet | None
    tie: FrontNet | None = None


@dataclass(frozen=True)
class Front:
    """Front of a run, cheapest first; `stage` is that up to which the run is finished, `no_data` why there are no intervals, if so."""

    plan: Plan
    stage: StageRecord
    nets: tuple[FrontNet, ...]
    no_data: str = ""

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return "final" in self.stage.results


def read_front(store: Store, name: str, data_url: str | None = None, limits: Sequence[Limits] = ()) -> Front:
    """Read the front of run `name` of a store, as far as it is finished; its data may have moved to `data_url`.

    UserError: no such run, no finished stage, other data, no ranked trial, or a limit for a cost that no net of the front has.
    """
    plan, stage = reopen_stage(store, name, data_url)
    clocks = clocks_of_store(store)
    trials = front_trials(plan, stage, [cost for one in limits for cost in one], clocks)
    if plan.settings.work is not DETECTION:
        raise UserError(f"run {name}: expected one of {DETECTION.name}, whose nets have intervals, got one of {plan.settings.task}")
    val, no_data = readable_split(plan.settings.work, plan.data, plan.data.val)
    annotations = val.annotations if isinstance(val, Split) else None
    nets = [_net(plan, number, trial, annotations, clocks) for number, trial in trials.items()]
    known = {cost for one in nets for cost in one.costs}
    for cost in dict.fromkeys(cost for one in limits for cost in one):
        if cost not in known:
            raise UserError(f"run {name}: expected a limit of {', '.join(sorted(known))}, got one of {cost}, which no net of the front has")
    return Front(plan, stage, tuple(_with_gains(nets)), no_data)


def recommend(front: Front, limits: Limits) -> Recommendation:
    """Choose the net with the highest score within limits: that of the search, or AP after full training where all within have one.

    Of equal scores the cheaper.
    """
    inside, first = [one for one in front.nets if one.within(limits)], front.plan.settings.objectives[0]
    if not inside:
        return Recommendation(limits, None)
    trained = all(one.full for one in inside)
    best = max(inside, key=lambda one: one.full.score if trained and one.full else one.trial.value(first))  # the first of equal ones
    ours = best.drawn[trained]
    others = ((one, one.drawn[trained]) for one in inside[: inside.index(best)])
    ties = (one for one, theirs in others if ours and theirs and not interval(ours, theirs).means_something)
    return Recommendation(limits, best, next(ties, None))


def _net(plan: Plan, number: int, trial: Trial, annotations: dict[str, Any] | None, clocks: Mapping[str, DeviceClock]) -> FrontNet:
    metrics, store = trial.metrics or {}, plan.store
    costs: dict[str, float] = {name: float(metrics[name]) for name in ("params", "macs", "latency_ms") if name in metrics}
    measured = store.manifest(f"benchmark/{digest(plan.benchmark(trial.net))}")
    if isinstance(measured, Manifest):
        costs["latency_ms"] = plan.measured(measured)[0]["latency_ms"]
    told = {name: found for name, clock in clocks.items() if (found := latency_there(plan, trial, clock))}
    costs |= {name: found.ms for name, found in told.items()}
    manifest, full = (store.manifest(f"train/{one}") for one in (trial.digest, digest(full_training(plan, trial))))
    short_draws, full_draws = _draws(plan, manifest, annotations), _draws(plan, full, annotations)
    weights = manifest.files.get(WEIGHTS_FILE) if isinstance(manifest, Manifest) else None
    return FrontNet(
        number,
        trial,
        costs,
        weights.size if weights else 4 * int(costs["params"]),
        Scored(trial.digest, float(metrics["AP"]), interval(short_draws) if short_draws else None),
        Scored(full.digest, float(full.metrics["AP"]), interval(full_draws) if full_draws else None)
        if isinstance(full, Manifest)
        else None,
        predicted=frozenset(name for name, found in told.items() if not found.measured),
        drawn=(short_draws, full_draws),
    )


def _draws(plan: Plan, manifest: Manifest | str | None, annotations: dict[str, Any] | None) -> ScoreDraws | None:
    results = artifact_document(plan.store, manifest, DETECTIONS_FILE) if annotations and isinstance(manifest, Manifest) else None
    return score_draws(match_detections(annotations, results)) if annotations and results is not None else None


def _with_gains(nets: Sequence[FrontNet]) -> list[FrontNet]:
    """Add to each net its differences to the one before it."""
    found = list(nets[:1])
    for before, one in pairwise(nets):
        pairs = [interval(ours, theirs) if ours and theirs else None for ours, theirs in zip(one.drawn, before.drawn, strict=True)]
        full = replace(one.full, gain=pairs[1]) if one.full else None
        found.append(replace(one, short=replace(one.short, gain=pairs[0]), full=full))
    return found
