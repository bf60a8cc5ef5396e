"""The command `spnas doctor`: causes of an AP of 0 or an mIoU near chance; or what a kind of device lacks of a run's graphs."""

import contextlib
import json
from typing import Annotated, Any, Literal

import typer

from flows.cli.options import (
    AnnotationsOption,
    AsJson,
    ImagesOption,
    MovedData,
    Overrides,
    SplitFileOption,
    StoreOption,
    with_reading,
)
from spnas_core.errors import UserError

app = typer.Typer()


@app.command(
    help="Name what makes the AP 0, or the mIoU that of chance: class mapping, boxes format, anchors that never match, "
    "learning rate, frozen norms with new weights, "
    "empty targets, an evaluation on the wrong split, broken data, faulty masks, one class everywhere. "
    "One line for each cause: where, what was seen, what to do.\n\n"
    "RUN_OR_DATA: the name of a run of the store, finished or not; or a data set, as spnas check takes it.\n\n"
    "With --target Ascend: compile the graphs of a preset or a YAML file (default: --preset) on this CPU, and look all operators, dtypes "
    "and shapes up in what MindSpore's package has for Ascend. One row for each operator, one line for each gap.\n\n"
    "Exit status 0: no cause or gap was found; 1: there is one; 2: there is nothing to look at.\n\n"
    "Example: spnas doctor demo --store demo/store"
)
def doctor(
    subject: Annotated[str | None, typer.Argument(metavar="RUN_OR_DATA", help="What to look at; with --target, a preset or YAML.")] = None,
    target: Annotated[Literal["Ascend"] | None, typer.Option("--target", help="Kind of device that the graphs must run on.")] = None,
    store: StoreOption = "spnas-store",
    data: MovedData = None,
    preset: Annotated[str, typer.Option("--preset", help="For data: whose anchors count, a preset or a YAML file.")] = "coco",
    overrides: Overrides = None,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Look for causes of an AP of 0, or for gaps of a kind of device."""
    if target is not None:
        _of_target(subject or preset, target, overrides or [], as_json)
        return
    if subject is None:
        raise UserError("doctor: expected RUN_OR_DATA, or --target Ascend, got neither")
    if _is_run(subject, store):
        causes, notes = _of_run(subject, store, data)
    else:
        causes, notes = _of_data(subject, store, preset, with_reading(overrides, split_file, annotations, images))
    if as_json:
        typer.echo(json.dumps({"causes": [cause.__dict__ for cause in causes], "notes": notes}))
    else:
        for line in [*(cause.line for cause in causes), *notes]:
            typer.echo(line)
        if not causes:
            typer.echo("no cause of an AP of 0, or of an mIoU near chance, was found")
    if causes:
        raise typer.Exit(1)


def _of_target(preset: str, target: str, overrides: list[str], as_json: bool) -> None:
    """Print the table and the gaps of the graphs of settings; exit status 1 where there is a gap."""
    from flows import presets
    from flows.cli.display import shown
    from spnas_core.ascend.audit import audit, table_text
    from spnas_core.ascend.nets import nets_of

    settings = presets.load_preset(preset, overrides)
    with shown():
        rows = audit(nets_of(settings), target)
    gaps = [gap for row in rows for gap in row.gaps]
    if as_json:
        typer.echo(json.dumps({"operators": [row.__dict__ for row in rows], "gaps": gaps}))
    else:
        typer.echo("\n".join([table_text(rows), "", *gaps, f"{len(rows)} primitives, {len(gaps)} gaps for {target}"]))
    if gaps:
        raise typer.Exit(1)


def _is_run(subject: str, store: str) -> bool:
    from spnas_core.run.register import names_of_runs
    from spnas_core.store.artifacts import Store

    return "/" not in subject and subject in names_of_runs(Store(store))


def _of_data(url: str, store: str, preset: str, overrides: list[str]) -> tuple[list[Any], list[str]]:
    from flows import presets
    from spnas_core.check.dataset import inspect
    from spnas_core.check.masks import inspect_masks
    from spnas_core.data.masks.mask_layouts import has_masks
    from spnas_core.monitor.doctor import causes_in_data, first_error
    from spnas_core.monitor.mask_doctor import causes_in_mask_data

    settings = presets.load_preset(preset, overrides)
    try:
        if has_masks(url, settings.data):
            return causes_in_mask_data(inspect_masks(url, settings.data)), []
        report = inspect(url, settings)
    except UserError as error:
        if "/" in url:
            raise
        raise UserError(f"{error}; and no run of store {store} is called {url!r}") from error
    return causes_in_data(report) or first_error(report), []


def _of_run(name: str, store: str, data: str | None) -> tuple[list[Any], list[str]]:
    """Causes in a run and in its data, which may no longer exist."""
    from spnas_core.check.dataset import inspect
    from spnas_core.data.splits import DataSet
    from spnas_core.monitor.doctor import WELL, causes_in_data, causes_in_run, first_error
    from spnas_core.monitor.status import Watcher
    from spnas_core.settings.task import SEGMENTATION
    from spnas_core.store.artifacts import Store

    watcher = Watcher(Store(store), name)
    plan, now = watcher.plan, watcher.look()
    url, scores = data or plan.data.url, plan.settings.work.scores
    notes = [] if now.best is None else [f"best net so far: {', '.join(f'{name} {100 * now.best[name]:.1f}' for name in scores)}"]
    if plan.settings.work is SEGMENTATION:
        return _of_mask_run(watcher, url, notes)
    try:
        report = inspect(url, plan.settings)
    except UserError as error:
        return causes_in_run(plan.store, watcher.steps(), None), [*notes, f"the data was not looked at: {error}"]
    val = None
    with contextlib.suppress(UserError):  # the check names what keeps it from being read
        val = DataSet(url, plan.data.reading).split(plan.data.val).annotations
    causes = [*causes_in_data(report), *causes_in_run(plan.store, watcher.steps(), val)]
    well = now.best is not None and now.best["AP50"] >= WELL
    return causes or ([] if well else first_error(report)), notes


def _of_mask_run(watcher: Any, url: str, notes: list[str]) -> tuple[list[Any], list[str]]:
    """Causes in a run of segmentation and in its data, which may no longer exist."""
    from spnas_core.check.masks import inspect_masks
    from spnas_core.data.masks.mask_set import MaskSet
    from spnas_core.monitor.mask_doctor import causes_in_mask_data, causes_in_mask_run

    plan, found = watcher.plan, list[Any]()
    names: tuple[str, ...] = tuple(map(str, range(plan.classes)))
    try:
        found = causes_in_mask_data(inspect_masks(url, plan.settings.data))
        names = tuple(name for _, name in MaskSet(url, plan.settings.data).categories("val"))
    except UserError as error:
        notes = [*notes, f"the data was not looked at: {error}"]
    return [*found, *causes_in_mask_run(plan.store, watcher.steps(), names)], notes
