"""The commands `spnas store ls|show|verify|gc`: artifacts of a store, the runs that need them, verification, and garbage collection."""

import json
from typing import Annotated, Any

import typer

from flows.cli.options import AsJson
from spnas_core.errors import UserError

app = typer.Typer(no_args_is_help=True, help="What is in a store and why, whether it is right, and what can go.")
_Url = Annotated[str, typer.Argument(metavar="URL", help="The store: a folder or any fsspec URL.")]


@app.command("ls", help="Artifacts, what they are, their sizes, and which runs need them.\n\nExample: spnas store ls demo/store")
def list_all(url: _Url, as_json: AsJson = False) -> None:
    """List a store."""
    _, inventory = _open(url)
    folders = {path.split("/")[0] for path in inventory.files if "/" in path}
    sizes = {folder: inventory.size(folder) for folder in sorted(folders)}
    entries = _entries(inventory)
    if as_json:
        typer.echo(json.dumps({"artifacts": entries, "runs": _runs(inventory), "sizes": sizes}))
        return
    for entry in entries:
        why = ", ".join(entry["needed_by"]) or "no run"
        print_row(entry["name"], entry["size"], f"{entry['what']}; {why}{'; ' + entry['fault'] if entry['fault'] else ''}")
    for folder, size in sizes.items():
        print_row(f"{folder}/", size, "")


@app.command(help="One artifact: its files and metrics, its sources and dependants.\n\nExample: spnas store show demo/store train/3f2a")
def show(
    url: _Url,
    name: Annotated[str, typer.Argument(metavar="NAME", help="KIND/DIGEST, of which the beginning is enough.")],
    as_json: AsJson = False,
) -> None:
    """Show an artifact."""
    _, inventory = _open(url)
    found = [entry for entry in _entries(inventory) if entry["name"].startswith(name)]
    if len(found) != 1:
        raise UserError(f"store {url}: expected the beginning of one artifact's KIND/DIGEST, got {name!r}, which {len(found)} have")
    manifest = inventory.artifacts[found[0]["name"]].manifest
    document = found[0] | {"manifest": manifest.model_dump(mode="json") if manifest else None}
    if as_json:
        typer.echo(json.dumps(document))
        return
    for key, unit in (("name", ""), ("what", ""), ("size", " bytes"), ("fault", "")):
        typer.echo(f"{key:13s} {document[key] or '-'}{unit}")
    for key in ("needed_by", "sources", "dependants"):
        typer.echo(f"{key:13s} {', '.join(document[key]) or '-'}")
    if manifest:
        typer.echo(f"{'seconds':13s} {manifest.seconds}")
        typer.echo(f"{'device':13s} {manifest.job.get('device_target') or '-'}")
        typer.echo(f"{'versions':13s} {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}")
        for file, one in manifest.files.items():
            typer.echo(f"{'file':13s} {file}, {one.size} bytes, sha256 {one.sha256}")
        for metric, value in manifest.metrics.items():
            typer.echo(f"{metric:13s} {json.dumps(value)[:100]}")


@app.command(help="Read every byte of every artifact; exit status 1 where one is corrupt.\n\nExample: spnas store verify s3://bucket/store")
def verify(url: _Url, as_json: AsJson = False) -> None:
    """Verify a store."""
    from spnas_core.monitor.housekeeping import verify_artifacts as check

    store, inventory = _open(url)
    faults = {}
    for name, fault in check(store, inventory):
        if fault:
            faults[name] = fault
        if not as_json:
            typer.echo(f"{name}: {fault or 'right'}")
    if as_json:
        typer.echo(json.dumps({"artifacts": len(inventory.artifacts), "faults": faults}))
    else:
        typer.echo(f"{len(inventory.artifacts)} artifacts, {len(faults)} of them with faults")
    if faults:
        raise typer.Exit(1)


@app.command(
    help="Say what no run needs, and how much that is; with --yes, remove it. Do so while no run works on the store that is not kept.\n\n"
    "Example: spnas store gc demo/store --keep demo"
)
def gc(
    url: _Url,
    keep: Annotated[list[str] | None, typer.Option("--keep", help="A run whose needs stay, as often as needed; else all of runs/.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove artifacts that no run needs."""
    from spnas_core.monitor.housekeeping import garbage

    store, inventory = _open(url)
    found = garbage(inventory, keep or list(inventory.runs))
    sizes = {path: inventory.size(path) for path in found}
    if not as_json:
        for path, reason in found.items():
            print_row(path, sizes[path], reason)
        whole = f"of {sum(inventory.files.values()) / 1e6:.2f} MB"
        print_row(whole, sum(sizes.values()), "" if yes else "nothing is removed without --yes")
    if yes:
        for path in found:
            store.remove(path)
    if as_json:
        removals = [{"path": path, "size": sizes[path], "reason": reason} for path, reason in found.items()]
        typer.echo(json.dumps({"removed": yes, "size": sum(sizes.values()), "paths": removals}))


def print_row(name: str, size: int, text: str) -> None:
    """Print a name (shortened if long), a size (bytes, printed in MB) and a text."""
    typer.echo(f"{name if len(name) < 48 else name[:46] + '..':48s} {size / 1e6:10.2f} MB  {text}".rstrip())


def _open(url: str) -> tuple[Any, Any]:
    from spnas_core.monitor.inventory import take_inventory
    from spnas_core.store.artifacts import Store

    store = Store(url)
    return store, take_inventory(store)


def _entries(inventory: Any) -> list[dict[str, Any]]:
    from spnas_core.monitor.housekeeping import needs

    why = needs(inventory)
    return [
        {
            "name": one.name,
            "what": one.what,
            "size": one.size,
            "fault": one.fault,
            "needed_by": why.get(one.name, []),
            "sources": list(one.sources),
            "dependants": list(inventory.dependants.get(one.name, ())),
        }
        for one in inventory.artifacts.values()
    ]


def _runs(inventory: Any) -> list[dict[str, Any]]:
    return [{"name": name, "finished": name in inventory.finished, "stages": list(stages)} for name, stages in inventory.runs.items()]
