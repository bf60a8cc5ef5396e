"""Ancestry of the trials of a ledger, as a tree: each child's edits to its parent, and its gain."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from spnas_core.arch import Arch, blocks
from spnas_core.cost import Cost
from spnas_core.necks import CellNeck, taps_of
from spnas_core.necks.nas_fpn import NasFpn
from spnas_core.report.inputs import ReportInputs, Training
from spnas_core.report.pyramids import cell_edits
from spnas_core.search.ledger import Trial, pareto_front
from spnas_core.settings.detector import Detector, TwoStageHead
from spnas_core.weights.lineage import lineage

EditKind = Literal[
    "swap", "expand", "shrink", "add stage", "move double", "change type", "inner width", "base width", "image size", "neck channels",
    "cells", "head", "neck", "proposals", "parallel", "taps", "stem", "reignite",
]  # fmt: skip
TrialState = Literal["front", "trained", "stopped", "failed"]


class Edit(NamedTuple):
    """One change of a parent, with its wording."""

    kind: EditKind
    words: str


@dataclass(frozen=True)
class TrialEntry:
    """One trial for display: `number` counts along the ledger; the cost is that of its whole detector, even if it failed.

    State: on the Pareto front, trained to the end of its training, stopped at a rung, or failed.
    """

    number: int
    trial: Trial
    state: TrialState
    cost: Cost
    parent: "TrialEntry | None"
    edits: tuple[Edit, ...]
    training: Training

    @property
    def name(self) -> str:
        """Label of the trial: `serial r1 c2`."""
        one = self.trial
        return "start net" if one.stage == "fine_tune" else f"{one.stage} r{one.round} c{one.index + 1}"

    @property
    def gain(self) -> float:
        """Score minus the parent's score; nan if one of them has none."""
        before = self.parent.trial.score if self.parent else None
        return float("nan") if before is None or self.trial.score is None else self.trial.score - before

    @property
    def growth(self) -> float:
        """Relative growth of MACs over the parent's; 0 without a parent."""
        return self.cost.macs / self.parent.cost.macs - 1 if self.parent else 0.0


def entries(inputs: ReportInputs) -> tuple[TrialEntry, ...]:
    """Entries of all trials, in the order of the ledger."""
    plan, ledger = inputs.plan, inputs.stage.ledger
    front = {trial.digest for trial in pareto_front(ledger, inputs.settings.objectives)}
    found: dict[str, TrialEntry] = {}
    for number, trial in enumerate(ledger):
        state: TrialState = "failed" if trial.failure else "stopped" if trial.rung else "front" if trial.digest in front else "trained"
        parent = found.get(trial.parent or "")
        training = inputs.trainings.get(trial.digest, Training())
        cost = plan.cost_of(trial.net)
        found[trial.digest] = TrialEntry(number, trial, state, cost, parent, _edits(trial, parent, training, inputs), training)
    return tuple(found.values())


def tree(family: Sequence[TrialEntry]) -> list[tuple[int, TrialEntry]]:
    """Depth and entry of all trials, each followed by its descendants."""
    children: dict[int | None, list[TrialEntry]] = {}
    for one in family:
        children.setdefault(one.parent.number if one.parent else None, []).append(one)
    found, left = [], [(0, one) for one in reversed(children.get(None, []))]
    while left:
        depth, one = left.pop()
        found.append((depth, one))
        left += [(depth + 1, child) for child in reversed(children.get(one.number, []))]
    return found


def _edits(trial: Trial, parent: TrialEntry | None, training: Training, inputs: ReportInputs) -> tuple[Edit, ...]:
    if parent is None:
        return ()
    net, before, run = trial.net, parent.trial.net, inputs.plan.settings.detector
    found = [*edits(before.arch, net.arch, inputs.plan.leaves_out), *gene_edits(before.detector(run), net.detector(run))]
    if (taps := taps_of(net.neck)) and net.neck != before.neck:
        found.append(Edit("taps", f"the pyramid's outputs read the merged levels {', '.join(map(str, taps))}"))
    if net.stem != before.stem:
        found.append(Edit("stem", f"{net.stem} stem"))
    weights = training.manifest.job.get("weights", ()) if training.manifest else ()
    if any(one["kind"] == "reignite" for one in weights):
        top1 = inputs.stage.top1.get(parent.trial.digest)
        found.append(Edit("reignite", "backbone from the reignition" + ("" if top1 is None else f", top-1 {100 * top1:.1f} %")))
    return tuple(found)


def edits(parent: Arch, child: Arch, leaves_out: bool = False) -> tuple[Edit, ...]:
    """Edits that lead from parent to child, derived from the blocks that the child inherits (see `lineage`, also for `leaves_out`).

    The search may have drawn other operations with the same result. ArchError if no operations lead to the child.
    """
    line, ours, theirs = lineage(parent, child, leaves_out), blocks(parent), blocks(child)
    found = []
    if child.block_type != parent.block_type:
        found.append(Edit("change type", f"{child.block_type.text} blocks for {parent.block_type.text}"))
    kept = [(ours[source], block) for source, block in zip(line, theirs, strict=True) if source is not None]
    moves = []
    for stage in range(1, len(child.stages)):
        steps = sum(block.stage < stage for _, block in kept) - sum(block.stage < stage for block, _ in kept)
        if steps:
            moves.append(f"stage {stage} ends {_blocks(abs(steps))} {'later' if steps > 0 else 'earlier'}")
    if moves:
        found.append(Edit("swap", ", ".join(moves)))
    new = Counter(block.stage for source, block in zip(line, theirs, strict=True) if source is None)
    for stage in range(len(parent.stages), len(child.stages)):
        found.append(Edit("add stage", f"stage {stage + 1}"))
        new[stage] -= 1
    if inserted := [f"{_blocks(count, 'new block')} in stage {stage + 1}" for stage, count in sorted(new.items()) if count > 0]:
        found.append(Edit("expand", ", ".join(inserted)))
    lost = Counter(block.stage for block in ours if block.index not in line)
    if removed := [f"{_blocks(count)} of stage {stage + 1}" for stage, count in sorted(lost.items())]:
        found.append(Edit("shrink", ", ".join(removed) + " taken out"))
    inner = [(stage + 1, parent.eighths(stage), child.eighths(stage)) for stage in range(len(parent.stages))]
    if changed := [f"stage {stage}: {before}/8 to {after}/8" for stage, before, after in inner if before != after]:
        found.append(Edit("inner width", ", ".join(changed)))
    digits = [(parent.digits[a.index], child.digits[b.index]) for a, b in kept]
    if any(a != b for a, b in digits):
        found.append(Edit("move double", "the channels double at another block"))
    if any(child.parallel) and child.parallel != parent.parallel:
        copies = [f"{count} beside stage {stage}" for stage, count in enumerate(child.parallel, start=1) if count]
        found.append(Edit("parallel", ", ".join(copies)))
    return tuple(found)


def gene_edits(parent: Detector, child: Detector) -> tuple[Edit, ...]:
    """Edits to what a search may change of a whole net."""
    found = []
    if parent.base_width != child.base_width:
        found.append(Edit("base width", f"{parent.base_width} to {child.base_width} channels after the stem"))
    if parent.image_size != child.image_size:
        before, after = ("x".join(map(str, size)) for size in (parent.image_size, child.image_size))
        found.append(Edit("image size", f"input {before} to {after} px"))
    if parent.head.kind != child.head.kind:
        found.append(Edit("head", f"{child.head.kind} for {parent.head.kind}"))
    counts = [one.head.proposals_test if isinstance(one.head, TwoStageHead) else 0 for one in (parent, child)]
    if all(counts) and counts[0] != counts[1]:
        found.append(Edit("proposals", f"{counts[0]} to {counts[1]} proposals"))
    if parent.neck.kind != child.neck.kind:
        found.append(Edit("neck", f"{child.neck.text} for {parent.neck.text}"))
    elif isinstance(parent.neck, NasFpn) and isinstance(child.neck, NasFpn) and parent.neck.stacks != child.neck.stacks:
        found.append(Edit("neck", f"{parent.neck.stacks} to {child.neck.stacks} stacks of cells"))
    if parent.neck.channels != child.neck.channels:
        found.append(Edit("neck channels", f"pyramid of {parent.neck.channels} to {child.neck.channels} channels"))
    if isinstance(parent.neck, CellNeck) and isinstance(child.neck, CellNeck) and (words := cell_edits(parent.neck, child.neck)):
        found.append(Edit("cells", "; ".join(words)))
    return tuple(found)


def _blocks(count: int, word: str = "block") -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
