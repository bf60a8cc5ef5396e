"""Table of the rounds of a search: trials, failures, hyper-volume, reignitions; derived from the ledger."""

from collections import defaultdict
from typing import Any

from spnas_core.search.course import reignitions
from spnas_core.search.ledger import Ledger, Trial, volumes
from spnas_core.settings.run import Run

_COLUMNS = ("stage", "round", "trials", "failed", "stopped", "hypervolume", "reignited")


def rounds(ledger: Ledger, settings: Run) -> list[dict[str, Any]]:
    """One entry per round: counts of trials, failures and stops at a rung, the hyper-volume after it, and the net reignited then."""
    serial, found = settings.serial, []
    most = serial.max_reignite if serial.evaluator == "train" else 0
    reignited = reignitions(ledger, serial.n_stuck, most, settings.objectives)
    groups: dict[tuple[str, int], list[Trial]] = defaultdict(list)
    for trial in ledger:
        groups[trial.stage, trial.round].append(trial)
    for (stage, number), volume in volumes(ledger, settings.objectives).items():
        trials = groups[stage, number]
        failed, stopped = sum(bool(t.failure) for t in trials), sum(bool(t.rung and not t.failure) for t in trials)
        then = reignited.get(number) if stage == "serial" and number < serial.rounds else None  # none after the last round
        values = (stage, number, len(trials), failed, stopped, volume, then.arch if then else None)
        found.append(dict(zip(_COLUMNS, values, strict=True)))
    return found


def rounds_md(ledger: Ledger, settings: Run) -> str:
    """Return the rounds as a Markdown table."""
    title = (
        f"Hyper-volume of {', '.join(settings.objectives)} after each round, as a share of the box from the highest costs of all trials "
        f"to {settings.objectives[0]} 1 (in the log: of the trials until then):"
    )
    cells = [one | {"hypervolume": f"{one['hypervolume']:.4f}", "reignited": one["reignited"] or ""} for one in rounds(ledger, settings)]
    lines = [_COLUMNS, ("---", *["---:"] * 5, "---"), *(one.values() for one in cells)]
    return f"{title}\n\n" + "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
