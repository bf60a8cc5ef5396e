"""The command line, `spnas`. What is heavy is imported inside the commands, so that `--help` and `arch` answer at once."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from flows import store_cli
from spnas_core.errors import JobError, MissingArtifactError, StoreError, UserError


class _Commands(TyperGroup):
    """The commands; a user's mistake is one line on standard error and exit status 2, a run that failed 1."""

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
    help="Search the backbone of an object detector on your data, under your budget (SP-NAS, CVPR 2020).\n\nExample: spnas demo",
)
app.add_typer(store_cli.app, name="store")
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
DataUrl = Annotated[str, typer.Option("--data", help="Data set in COCO layout: a folder or any fsspec URL; `demo` makes its own.")]
StoreUrl = Annotated[str, typer.Option("--store", help="Where everything goes: a folder or any fsspec URL.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="One setting, dotted key and YAML value: serial.rounds=8.")]


@app.command(help="Run the five stages on made images (scanned digits on photographs), on the CPU.\n\nExample: spnas demo --out /tmp/demo")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the data and the store.")] = Path("demo"),
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run the embedded default."""
    from flows import presets
    from spnas_core.data.demo import make_demo

    settings = presets.load("demo", overrides or ())
    _search(settings, str(make_demo(out / "data")), str(out / "store"), as_json)


@app.command(
    help="Search on a data set: fine_tune, serial, reignite, parallel, full_train. A finished part is never computed again.\n\n"
    "PRESET_OR_YAML: demo, bccd, voc, coco, smoke, or a YAML file.\n\n"
    "Example: spnas run bccd --data ../shared/data/bccd --set serial.rounds=3 --set 'budget={gmacs: [null, 5]}'"
)
def run(
    preset: Annotated[str, typer.Argument(metavar="PRESET_OR_YAML", help="Settings of the run.")],
    data: DataUrl,
    store: StoreUrl = "spnas-store",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Search on a data set."""
    from flows import presets

    _search(presets.load(preset, overrides or ()), data, store, as_json)


@app.command(
    help="Blocks, parameters, MACs and levels of a backbone (7x7 stem, no classifier).\n\nExample: spnas arch 111-2111-211111-211 --json"
)
def arch(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Architecture: TYPE_SERIAL_PARALLEL, or SERIAL for Bottleneck blocks.")],
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


@app.command(
    "eval",
    help="Score a model on a split, with pycocotools.\n\nExample: spnas eval demo/store/runs/demo/model --data demo/data --split test",
)
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder of a run: a path or any fsspec URL.")],
    data: DataUrl,
    split: Annotated[str, typer.Option("--split", help="Name of the split.")] = "val",
    as_json: AsJson = False,
) -> None:
    """Score a model."""
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own log lines, errors only
    from spnas_core.evaluate import score_model

    scores: dict[str, Any] = score_model(model, data, split)
    if as_json:
        typer.echo(json.dumps(scores))
        return
    for name, value in scores.items():
        if name.startswith(("AP", "AR")):
            typer.echo(f"{name:10s} {100 * value:6.1f}" if value >= 0 else f"{name:10s}      -")
    for name, one in scores.get("per_class", {}).items():
        typer.echo(f"{name}: AP {100 * one['AP']:.1f}, AP50 {100 * one['AP50']:.1f}")


@app.command(
    help="Find objects in images: pictures with boxes, and JSON.\n\nExample: spnas predict demo/store/runs/demo/model photo.jpg --out found"
)
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder of a run: a path or any fsspec URL.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures and detections.json.")] = Path("predictions"),
    threshold: Annotated[float, typer.Option("--threshold", min=0, max=1, help="Least score of a box.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Find objects in images."""
    os.environ.setdefault("GLOG_v", "3")
    from spnas_core.predict import predict as find

    found = find(model, images, out, threshold)
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{len(found)} images, written to {out}")


@app.command(
    help="Convert torchvision's weights to a model folder, or a model folder's weights to torchvision's names, bit for bit.\n\n"
    "CHECKPOINT: a .pth or .safetensors file of Faster R-CNN with FPN, ResNet or ResNeXt; or, with --to torchvision, a model folder. "
    "PyTorch is not needed, and nothing in a .pth file is run.\n\n"
    "Example: spnas convert fasterrcnn_resnet50_fpn_coco.pth --out coco-model"
)
def convert(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="File or model folder: a path or any fsspec URL.")],
    out: Annotated[str, typer.Option("--out", help="Folder for what is made: a path or any fsspec URL.")],
    arch: Annotated[str | None, typer.Option("--arch", help="Architecture; without it, what the names and shapes say.")] = None,
    to: Annotated[Literal["spnas", "torchvision"], typer.Option("--to", help="Whose names the weights get.")] = "spnas",
    norm_epsilon: Annotated[
        float | None, typer.Option("--norm-epsilon", min=0, help="Of batch norm; default 0.0 for 90 labels and frozen norms, else 1e-5.")
    ] = None,
    categories: Annotated[str | None, typer.Option("--categories", help="COCO annotation file that names the labels.")] = None,
    coverage: Annotated[float, typer.Option("--coverage", min=0, max=1, help="Least share of the parameters that must be found.")] = 0.9,
    as_json: AsJson = False,
) -> None:
    """Convert weights."""
    os.environ.setdefault("GLOG_v", "3")
    from spnas_core import convert as conversion

    made = conversion.convert(checkpoint, arch, to, norm_epsilon, categories, coverage)
    conversion.publish(made, out)
    audit, epsilon = made.audit, made.norm_epsilon
    if as_json:
        facts = {"arch": str(made.arch), "files": sorted(made.files), "norm_epsilon": epsilon, "counters": made.counters}
        typer.echo(json.dumps({**facts, "audit": audit.model}))
        return
    typer.echo(f"architecture  {made.arch}")
    typer.echo(f"copied        {len(audit.copied)} tensors, {audit.copied_params:,} parameters, {audit.share:.1%} of the net's")
    typer.echo(f"new           {len(audit.new)} tensors, {audit.new_params:,} parameters{_named(audit.new)}")
    typer.echo(f"dropped       {len(audit.dropped)} tensors, {audit.dropped_params:,} parameters{_named(audit.dropped)}")
    typer.echo(f"left out      {made.counters} counters of batches")
    if epsilon is not None:
        typer.echo(f"norm epsilon  {epsilon:g}")
    typer.echo(f"written to    {out}: {', '.join(sorted(made.files))}")


def _named(names: tuple[str, ...]) -> str:
    return f": {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else ""


def _search(settings: Any, data: str, store: str, as_json: bool) -> None:
    """Do a run, or look up one that is finished, and print its table."""
    from flows.local import search
    from spnas_core.report import plain, table_of

    summary = search(settings, data, store)
    if as_json:
        typer.echo(json.dumps(summary))
        return
    typer.echo(f"\n{plain(table_of(summary))}\n")
    for note in summary["notes"]:
        typer.echo(note)
    typer.echo(f"Report, trials and model: {summary['folder']}")


if __name__ == "__main__":
    app()
