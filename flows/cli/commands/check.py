"""The command `spnas check`: faults of a data set, and its conversion to COCO layout."""

import json
from collections import Counter
from typing import Annotated, Any

import typer

from flows.cli.options import LAYOUTS, AnnotationsOption, AsJson, DataArgument, ImagesOption, Overrides, SplitFileOption, with_reading

app = typer.Typer()
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
CATEGORIES = 20  # rows of the table; --json prints all


@app.command(
    help="Check a data set before a run: files, boxes, ids, categories, pictures that two splits share, balance, anchors.\n\n"
    f"DATA: a folder or any fsspec URL: {LAYOUTS}.\n\n"
    "Exit status 0: at most notes; 1: errors or warnings; 2: there is nothing to check.\n\n"
    "Example: spnas check path/to/bccd --preset bccd --picture samples.png"
)
def check(
    data: DataArgument,
    preset: Annotated[str, typer.Option("--preset", help="Whose anchors and max_boxes count: a preset or a YAML file.")] = "coco",
    overrides: Overrides = None,
    mend: Annotated[
        str | None, typer.Option("--mend", metavar="OUT", help="Write the data set as COCO with all mended that can be, and list that.")
    ] = None,
    to_coco: Annotated[str | None, typer.Option("--to-coco", metavar="OUT", help="Write what is sound to a new folder, as COCO.")] = None,
    picture: Annotated[str | None, typer.Option("--picture", metavar="FILE", help="Draw sample images with their boxes.")] = None,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Check a data set."""
    from flows import presets
    from spnas_core.check.dataset import inspect, write_as_coco

    report = inspect(data, presets.load_preset(preset, with_reading(overrides, split_file, annotations, images)))
    if as_json:
        typer.echo(json.dumps(report.document()))
    else:
        _print(report, data)
    if picture:
        from spnas_core.check.picture import save_samples

        save_samples(report, picture)
        typer.echo(f"picture of samples: {picture}", err=as_json)
    for out in filter(None, (to_coco, mend)):
        made = write_as_coco(report, out)
        parts = [f"{split} {one.images:,} images, {one.boxes:,} boxes" for split, one in made.items()]
        left = sum(one.left for one in made.values())
        typer.echo(f"written to {out}: {'; '.join(parts)}; images left out: {left:,}", err=as_json)
    if not report.clean:
        raise typer.Exit(1)


def _print(report: Any, data: str) -> None:
    """Print a table of the splits, one line per finding, and the count of findings."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    facts = {one.split: report.facts(one) for one in report.splits}
    table = Table(title=f"{data} ({report.layout.name})", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for split in facts:
        table.add_column(split, justify="right")
    for key in ("images", "images_without_boxes", "boxes"):
        table.add_row(key.replace("_", " "), *(f"{one[key]:,}" for one in facts.values()))
    total: Counter[str] = sum((Counter(one["boxes_per_category"]) for one in facts.values()), Counter())
    for name, _ in total.most_common(CATEGORIES):
        table.add_row(f"  {name}", *(f"{one['boxes_per_category'].get(name, 0):,}" for one in facts.values()))
    if len(total) > CATEGORIES:
        table.add_row(f"  and {len(total) - CATEGORIES} more categories", *("" for _ in facts))
    console = Console(highlight=False)
    console.print(table)
    console.print()
    for finding in report.findings:
        console.print(Text(f"{finding.severity:8s}", STYLES[finding.severity]) + Text(finding.line), soft_wrap=True)
    count = Counter(finding.severity for finding in report.findings)
    words = [f"{count[severity]} {severity}{'' if count[severity] == 1 else 's'}" for severity in STYLES]
    console.print(", ".join(words))
