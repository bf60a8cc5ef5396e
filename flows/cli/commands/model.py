"""The commands for models, `spnas eval|predict|export|convert`."""

import json
import os
from typing import Annotated, Any, Literal

import typer

from flows.cli.options import AnnotationsOption, AsJson, DataOption, ImagesOption, reading
from spnas_core.jobs.cpu_variables import instruction_variables

app = typer.Typer()
ModelUrl = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder of a run: a path or any fsspec URL.")]


@app.command(
    "eval",
    help="Score a model on a split, with pycocotools.\n\nExample: spnas eval demo/store/runs/demo/model --data demo/data --split test",
)
def evaluate(
    model: ModelUrl,
    data: DataOption,
    split: Annotated[str, typer.Option("--split", help="Name of the split.")] = "val",
    split_file: Annotated[str | None, typer.Option("--split-file", metavar="FILE", help="File of spnas split, if not in the data.")] = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Score a model."""
    _prepare_mindspore()
    from spnas_core.jobs.evaluate import score_model
    from spnas_core.settings.reading import Reading

    given = Reading.model_validate(reading(split_file, annotations, images))
    scores: dict[str, Any] = score_model(model, data, split, given)
    if as_json:
        typer.echo(json.dumps(scores))
        return
    for name, value in scores.items():
        if name.startswith(("AP", "AR")):
            typer.echo(f"{name:10s} {_per_cent(value):>6s}")
    for name, one in scores.get("per_class", {}).items():
        typer.echo(f"{name}: AP {_per_cent(one['AP'])}, AP50 {_per_cent(one['AP50'])}")


def _per_cent(value: float) -> str:
    """Write a score in per cent, a dash where the split has nothing of that size or class."""
    return f"{100 * value:.1f}" if value >= 0 else "-"


@app.command(
    "predict",
    help="Find objects in images: pictures with boxes, detections.json (a record per image), results.json (COCO results with the images' "
    "names, numbered from 1).\n\n"
    "IMAGE: a file, a folder (the images right in it, not those of folders below), a quoted pattern ('photos/**/*.jpg': those below too), "
    "or the fsspec URL of any of these. Exit status 1: some image is broken; the others are done.\n\n"
    "Example: spnas predict demo/store/runs/demo/model demo/data/test photo.jpg --out found",
)
def predict_command(
    model: ModelUrl,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, patterns, URLs.")],
    out: Annotated[str, typer.Option("--out", help="Folder for what is written: a path or any fsspec URL.")] = "predictions",
    threshold: Annotated[float, typer.Option("--threshold", min=0, max=1, help="Least score of a box.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Find objects in images."""
    _prepare_mindspore()
    from spnas_core.jobs.predict import predict as find

    found = find(model, images, out, threshold)
    broken = [one["error"] for one in found if "error" in one]
    if as_json:
        typer.echo(json.dumps(found))
    else:
        objects = sum(len(one.get("objects", ())) for one in found)
        typer.echo(f"{len(found) - len(broken)} of {len(found)} images done, {objects} objects, written to {out}")
    for error in broken:
        typer.echo(f"spnas: {error}", err=True)
    if broken:
        raise typer.Exit(1)


@app.command(
    help="Take a model home: a folder with the network, model.json (architecture, labels, preprocessing, scores), detect.py, which needs "
    "nothing of spnas, and README.md.\n\n"
    "onnx: for onnxruntime, any model (needs the extra [onnx]). mindir: for MindSpore, any model, one image at a time. "
    "torchvision: for PyTorch, to train on too: torchvision's FasterRCNN on this backbone; no cascades, no taps.\n\n"
    "Example: spnas export demo/store/runs/demo/model --format onnx --out demo-onnx"
)
def export(
    model: ModelUrl,
    form: Annotated[Literal["mindir", "onnx", "torchvision"], typer.Option("--format", help="What to make of it.")],
    out: Annotated[str, typer.Option("--out", help="Folder for what is made: a path or any fsspec URL.")],
    as_json: AsJson = False,
) -> None:
    """Export a model."""
    _prepare_mindspore()
    from spnas_core.export import folder

    folder.check_empty(out)
    files = folder.export_model(model, form)
    folder.publish_export(files, out)
    if as_json:
        typer.echo(json.dumps({"folder": out, "files": {name: len(content) for name, content in sorted(files.items())}}))
        return
    for name, content in sorted(files.items()):
        typer.echo(f"{len(content):12,} bytes  {name}")
    typer.echo(f"written to {out}")


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
    _prepare_mindspore()
    from spnas_core.export import convert as conversion

    made = conversion.convert_checkpoint(checkpoint, arch, to, norm_epsilon, categories, coverage)
    conversion.write_files(made.files, out)
    audit, epsilon = made.audit, made.norm_epsilon
    if as_json:
        facts = {"arch": str(made.arch), "files": sorted(made.files), "norm_epsilon": epsilon, "counters": made.counters}
        typer.echo(json.dumps({**facts, "audit": audit.model}))
        return
    typer.echo(f"architecture  {made.arch}")
    if audit.peeled:
        typer.echo(f"of the file   {audit.peeled}")
    typer.echo(f"copied        {len(audit.copied)} tensors, {audit.copied_params:,} parameters, {audit.share:.1%} of the net's")
    typer.echo(f"new           {len(audit.new)} tensors, {audit.new_params:,} parameters{_named(audit.new)}")
    typer.echo(f"dropped       {len(audit.dropped)} tensors, {audit.dropped_params:,} parameters{_named(audit.dropped)}")
    typer.echo(f"left out      {made.counters} counters of batches")
    if epsilon is not None:
        typer.echo(f"norm epsilon  {epsilon:g}")
    typer.echo(f"written to    {out}: {', '.join(sorted(made.files))}")


def _prepare_mindspore() -> None:
    """Set the variables of MindSpore, which is loaded in this process."""
    os.environ.setdefault("GLOG_v", "3")  # its own log lines, errors only
    os.environ.update(instruction_variables())


def _named(names: tuple[str, ...]) -> str:
    return f": {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else ""
