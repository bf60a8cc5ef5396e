"""The commands for models, `spnas eval|predict|export|convert`."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.options import LAYOUTS, AnnotationsOption, AsJson, DataOption, ImagesOption, reading
from spnas_core.errors import UserError
from spnas_core.jobs.cpu_variables import prepare_process

if TYPE_CHECKING:
    from spnas_core.export.compare import Compared

app = typer.Typer()
DividedBy = Annotated[str | None, typer.Option("--split-file", metavar="FILE", help="File of spnas split, if not in the data.")]
ModelUrl = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder of a run: a path or any fsspec URL.")]


@app.command(
    "eval",
    help="Score a model on a split, with pycocotools. Several models, or a folder of spnas export, are scored image by image and set side "
    "by side: size, AP, and the time of inference of an image, of which the last column is the ratio to the first model's.\n\n"
    "Example: spnas eval demo/store/runs/demo/model --data demo/data --split test",
)
def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Model folders of runs, folders of spnas export: paths or any fsspec URLs.")
    ],
    data: DataOption,
    split: Annotated[str, typer.Option("--split", help="Name of the split.")] = "val",
    split_file: DividedBy = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Score models."""
    prepare_process()
    from spnas_core.export.compare import network_format, score_side_by_side
    from spnas_core.jobs.evaluate import score_model
    from spnas_core.settings.reading import Reading

    given = Reading.model_validate(reading(split_file, annotations, images))
    if [network_format(one) for one in models] != ["mindspore"]:
        _side_by_side(score_side_by_side(models, data, split, given), split, as_json)
        return
    scores: dict[str, Any] = score_model(models[0], data, split, given)
    if as_json:
        typer.echo(json.dumps(scores))
        return
    for name, value in scores.items():
        if name.startswith(("AP", "AR")):
            typer.echo(f"{name:10s} {_per_cent(value):>6s}")
    for name, one in scores.get("per_class", {}).items():
        typer.echo(f"{name}: AP {_per_cent(one['AP'])}, AP50 {_per_cent(one['AP50'])}")


def _side_by_side(found: Sequence["Compared"], split: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"split": split, "models": [one.document() for one in found]}))
        return
    lines = [("model", "format", "MB", "AP", "AP50", "ms", "ratio")]
    for one in found:
        scores = (_per_cent(one.scores[name]) for name in ("AP", "AP50"))
        ratio = one.milliseconds / found[0].milliseconds
        lines.append((one.model, one.form, f"{one.size / 1e6:.2f}", *scores, f"{one.milliseconds:.1f}", f"{ratio:.2f}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            text.ljust(width) if place < 2 else text.rjust(width) for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        typer.echo("  ".join(cells))


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
    prepare_process()
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
    "onnx: for onnxruntime, any model (needs the extra [onnx]). openvino: for OpenVINO, any model (needs the extra [openvino]). "
    "om: for Ascend's compiler ATC, any model, one image at a time; compiled at once where atc is on PATH (needs the extra [onnx]). "
    "mindir: for MindSpore, any model, one image at a time. "
    "torchvision: for PyTorch, to train on too: torchvision's FasterRCNN, RetinaNet or FCOS on this backbone; no cascades, no taps.\n\n"
    "Example: spnas export demo/store/runs/demo/model --format onnx --out demo-onnx"
)
def export(
    model: ModelUrl,
    form: Annotated[Literal["mindir", "onnx", "openvino", "om", "torchvision"], typer.Option("--format", help="What to make of it.")],
    out: Annotated[str, typer.Option("--out", help="Folder for what is made: a path or any fsspec URL.")],
    int8: Annotated[
        int | None,
        typer.Option("--int8", min=1, metavar="N", help="onnx: in INT8, its ranges from N images of --data, at equal distances."),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help=f"Of --int8: a folder or any fsspec URL ({LAYOUTS}).")] = None,
    split: Annotated[str, typer.Option("--split", help="Of --int8: the split of these images.")] = "train",
    split_file: DividedBy = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    soc: Annotated[
        str | None, typer.Option("--soc", metavar="NAME", help="om: Ascend and what npu-smi info shows, such as Ascend310P3.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export a model."""
    prepare_process()
    if (soc is None) is (form == "om"):
        raise UserError(f"--soc: expected a SoC, such as Ascend310P3, with --format om and there alone, got {soc or 'none'}")
    if int8 and form != "onnx":
        raise UserError(f"--int8: expected --format onnx, got --format {form}")
    if (int8 is None) is not (data is None):
        raise UserError("--int8, --data: expected a number of images and the data set that has them, got but one of both")
    from spnas_core.export import atc, folder
    from spnas_core.export.calibration import Calibration
    from spnas_core.export.convert import write_files
    from spnas_core.settings.reading import Reading

    given = Reading.model_validate(reading(split_file, annotations, images))
    wish = folder.Wish(Calibration(int8, data, split, given) if int8 and data else None, atc.check_soc(soc) if soc else "")
    folder.check_empty(out)
    files = folder.export_model(model, form, wish)
    folder.publish_export(files, out)
    compiled = atc.compile_parts(files) if form == "om" else {}
    if compiled:
        write_files(compiled, out)
        files |= compiled
    if as_json:
        typer.echo(json.dumps({"folder": out, "files": {name: len(content) for name, content in sorted(files.items())}}))
        return
    for name, content in sorted(files.items()):
        typer.echo(f"{len(content):12,} bytes  {name}")
    typer.echo(f"written to {out}")
    if compiled is None:
        typer.echo(f"atc is not on PATH: nothing was compiled; sh {atc.ATC_FILE} does it where CANN is installed")


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
    prepare_process()
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


def _named(names: tuple[str, ...]) -> str:
    return f": {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else ""
