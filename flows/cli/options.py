"""Arguments and options that several commands share."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from spnas_core.errors import UserError

LAYOUTS = "COCO, Pascal VOC, YOLO, LabelMe, or a table of boxes, found by what is there"
PresetArgument = Annotated[str, typer.Argument(metavar="PRESET_OR_YAML", help="Settings of the run.")]
DataOption = Annotated[str, typer.Option("--data", help=f"Data set: a folder or any fsspec URL ({LAYOUTS}).")]
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help=f"The data set: a folder or any fsspec URL ({LAYOUTS}).")]
MovedData = Annotated[str | None, typer.Option("--data", help="Where the data lies now, if it has moved.")]
SplitFileOption = Annotated[
    str | None, typer.Option("--split", metavar="FILE", help="File of spnas split, if it is not spnas-split.json in the data.")
]
AnnotationsOption = Annotated[
    list[str] | None,
    typer.Option("--annotations", metavar="SPLIT=FILE", help="COCO file of a split, if it is not found: from here, or below the data."),
]
ImagesOption = Annotated[
    str | None, typer.Option("--images", metavar="FOLDER", help="Folder of the images of COCO files: from here, or below the data.")
]
StoreOption = Annotated[str, typer.Option("--store", help="Where everything goes: a folder or any fsspec URL.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="One setting, dotted key and YAML value: serial.rounds=8.")]
NameOption = Annotated[str, typer.Argument(metavar="NAME", help="Name of the run, as in the folder runs/ of the store.")]
NetOption = Annotated[
    str | None, typer.Option("--net", metavar="NET", help="MODEL is a run: this net of its front, by number, text or digest (spnas front).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def with_reading(
    overrides: Sequence[str] | None, split_file: str | None = None, annotations: Sequence[str] | None = None, images: str | None = None
) -> list[str]:
    """Add the settings that the options of reading a data set stand for to other overrides; UserError."""
    return [*(overrides or ()), *(f"data.{key}={json.dumps(value)}" for key, value in reading(split_file, annotations, images).items())]


def reading(split_file: str | None = None, annotations: Sequence[str] | None = None, images: str | None = None) -> dict[str, Any]:
    """Return the settings of `Reading` that these options stand for; UserError for an option of another form."""
    files = {}
    for text in annotations or ():
        split, equals, file = text.partition("=")
        if not (split and equals and file):
            raise UserError(f"--annotations: expected SPLIT=FILE, such as train=annotations/a.json, got {text!r}")
        files[split] = _from_here(file)
    place = split_file if split_file is None or "://" in split_file else str(Path(split_file).expanduser().absolute())
    given = {"split_file": place, "annotations": files or None, "images": images and _from_here(images)}
    return {key: value for key, value in given.items() if value is not None}


def net_model(run: str, net: str, store: str) -> str:
    """Model folder of a net of a run's front; says on standard error whose weights these are. UserError where there is no such net."""
    from spnas_core.report.offered import model_of
    from spnas_core.store.artifacts import Store

    folder, trained = model_of(Store(store), run, net)
    whose = "its full training" if trained else f"its training in the search (spnas front {run} --train {net} trains it to the end)"
    typer.echo(f"{run}, net {net}: weights of {whose}", err=True)
    return folder


def _from_here(path: str) -> str:
    """Make a path absolute if it exists from here; another one lies below the data set."""
    return str(Path(path).absolute()) if "://" not in path and Path(path).exists() else path
