"""Trials that a run's front offers, which of them a text names, and what was trained of them to the end since."""

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from spnas_core.errors import UserError
from spnas_core.job import TrainJob, digest
from spnas_core.report.inputs import reopen_stage
from spnas_core.run.clocks import names_of_clocks, read_clock
from spnas_core.run.plan import Plan, inherited, short
from spnas_core.run.record import StageRecord
from spnas_core.run.register import FRONT_FILE
from spnas_core.search.clock import ClockLatency, DeviceClock, net_latency
from spnas_core.search.ledger import Trial, pareto_front, ranked
from spnas_core.settings.search import DEVICE_LATENCY, Objectives
from spnas_core.store.artifacts import Store

COUNTED_COSTS = ("params", "macs")
NO_CLOCKS: Mapping[str, DeviceClock] = MappingProxyType({})
MOST_SHOWN = 4  # nets that a line on a mistake names


def full_training(plan: Plan, trial: Trial) -> TrainJob:
    """Job that trains a net of the search to the end, as the final net of a run is trained."""
    return plan.train_net(trial.net, plan.settings.full_train, (inherited(trial),))


def front_trials(
    plan: Plan, stage: StageRecord, costs: Collection[str] = (), clocks: Mapping[str, DeviceClock] = NO_CLOCKS
) -> dict[int, Trial]:
    """Trials of the front, cheapest first, by their number in the ledger; UserError where no trial is ranked.

    Besides the objectives of the run, those of `costs` count that all ranked trials have, if need be by `clocks`.
    """
    own: Objectives = plan.settings.objectives if stage.name != "fine_tune" else plan.settings.objectives[:1]
    told = {name: clock for name, clock in clocks.items() if name in costs and name not in own}
    trials = {number: _with_latencies(plan, trial, told) for number, trial in enumerate(stage.ledger)}
    numbers = {id(trial): number for number, trial in trials.items()}
    standing = ranked(trials.values(), own)
    more = [name for name in dict.fromkeys(costs) if name not in own and all(name in (trial.metrics or {}) for trial in standing)]
    found = pareto_front(standing, (*own, *more))
    if not found:
        raise UserError(f"run {plan.settings.name}: expected at least one trial with an {own[0]}, got none: every candidate failed")
    return {numbers[id(one)]: stage.ledger[numbers[id(one)]] for one in found}


def all_fronts(plan: Plan, stage: StageRecord) -> dict[int, Trial]:
    """Trials of all fronts that `read_front` may show, whatever limits it is given."""
    clocks = clocks_of_store(plan.store)
    return front_trials(plan, stage) | front_trials(plan, stage, (*COUNTED_COSTS, *clocks), clocks)


def net_of_front(trials: Mapping[int, Trial], text: str, run: str) -> Trial:
    """Net of a front by its number, its text or architecture, or the beginning of its digest; UserError where none or several fit."""
    if text.isdecimal() and len(text) < 6:
        found = [trial for number, trial in trials.items() if number == int(text)]
    else:
        same = [one for one in trials.values() if text in (str(one.net), one.arch, short(one.arch, 200))]
        found = same or [one for one in trials.values() if len(text) > 3 and one.digest.startswith(text)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{number} {short(one.arch)}" for number, one in list(trials.items())[:MOST_SHOWN])
    more = f" and {len(trials) - MOST_SHOWN} more" if len(trials) > MOST_SHOWN else ""
    raise UserError(f"run {run}: expected a net of its front ({there}{more}), got {text!r}, which {len(found) or 'none'} of them is")


def model_of(store: Store, run: str, text: str) -> tuple[str, bool]:
    """Model folder of a net of a run's front, and whether its weights are those of a full training. UserError as `net_of_front`."""
    plan, stage = reopen_stage(store, run)
    trial = net_of_front(all_fronts(plan, stage), text, run)
    full = digest(full_training(plan, trial))
    trained = store.find("train", full) is not None
    return f"{store.local or store.url}/train/{full if trained else trial.digest}", trained


def note_trained(store: Store, run: str, digests: Sequence[str]) -> None:
    """Note full trainings of nets of a front with their run, so that its store keeps them."""
    store.write(f"runs/{run}/{FRONT_FILE}", json.dumps(sorted({*trained_nets(store, run), *digests}), indent=1).encode())


def trained_nets(store: Store, run: str) -> list[str]:
    """Digests of the full trainings that were noted with a run."""
    try:
        return [str(one) for one in json.loads(store.read(f"runs/{run}/{FRONT_FILE}"))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def clocks_of_store(store: Store) -> dict[str, DeviceClock]:
    """Clocks of all devices that were imported, by the names of their latencies."""
    return {f"{DEVICE_LATENCY}{name}": read_clock(store, name) for name in names_of_clocks(store)}


def latency_there(plan: Plan, trial: Trial, clock: DeviceClock) -> ClockLatency | None:
    """Latency of a net on another device; None where its clock says nothing of such nets."""
    with contextlib.suppress(UserError):
        return net_latency(clock, trial.net.arch, trial.net.detector(plan.settings.detector), plan.classes)
    return None


def _with_latencies(plan: Plan, trial: Trial, clocks: Mapping[str, DeviceClock]) -> Trial:
    told = {name: found.ms for name, clock in clocks.items() if trial.metrics and (found := latency_there(plan, trial, clock))}
    return replace(trial, metrics={**(trial.metrics or {}), **told}) if told else trial
