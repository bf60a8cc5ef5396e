"""The command line, `spnas`. What is heavy is imported inside the commands, so that `--help` and `arch` answer at once."""

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spnas_core.errors import JobError, MissingArtifactError, UserError


class _Commands(TyperGroup):
    """The commands; a user's mistake is one line on standard error and exit status 2, a run that failed 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (UserError, JobError, MissingArtifactError) as error:
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


class Names(StrEnum):
    """Whose names converted weights have."""

    spnas = "spnas"
    torchvision = "torchvision"


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
    help="Convert torchvision's weights to a model folder, or ours back to torchvision's names. Nothing in the checkpoint is executed.\n\n"
    "CHECKPOINT: a file of torch.save or a .safetensors of torchvision's ResNet, ResNeXt or Faster R-CNN (ResNet-FPN); "
    "with --to torchvision a model folder or weights file of ours. The norms' epsilon is 0.0 for a Faster R-CNN of 91 outputs with frozen "
    "norms, as torchvision sets it for its released COCO weights, else 1e-5.\n\n"
    "Example: spnas convert fasterrcnn_resnet50_fpn_coco-258fb6c6.pth --out model"
)
def convert(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A path or any fsspec URL.")],
    out: Annotated[str, typer.Option("--out", metavar="URL", help="Model folder, or a .safetensors file with --to torchvision.")],
    text: Annotated[
        str | None, typer.Option("--arch", metavar="TEXT", help="Expected architecture; torchvision's weights tell theirs.")
    ] = None,
    to: Annotated[Names, typer.Option("--to", help="Whose names the result has.")] = Names.spnas,
    least: Annotated[float, typer.Option("--coverage", min=0, max=1, help="Least share of parameters (classifier: backbone).")] = 0.9,
    epsilon: Annotated[float | None, typer.Option("--norm-epsilon", min=0, help="Epsilon of the batch norms.")] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option("--image-size", metavar="H W", help="Network input, px; by default 800 1344.")
    ] = None,
    categories: Annotated[str | None, typer.Option("--categories", metavar="JSON", help="COCO annotations that name the labels.")] = None,
    as_json: AsJson = False,
) -> None:
    """Convert weights."""
    from spnas_core.convert import convert as convert_weights
    from spnas_core.convert import lines

    report = convert_weights(checkpoint, out, to.value, text, least, epsilon, size, categories)
    typer.echo(json.dumps(report) if as_json else "\n".join(lines(report)))


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
