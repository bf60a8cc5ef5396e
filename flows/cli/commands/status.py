"""The command `spnas status`: progress of runs, from their store alone."""

import json
import sys
import time
from typing import Annotated, Any

import typer

from flows.cli.options import AsJson, StoreOption

app = typer.Typer()
EVERY = 2.0  # s between two updates


@app.command(
    help="Say how far a run is: stage, round, candidates, epochs, best net, failures, where the time goes, time left; without RUN, all "
    "runs of the store. It reads nothing but the store, so it works from any machine that can.\n\n"
    "Example: spnas status demo --store demo/store --watch"
)
def status(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name of the run, as in the folder runs/ of the store.")] = None,
    store: StoreOption = "spnas-store",
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until the run has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the progress of runs."""
    from rich.console import Console
    from rich.live import Live

    from spnas_core.monitor.status import Watcher, all_runs
    from spnas_core.store.artifacts import Store

    place = Store(store)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if run is None:
        found = all_runs(place)
        if as_json:
            typer.echo(json.dumps([one.document() for one in found]))
        else:
            console.print(_runs(found) if found else f"no run in {place.url}")
            for line in (line for one in found if one.state == "unknown" for line in one.failures):
                console.print(line, markup=False, soft_wrap=True)
        return
    watcher = Watcher(place, run)
    now = watcher.look()
    if as_json:
        typer.echo(json.dumps(now.document()))
        return
    if not watch:
        console.print(_page(now))
        return
    with Live(_page(now), console=console, auto_refresh=False) as live:
        while now.state in ("running", "not running"):
            time.sleep(EVERY)
            now = watcher.look()
            live.update(_page(now), refresh=True)


def _runs(found: list[Any]) -> Any:
    """Table with one line per run."""
    from rich.table import Table

    table = Table("run", "state", "stage", box=None, pad_edge=False)
    for name in ("jobs", "best score", "time left"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        table.add_row(one.name, one.state, _stage(one), f"{one.done} of {one.total}", _score(one.best), _left(one))
    return table


def _page(now: Any) -> Any:
    """Details of one run."""
    from rich.console import Group
    from rich.table import Column, Table
    from rich.text import Text

    from spnas_core.jobs import timing
    from spnas_core.jobs.progress import duration

    lines = [Text(f"{now.name}: {now.state}, {_stage(now)}, {now.done} of {now.total} jobs", "bold")]
    lines.append(Text(f"time of the jobs so far {duration(now.spent)}, left {_left(now)}"))
    if now.best:
        size = f"{now.best['params'] / 1e6:.2f} M parameters, {now.best['macs'] / 1e9:.2f} GMACs"
        lines.append(Text(f"best so far {now.best['arch']}: {_scores(now.best)}, {size} ({now.best['label']})"))
    lines += [Text(f"failed: {line}", "red") for line in now.failures]
    jobs = Table("job", "state", "progress", box=None, pad_edge=False, show_header=False)
    for one in now.jobs:
        jobs.add_row(one.label, one.state, _progress(one) if one.state == "running" else "")
    title, *rows = timing.timing_table(now.timing)
    table = Table(title[0], *(Column(name, justify="right", no_wrap=True) for name in title[1:]), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return Group(*lines, *([Text(), jobs] if now.jobs else []), *([Text(), table] if now.timing else []))


def _stage(now: Any) -> str:
    if now.state == "finished":
        return "all stages"
    return f"{now.stage} round {now.round} of {now.rounds}" if now.rounds and now.round else str(now.stage)


def _score(best: dict[str, Any] | None) -> str:
    from spnas_core.settings.task import task_of_metrics

    name = task_of_metrics(best or {}).score
    return f"{100 * best[name]:.1f}" + ("" if name == "AP" else f" {name}") if best and best[name] >= 0 else "-"


def _scores(best: dict[str, Any]) -> str:
    """Scores of the best net by their names, in per cent."""
    from spnas_core.settings.task import task_of_metrics

    return ", ".join(f"{name} {100 * best[name]:.1f}" if best[name] >= 0 else f"{name} -" for name in task_of_metrics(best).scores)


def _left(now: Any) -> str:
    from spnas_core.jobs.progress import duration

    return "not known yet" if now.left is None else f"about {duration(now.left)}" if now.left else "none"


def _progress(one: Any) -> str:
    """Progress of a running job as text."""
    from spnas_core.jobs.progress import duration, line

    event = one.progress
    words = {"start": "starts", "compile": "compiles", "resume": "goes on", "evaluate": "evaluates", "scored": "ends"}
    kind = str(event.get("event", "starts"))
    text = words.get(kind) or line("", event).removeprefix(": ")
    return f"{text}; not heard of for {duration(one.silent)}" if one.silent > 30 else text
