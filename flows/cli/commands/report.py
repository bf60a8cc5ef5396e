"""The command `spnas report`: the report of a run as one HTML file."""

from typing import Annotated

import typer

from flows.cli.options import MovedData, NameOption, StoreOption

app = typer.Typer()


@app.command(
    help="Write the report of a run, finished or not, as one HTML file that loads nothing: trials, family, nets, curves, quality, "
    "pictures, cost, and how to do it again.\n\n"
    "A finished run has it in runs/NAME/report.html of its store already.\n\n"
    "Example: spnas report demo --store demo/store --out demo.html"
)
def report(
    name: NameOption,
    store: StoreOption = "spnas-store",
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="Where to: a path or any fsspec URL.")] = None,
    data: MovedData = None,
) -> None:
    """Report a run."""
    from spnas_core.data import files
    from spnas_core.report.inputs import reopen
    from spnas_core.report.page import report_html
    from spnas_core.report.publish import HTML
    from spnas_core.store.artifacts import Store

    opened = Store(store)
    inputs = reopen(opened, name, data)
    text = report_html(inputs)
    if out is None:
        opened.write(f"runs/{name}/{HTML}", text.encode())
        out = f"{opened.local or opened.url}/runs/{name}/{HTML}"
    else:
        files.write(out, text.encode(), "--out")
    typer.echo(f"{out}, {len(text.encode()) / 1e6:.2f} MB")
    if inputs.no_data:
        typer.echo(f"spnas: no pictures and no kinds of errors, since the data cannot be read: {inputs.no_data}", err=True)
