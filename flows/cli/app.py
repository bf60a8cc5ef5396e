"""The command line, `spnas`. Slow imports are inside the commands, so that `--help` and `arch` answer at once."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from flows.cli.commands import check, doctor, front, latency, model, plan, prune, report, split, status, store, study, vega
from flows.cli.options import (
    AnnotationsOption,
    AsJson,
    DataArgument,
    DataOption,
    ImagesOption,
    MovedData,
    NameOption,
    Overrides,
    PresetArgument,
    SplitFileOption,
    StoreOption,
    with_reading,
)
from spnas_core.errors import JobError, MissingArtifactError, StoreError, UserError


class _Commands(TyperGroup):
    """Command group that prints errors in one line on standard error; exit status 2 for a user's mistake, 1 for a failed run."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (UserError, JobError, MissingArtifactError, StoreError) as error:
            typer.echo(f"spnas: {error.args[0]}", err=True)
            raise typer.Exit(2 if isinstance(error, UserError) else 1) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Search the backbone of an object detector, or of a net for semantic segmentation, on your data, under your budget "
    "(SP-NAS, CVPR 2020).\n\nExample: spnas demo",
)


@app.command(
    help="Run the five stages on made images (scanned digits on photographs), on the CPU: find the digits, with --structures after a "
    "structural search, or give every pixel its class.\n\n"
    "Example: spnas demo --out /tmp/demo --task segmentation"
)
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the data and the store.")] = Path("demo"),
    task: Annotated[Literal["detection", "segmentation"], typer.Option("--task", help="What the nets are for.")] = "detection",
    structures: Annotated[bool, typer.Option("--structures", help="Search structures first: preset structures_demo.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run the demo preset of a task on its own data."""
    from flows import presets
    from flows.cli.local import begin_server
    from spnas_core.data.demo import make_demo
    from spnas_core.data.masks.mask_demo import make_mask_demo

    if structures and task == "segmentation":
        raise UserError("--structures: expected --task detection, got segmentation")
    preset = "seg_demo" if task == "segmentation" else "structures_demo" if structures else "demo"
    settings = presets.load_preset(preset, overrides or ())
    if not out.exists():  # then the run needs a server; it starts while the data are made
        begin_server()
    made = make_demo(out / "data") if task == "detection" else make_mask_demo(out / "mask-data")
    _search(settings, str(made), str(out / "store"), as_json)


@app.command(
    "run",
    help="Search on a data set: fine_tune, serial, reignite, parallel, full_train. A finished part is never computed again.\n\n"
    "PRESET_OR_YAML: demo, bccd, voc, coco, spnet_coco, spnet_ecp, smoke, study; of segmentation "
    "seg_demo, seg_study, camvid, voc_seg, cityscapes_seg; or a YAML file. DATA: `demo` makes its own.\n\n"
    "Example: spnas run bccd --data path/to/bccd --set serial.rounds=3 --set 'budget={gmacs: [null, 5]}'",
)
def run_command(
    preset: PresetArgument,
    data: DataOption,
    store: StoreOption = "spnas-store",
    overrides: Overrides = None,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Search on a data set."""
    from flows import presets

    _search(presets.load_preset(preset, with_reading(overrides, split_file, annotations, images)), data, store, as_json)


@app.command(
    "structures",
    help="Search structures first, as SM-NAS: head, neck, input, block type, width and depth together, as a front of AP and time; then the "
    "five stages from several nets of it, and a family of stock nets by the same data and epochs.\n\n"
    "It is spnas run with a preset that has `structures`: plan, status, resume, extend and report take it as any other run.\n\n"
    "Example: spnas structures path/to/bccd --set structures.rounds=3 --set 'budget={latency_ms: [null, 40]}'",
)
def structures_command(
    data: DataArgument,
    preset: Annotated[str, typer.Option("--preset", metavar="PRESET_OR_YAML", help="Settings of the run.")] = "structures",
    store: StoreOption = "spnas-store",
    overrides: Overrides = None,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Search structures on a data set, then the rest."""
    from flows import presets

    settings = presets.load_preset(preset, with_reading(overrides, split_file, annotations, images))
    if settings.structures is None:
        raise UserError(f"{preset}: structures: expected settings of a structural search, as in the preset structures, got none")
    _search(settings, data, store, as_json)


@app.command(
    help="Go on with a run that was killed or has failed, by its name alone; one that is finished is only shown.\n\n"
    "Example: spnas resume bccd --store spnas-store"
)
def resume(name: NameOption, store: StoreOption = "spnas-store", data: MovedData = None, as_json: AsJson = False) -> None:
    """Continue a run."""
    _continue(name, store, data, 0, as_json)


@app.command(
    help="Add rounds to the serial search of a run, finished or not, and do what follows from them; the rounds that are there stay.\n\n"
    "What the run has left so far is kept under the name NAME-1.\n\n"
    "Example: spnas extend bccd --rounds 2 --store spnas-store"
)
def extend(
    name: NameOption,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How many rounds to add.")],
    store: StoreOption = "spnas-store",
    data: MovedData = None,
    as_json: AsJson = False,
) -> None:
    """Continue a run with more rounds."""
    _continue(name, store, data, rounds, as_json)


@app.command(
    "settings",
    help="Print all settings of a run as JSON, as the flow spnas takes them; or explain every setting, as Markdown.\n\n"
    "Example: spnas settings bccd --set serial.rounds=3",
)
def show_settings(
    preset: Annotated[str | None, typer.Argument(metavar="PRESET_OR_YAML", help="Settings of the run.")] = None,
    overrides: Overrides = None,
    table: Annotated[bool, typer.Option("--table", help="Explain every setting: its values, its default, what it is.")] = False,
) -> None:
    """Print the settings of a run, or a table of all settings."""
    from flows import presets
    from spnas_core.settings.page import settings_page
    from spnas_core.settings.run import Run

    if (preset is None) is not table or (table and overrides):
        raise UserError("settings: expected PRESET_OR_YAML, with --set as needed, or --table alone")
    typer.echo(settings_page(Run).rstrip() if preset is None else presets.load_preset(preset, overrides or ()).model_dump_json())


@app.command(
    help="Blocks, parameters, MACs and levels of a backbone (7x7 stem, no classifier).\n\nExample: spnas arch 111-2111-211111-211 --json"
)
def arch(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Architecture: TYPE_SERIAL_PARALLEL_INNER, or SERIAL for Bottleneck blocks.")],
    size: Annotated[tuple[int, int], typer.Option("--size", metavar="H W", help="Input height and width, px.")] = (224, 224),
    as_json: AsJson = False,
) -> None:
    """Describe a backbone."""
    from spnas_core.arch import check_space, levels, parse
    from spnas_core.cost import backbone_cost

    if min(size) < 1:
        raise UserError(f"--size: expected a height and a width of at least 1 px, got {size[0]} {size[1]}")
    value = check_space(parse(text))
    cost = backbone_cost(value, size)
    stages = [{"channels": level.channels, "stride": level.stride} for level in levels(value)]
    if as_json:
        typer.echo(json.dumps({"blocks": len(value.digits), "parameters": cost.params, "macs": cost.macs, "levels": stages}))
        return
    typer.echo(f"{value}\nblocks      {len(value.digits)}\nparameters  {cost.params:,}\nMACs        {cost.macs:,} at {size[0]}x{size[1]}")
    for number, stage in enumerate(stages, start=1):
        typer.echo(f"stage {number}     {stage['channels']} channels at stride {stage['stride']}")


def _continue(name: str, store: str, data: str | None, rounds: int, as_json: bool) -> None:
    """Continue the run `name` of a store, with `rounds` additional serial rounds."""
    from flows.presets.places import settle_run
    from spnas_core.run.register import read_run
    from spnas_core.store.artifacts import Store

    record = read_run(Store(store), name)
    serial = record.settings.serial
    if rounds and serial.evaluator == "supernet":
        raise UserError(f"run {name}: expected a serial search in rounds to add some to, got one with a supernet")
    serial = serial.model_copy(update={"rounds": serial.rounds + rounds})
    _search(settle_run(record.settings.model_copy(update={"serial": serial})), data or record.data.url, store, as_json)


def _search(settings: Any, data: str, store: str, as_json: bool) -> None:
    """Run a search, or look up a finished one, and print its table."""
    from flows.cli.local import run_locally
    from spnas_core.report import plain, plain_timing, table_of

    summary = run_locally(settings, data, store)
    if as_json:
        typer.echo(json.dumps(summary))
        return
    typer.echo(f"\n{plain(table_of(summary))}\n\n{plain_timing(summary['timing'])}\n")
    for note in (*summary["notes"], *summary.get("fronts", {}).get("words", ())):
        typer.echo(note)
    typer.echo(f"Report, trials and model: {summary['folder']}")


app.add_typer(check.app)
app.add_typer(split.app)
app.add_typer(plan.app)
app.add_typer(status.app)
app.add_typer(front.app)
app.add_typer(latency.app, name="latency")
app.add_typer(doctor.app)
app.add_typer(vega.app)
app.add_typer(model.app)  # eval, predict, export, convert
app.add_typer(prune.app)
app.add_typer(report.app)
app.add_typer(store.app, name="store")
app.add_typer(study.app, name="study")

if __name__ == "__main__":
    app()
