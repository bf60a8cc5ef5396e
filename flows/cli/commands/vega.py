"""The command `spnas import-vega`: conversion of a pipeline file of Vega's SP-NAS to settings of a run."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import AsJson
from spnas_core.errors import UserError

app = typer.Typer()


@app.command(
    "import-vega",
    help="Turn a pipeline file of Huawei Vega's SP-NAS, or of the MindSpore models, into settings for `spnas run`.\n\n"
    "Says of every line whether it was taken, changed (and why), or dropped.\n\nExample: spnas import-vega spnas.yml --out mine.yml",
)
def import_vega_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Vega's pipeline file.")],
    out: Annotated[Path, typer.Option("--out", help="Where the settings go; a file that is there is not overwritten.")],
    as_json: AsJson = False,
) -> None:
    """Import a pipeline file."""
    import yaml

    from flows import presets
    from spnas_core.vega.pipeline import import_vega as read

    try:
        made = read(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: expected a YAML file in UTF-8, got: {error}") from error
    settings = {"name": re.sub(r"[^a-z0-9_-]+", "-", out.stem.lower()).strip("_-") or "vega", **made.settings}
    presets.check_settings(settings, str(file))
    text = f"# From {file.name} of Vega, by `spnas import-vega`. Run it: spnas run {out} --data DATA\n"
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text + yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=140))
    except OSError as error:
        raise UserError(f"--out: expected a new file, got {out}: {error}") from error
    if as_json:
        typer.echo(json.dumps({"settings": settings, "lines": [account._asdict() for account in made.accounts]}))
        return
    for account in made.accounts:
        place = str(account.line) if account.line else "-"
        typer.echo(f"{place:>4s}  {account.action:8s} {account.key}: {account.text}")
    counts = {action: sum(account.action == action for account in made.accounts) for action in ("took", "changed", "dropped", "added")}
    typer.echo(f"{', '.join(f'{count} {action}' for action, count in counts.items())}; written to {out}")
