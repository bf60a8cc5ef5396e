"""Arguments and options that several commands share."""

from typing import Annotated

import typer

PresetArgument = Annotated[str, typer.Argument(metavar="PRESET_OR_YAML", help="Settings of the run.")]
DataOption = Annotated[str, typer.Option("--data", help="Data set in the layout of COCO, Pascal VOC or YOLO: a folder or any fsspec URL.")]
MovedData = Annotated[str | None, typer.Option("--data", help="Where the data lies now, if it has moved.")]
StoreOption = Annotated[str, typer.Option("--store", help="Where everything goes: a folder or any fsspec URL.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="One setting, dotted key and YAML value: serial.rounds=8.")]
NameOption = Annotated[str, typer.Argument(metavar="NAME", help="Name of the run, as in the folder runs/ of the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
