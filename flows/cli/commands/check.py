"""The command `spnas check`: faults of a data set, and its conversion to COCO layout."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from flows.cli.options import LAYOUTS, AnnotationsOption, AsJson, DataArgument, ImagesOption, Overrides, SplitFileOption, with_reading
from spnas_core.errors import UserError

app = typer.Typer()
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
CATEGORIES = 20  # rows of the table; --json prints all


@app.command(
    help="Check a data set before a run: files, boxes or masks, ids, categories, pictures that two splits share, balance, anchors.\n\n"
    f"DATA: a folder or any fsspec URL: {LAYOUTS}; or images with masks.\n\n"
    "Exit status 0: at most notes; 1: errors or warnings; 2: there is nothing to check.\n\n"
    "Example: spnas check path/to/bccd --preset bccd --picture samples.png"
)
def check(
    data: DataArgument,
    task: Annotated[
        Literal["detection", "segmentation"] | None,
        typer.Option("--task", help="What the data is for; default: segmentation where there are masks and no boxes."),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="Whose anchors and max_boxes count: a preset or a YAML file.")] = "coco",
    overrides: Overrides = None,
    mend: Annotated[
        str | None, typer.Option("--mend", metavar="OUT", help="Write the data set as COCO with all mended that can be, and list that.")
    ] = None,
    to_coco: Annotated[str | None, typer.Option("--to-coco", metavar="OUT", help="Write what is sound to a new folder, as COCO.")] = None,
    picture: Annotated[str | None, typer.Option("--picture", metavar="FILE", help="Draw sample images with their boxes or masks.")] = None,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Check a data set."""
    from flows import presets
    from spnas_core.check.dataset import inspect, write_as_coco
    from spnas_core.data.masks.mask_layouts import has_masks

    settings = presets.load_preset(preset, with_reading(overrides, split_file, annotations, images))
    if task == "segmentation" or (task is None and has_masks(data, settings.data)):
        _check_masks(data, settings.data, picture, mend or to_coco, as_json)
        return
    report = inspect(data, settings)
    if as_json:
        typer.echo(json.dumps(report.document()))
    else:
        facts = {one.split: report.facts(one) for one in report.splits}
        _print(f"{data} ({report.layout.name})", facts, ("images", "images_without_boxes", "boxes"), "boxes_per_category", report.findings)
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


def _check_masks(data: str, reading: Any, picture: str | None, out: str | None, as_json: bool) -> None:
    """Check a segmentation data set."""
    from spnas_core.check.masks import inspect_masks

    if out:
        raise UserError(f"--mend, --to-coco: expected boxes to write as COCO, got masks, which stay as they are: {data}")
    report = inspect_masks(data, reading)
    if as_json:
        typer.echo(json.dumps(report.document()))
    else:
        facts = {one.split: report.facts(one) for one in report.layout.sources}
        _print(f"{data} ({report.layout.name})", facts, ("images", "pixels", "ignored"), "pixels_per_category", report.findings)
    if picture:
        from spnas_core.check.mask_picture import save_mask_samples

        save_mask_samples(report, picture)
        typer.echo(f"picture of samples: {picture}", err=as_json)
    if not report.clean:
        raise typer.Exit(1)


def _print(title: str, facts: Mapping[str, Any], rows: Sequence[str], per_category: str, findings: Sequence[Any]) -> None:
    """Print a table of the splits, one line per finding, and the count of findings."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for split in facts:
        table.add_column(split, justify="right")
    for key in rows:
        table.add_row(key.replace("_", " "), *(f"{one[key]:,}" for one in facts.values()))
    total: Counter[str] = sum((Counter(one[per_category]) for one in facts.values()), Counter())
    for name, _ in total.most_common(CATEGORIES):
        table.add_row(f"  {name}", *(f"{one[per_category].get(name, 0):,}" for one in facts.values()))
    if len(total) > CATEGORIES:
        table.add_row(f"  and {len(total) - CATEGORIES} more categories", *("" for _ in facts))
    console = Console(highlight=False)
    console.print(table)
    console.print()
    for finding in findings:
        console.print(Text(f"{finding.severity:8s}", STYLES[finding.severity]) + Text(finding.line), soft_wrap=True)
    count = Counter(finding.severity for finding in findings)
    words = [f"{count[severity]} {severity}{'' if count[severity] == 1 else 's'}" for severity in STYLES]
    console.print(", ".join(words))
