"""The command `spnas prune`: a model without the blocks that it hardly uses."""

import json
from typing import Annotated

import typer

from flows.cli.commands.model import ModelUrl
from flows.cli.options import AsJson
from spnas_core.jobs.cpu_variables import prepare_process

app = typer.Typer()


@app.command(
    help="Leave the blocks that a model hardly uses out of it: residual branches whose last norm has nearly no gamma and beta, as that of "
    "a new block of the search at its start. The first block of a stage always stays, and eight blocks in all.\n\n"
    "Both nets see the same noise pictures; where a map of the pyramid changes by more than the tolerance, nothing is written.\n\n"
    "Example: spnas prune demo/store/runs/demo/model --below 0.02 --out demo-pruned"
)
def prune(
    model: ModelUrl,
    out: Annotated[str, typer.Option("--out", help="Folder for the smaller model: a path or any fsspec URL.")],
    below: Annotated[float, typer.Option("--below", min=0, max=1, help="Share of the largest branch of its stage.")] = 0.01,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Largest change of a map, in its standard deviations.")] = 0.01,
    as_json: AsJson = False,
) -> None:
    """Leave out unused blocks."""
    prepare_process()
    from spnas_core.export import folder, pruned

    folder.check_empty(out)
    made = pruned.prune_model(model, below, tolerance)
    folder.publish_export(made.files, out)
    if as_json:
        facts = {"before": str(made.before), "after": str(made.after), "blocks": made.left_out, "change": made.change, "folder": out}
        typer.echo(json.dumps(facts))
        return
    places = ", ".join(f"block {position} of stage {stage}" for stage, position in made.left_out)
    typer.echo(f"before      {made.before}\nleft out    {places}\nafter       {made.after}")
    typer.echo(f"change      {made.change:.2g} standard deviations of a map at most, on noise\nwritten to  {out}")
