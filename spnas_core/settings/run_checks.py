"""Checks of a run's settings that concern several parts of them; ValueError with one line."""

from dataclasses import replace
from typing import TYPE_CHECKING

from spnas_core import arch as architecture
from spnas_core.necks import CellNeck, with_taps
from spnas_core.settings.one_stage import FcosHead, OneStageHead, RetinaNetHead

if TYPE_CHECKING:
    from spnas_core.settings.run import Run


def mistakes_between(run: "Run") -> list[str]:
    """Lines of all checks that fail."""
    found = []
    for check in (_check_shares, _check_frozen_norms, _check_start, _check_supernet, _check_neck, _check_level_norms, _check_structures):
        try:
            check(run)
        except ValueError as error:
            found.append(str(error))
    return found


def _check_shares(run: "Run") -> None:
    count, devices = run.devices_per_job, run.devices
    if run.executor == "local" and (len(devices) % count or (count > 1 and len(set(devices)) < len(devices))):
        raise ValueError(f"expected groups of devices_per_job = {count} different devices, got devices {list(devices)}")
    batches = {
        "fine_tune": run.fine_tune.batch,
        "serial.recipe": run.serial.recipe.batch,
        "reignite": run.reignite.batch,
        "parallel.recipe": run.parallel.recipe.batch,
        "full_train": run.full_train.batch,
        **({"structures.recipe": run.structures.recipe.batch} if run.structures else {}),
    }
    for name, batch in batches.items():
        if batch % count:
            raise ValueError(f"expected {name}.batch to be a multiple of devices_per_job = {count}, got {batch}")


def _check_frozen_norms(run: "Run") -> None:
    if run.checkpoint is None and (run.detector.norm == "frozen" or run.detector.frozen_stages):
        raise ValueError("expected norm: train and frozen_stages: 0 without a checkpoint, since new weights must all be trained")


def _check_start(run: "Run") -> None:
    space, start = run.space, architecture.parse(run.arch)
    architecture.check_space(start, space.min_blocks, space.max_blocks, space.max_stages)
    if space.block_types and start.block_type.text not in space.block_types:
        raise ValueError(f"expected the start net's block type {start.block_type.text!r} in space.block_types, got {space.block_types}")
    for kind in space.block_types or (start.block_type.text,):
        for width in (run.detector.base_width, *space.base_widths):
            architecture.blocks(replace(start, block_type=architecture.BlockType(kind)), width)
    for neck in (*run.necks, *(with_taps(run.detector.neck, taps) for taps in run.parallel.taps)):
        for size in (run.detector.image_size, *space.image_sizes):
            neck.outputs(start, size)  # children never have fewer stages
    choices = {"space.neck_channels": space.neck_channels, "space.necks": tuple(neck.channels for neck in run.necks)}
    for place, head in (("head", run.detector.head), *(("other_heads", head) for head in run.detector.other_heads)):
        groups = head.norm_groups if isinstance(head, FcosHead) else 1
        for where, channels in choices.items():
            if odd := [count for count in channels if count % groups]:
                raise ValueError(f"expected {where} to be multiples of detector.{place}.norm_groups, {groups}, got {odd[0]}")


def _check_supernet(run: "Run") -> None:
    if run.serial.evaluator != "supernet":
        return
    if run.detector.norm == "frozen" or run.detector.frozen_stages:
        raise ValueError("expected norm: train and frozen_stages: 0 with serial.evaluator: supernet, whose paths have norms of their own")
    if isinstance(run.detector.head, OneStageHead):
        raise ValueError(f"expected a two-stage detector.head with serial.evaluator: supernet, got {run.detector.head.kind}")
    if run.serial.search != ("backbone",):
        raise ValueError(f"expected serial.search [backbone] with serial.evaluator: supernet, got {list(run.serial.search)}")
    if any(architecture.parse(run.arch).parallel):
        raise ValueError(f"expected a serial start net with serial.evaluator: supernet, got {run.arch}")
    if run.serial.halving or run.serial.race or run.serial.control or run.serial.pilot:
        raise ValueError("expected no serial.halving, race, control or pilot with serial.evaluator: supernet: it trains finalists only")
    inner, widths = architecture.parse(run.arch).inner or (architecture.WHOLE,), run.serial.supernet.family.inner
    if not set(inner) <= set(widths):
        raise ValueError(f"expected the start net's inner widths {list(inner)} in serial.supernet.family.inner, got {list(widths)}")


def _check_neck(run: "Run") -> None:
    name, batch = _smallest_batch(run)
    for neck in run.necks:
        if not isinstance(neck, CellNeck):
            continue
        if run.parallel.taps:
            raise ValueError(f"expected detector.neck.kind fpn with parallel.taps, got {neck.kind}")
        for size in (run.detector.image_size, *run.space.image_sizes):
            if max(size) <= neck.coarsest and batch == 1:  # one cell, which has no variance
                expected = f"expected a batch above 1, or images above {neck.coarsest} px, under a {neck.title}"
                raise ValueError(f"{expected}, got {name}.batch 1 at {size}")


def _check_level_norms(run: "Run") -> None:
    name, batch = _smallest_batch(run)
    heads = (run.detector.head, *run.detector.other_heads)
    if batch > 1 or not any(isinstance(head, RetinaNetHead) and head.level_norms for head in heads):
        return
    for size in (run.detector.image_size, *run.space.image_sizes):
        for neck in run.necks:
            if neck.outputs(architecture.parse(run.arch), size)[-1].size == (1, 1):  # one cell has no variance
                raise ValueError(f"expected a batch above 1, or larger images, with level_norms in a head, got {name}.batch 1 at {size}")


def _check_structures(run: "Run") -> None:
    if run.task == "segmentation" and run.detector.other_heads:
        raise ValueError("expected no detector.other_heads with the task segmentation, which has one kind of head")
    if not run.structures:
        return
    if run.serial.evaluator != "train" or run.serial.pilot or run.serial.proposer != "pareto" or run.folds > 1 or run.parallel.taps:
        raise ValueError("expected neither serial.evaluator, pilot and proposer nor folds nor parallel.taps to be set with structures")
    if run.checkpoint and run.structures.stock:
        raise ValueError("expected no checkpoint with structures.stock, whose nets are trained from scratch")


def _smallest_batch(run: "Run") -> tuple[str, int]:
    """Name of the recipe of a detector with the smallest batch, and that batch."""
    recipes = {"fine_tune": run.fine_tune, "serial.recipe": run.serial.recipe, "parallel.recipe": run.parallel.recipe}
    recipes |= {"structures.recipe": run.structures.recipe} if run.structures else {}
    return min((one.batch, key) for key, one in {**recipes, "full_train": run.full_train}.items())[::-1]
