"""The command `spnas split`: train, val and test, or folds, of a data set that is not split."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from flows.cli.options import AnnotationsOption, AsJson, DataArgument, ImagesOption, reading
from spnas_core.errors import UserError

app = typer.Typer()


@app.command(
    "split",
    help="Divide the images of a data set into train, val and test: every class in its share, images of one group together, and so "
    "pictures that are the same or nearly the same.\n\n"
    "A small file says which image is where; pictures are neither moved nor copied. All commands find it in the data set, or take it by "
    "--split. A data set that has a test split keeps it: give --test 0.\n\n"
    "Example: spnas split path/to/raccoon --val 0.2 --test 0.2 --group '^(.*?)_frame'",
)
def split_command(
    data: DataArgument,
    val: Annotated[float, typer.Option("--val", min=0, max=1, help="Share of the images for val.")] = 0.15,
    test: Annotated[float, typer.Option("--test", min=0, max=1, help="Share of the images for test.")] = 0.15,
    folds: Annotated[int, typer.Option("--folds", min=0, help="Folds in place of --val: one file each, FILE with -1, -2, ...")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the order of images that are alike to the division.")] = 0,
    group: Annotated[
        str | None, typer.Option("--group", metavar="REGEX", help="Images whose names have the same first group in it stay together.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="The file; default: spnas-split.json in the data set.")] = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Divide a data set."""
    from spnas_core.check.divide import divide, divide_folds
    from spnas_core.data.split_file import split_file_beside, write_split_file
    from spnas_core.settings.reading import Reading

    if folds == 1:
        raise UserError("--folds: expected at least 2, got 1")
    given = Reading.model_validate(reading(annotations=annotations, images=images))
    if folds:
        divisions = divide_folds(data, folds, test, seed, group, given)
    else:
        divisions = [divide(data, {"val": val, "test": test}, seed, group, given)]
    place = out or split_file_beside(data)
    stem, dot, ending = place.rpartition(".") if "." in place.rpartition("/")[2] else (place, "", "")
    places = [f"{stem}-{number}{dot}{ending}" for number in range(1, folds + 1)] if folds else [place]
    words = [
        f"--folds {folds}" if folds else f"--val {val:g}",
        f"--test {test:g}",
        f"--seed {seed}",
        *([f"--group {group!r}"] if group else []),
    ]
    made = " ".join(("spnas split", *words))
    for url, division in zip(places, divisions, strict=True):
        write_split_file(url, division.parts(), made)
    if as_json:
        documents = [{"file": url, **_document(one)} for url, one in zip(places, divisions, strict=True)]
        typer.echo(json.dumps(documents if folds else documents[0]))
        return
    _print(divisions, places)


def _document(division: Any) -> dict[str, Any]:
    """One division for JSON."""
    return {
        "images": {name: len(images) for name, images in division.images.items()},
        "images_per_category" if division.masks else "boxes_per_category": division.boxes,
        "images_in_groups": division.grouped,
    }


def _print(divisions: Sequence[Any], places: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for division, place in zip(divisions, places, strict=True):
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for name in division.images:
            table.add_column(name, justify="right")
        table.add_row("images", *(f"{len(images):,}" for images in division.images.values()))
        for kind in next(iter(division.boxes.values())):
            table.add_row(
                f"  {'images with' if division.masks else 'boxes of'} {kind}", *(f"{some[kind]:,}" for some in division.boxes.values())
            )
        console.print(table)
        console.print(f"written to {place}", markup=False, soft_wrap=True)
    if divisions[0].grouped:
        console.print(f"{divisions[0].grouped:,} images stay together with others")
