"""The command `spnas plan`: all mistakes in a run's settings and data, or a forecast of its cost, before anything runs."""

import json
import sys
from typing import Annotated, Any

import typer

from flows.cli.options import (
    AnnotationsOption,
    AsJson,
    DataOption,
    ImagesOption,
    Overrides,
    PresetArgument,
    SplitFileOption,
    StoreOption,
    with_reading,
)
from spnas_core.errors import UserError

app = typer.Typer()


@app.command(
    help="Say what a run will cost before it runs: settings, nets, seconds of a step on this device, hours per stage, storage, what is "
    "there already. Or all that is wrong with settings, data, store and checkpoint, a line each, with exit status 2.\n\n"
    "Two nets are measured by a few real steps, in processes of their own. The store gets a probe, and nothing else.\n\n"
    "Example: spnas plan demo --data demo --set serial.rounds=5"
)
def plan(
    preset: PresetArgument,
    data: DataOption,
    store: StoreOption = "spnas-store",
    overrides: Overrides = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Train a few steps, for the time; without, only count.")] = True,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Forecast a run."""
    from flows import presets
    from flows.cli.display import shown
    from spnas_core.monitor.bill import bill, open_all

    settings, mistakes = presets.read_preset(preset, with_reading(overrides, split_file, annotations, images))
    with shown():
        opened, more = open_all(settings, data, store)
        if mistakes := [*mistakes, *more]:
            if as_json:
                typer.echo(json.dumps({"mistakes": mistakes}))
            raise UserError("\n".join(mistakes))
        document = bill(opened, measure)
    if as_json:
        typer.echo(json.dumps(document))
        return
    _print(document)


def _print(bill: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from spnas_core.data.loader import BY_OPERATORS
    from spnas_core.jobs.progress import duration

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    counts = bill["data"]
    images = ", ".join(f"{counts[split]:,} {split}" for split in ("train", "val", "test"))
    boxes = "" if "task" in bill["settings"] else f" {counts['boxes']:,} boxes to learn;"  # masks have none
    console.print(f"{bill['name']}: images {images};{boxes} store {bill['store']}", markup=False)
    console.print("\nSettings that differ from the defaults:")
    for key, (value, _) in bill["settings"].items():
        console.print(f"  {key} = {json.dumps(value)}", markup=False)
    nets = Table("net", Column("architecture", overflow="fold"), box=None, pad_edge=False)
    for name in ("parameters", "GMACs", "memory of a training"):
        nets.add_column(name, justify="right", no_wrap=True)
    for name, one in bill["nets"].items():
        memory = f"{one['memory_mb'] / 1e3:.1f} GB" if one["memory_mb"] else "-"
        nets.add_row(
            name, ", ".join(filter(None, (one["arch"], one["genes"]))), f"{one['params'] / 1e6:.2f} M", f"{one['macs'] / 1e9:.2f}", memory
        )
    console.print()
    console.print(nets)
    if bill["measured"]:
        console.print("\nMeasured on this device:")
    for one in bill["measured"]:
        console.print(f"  {one['arch']}, batch {one['batch']}", markup=False)
        console.print(f"    training    {one['step']:.3f} s a step, after {one['train_compile']:.1f} s of compiling")
        compiled = f"after {one['eval_compile']:.1f} s of compiling"
        if one["by_operators"]:
            compiled += f", which the first {BY_OPERATORS} batches do without, each {one['by_operators']:.2f} s longer"
        console.print(f"    evaluation  {one['image']:.4f} s an image, {compiled}")
        console.print(f"    reading     {one['decode']:.4f} s an image, two threads together")
    table = Table("stage", box=None, pad_edge=False)
    for name in ("jobs", "in the store", "epochs", "time", "from", "to", "storage"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in {**bill["stages"], "all": bill["total"]}.items():
        times = [duration(row[key]) if row[key] is not None else "-" for key in ("seconds", "least", "most")]
        state = "finished" if row.get("finished") else str(row["held"])
        table.add_row(name, f"{row['jobs']:.0f}", state, f"{row['epochs']:.0f}", *times, f"{row['bytes'] / 1e6:.1f} MB")
    console.print()
    console.print(table)
    for note in bill["notes"]:
        console.print(note, markup=False)
