"""The command `spnas front`: the nets that one may take from a run, and their full training."""

import itertools
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from flows.cli.options import AsJson, MovedData, NameOption, StoreOption
from spnas_core.errors import UserError

app = typer.Typer()
_Several = list[str] | None


@app.command(
    "front",
    help="List the front of a run: its nets that no other beats in the objectives, cheapest first, with AP and its 95 % interval "
    "(bootstrap over the images of val), GMACs, parameters, size, and latency where it was measured. Differences that mean nothing are "
    "called a tie.\n\n"
    "Limits mark a net with * and recommend it: that of the highest score within them. Several limits of one kind are several budgets; "
    "limits of different kinds hold together.\n\n"
    "NET, for --train and for spnas export and eval: its number, which is that of the trial in the report, its text, or the beginning "
    "of its digest.\n\n"
    "Example: spnas front demo --store demo/store --gmacs 0.1 --gmacs 0.2 --train 2",
)
def front_command(
    name: NameOption,
    store: StoreOption = "spnas-store",
    latency: Annotated[
        _Several, typer.Option("--latency-ms", metavar="MS[@DEVICE]", help="Most latency of an image, of the run's device or another.")
    ] = None,
    gmacs: Annotated[_Several, typer.Option("--gmacs", metavar="N", help="Most multiply-adds of an image, 10^9.")] = None,
    params: Annotated[_Several, typer.Option("--params", metavar="N", help="Most parameters, millions.")] = None,
    train: Annotated[
        _Several, typer.Option("--train", metavar="NET", help="Train a net to the end, by the run's full_train; as often as needed.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the latency of all nets of the front on the run's device.")] = False,
    data: MovedData = None,
    as_json: AsJson = False,
) -> None:
    """List the front of a run."""
    from spnas_core.report.front import read_front, recommend
    from spnas_core.report.front_text import front_document, front_text
    from spnas_core.store.artifacts import Store

    limits = _limits(latency or (), gmacs or (), params or ())
    place = Store(store)
    if train or measure:
        from flows.cli.local import work_on_front

        work_on_front(place, name, train or (), measure, data)
    found = read_front(place, name, data, limits)
    choices = [recommend(found, one) for one in limits]
    typer.echo(json.dumps(front_document(found, choices)) if as_json else front_text(found, choices))


def _limits(latency: Sequence[str], gmacs: Sequence[str], params: Sequence[str]) -> list[dict[str, float]]:
    """Budgets that the options stand for: each limit of one kind with each of the others; UserError for one that is no number."""
    kinds: list[list[tuple[str, float]]] = []
    by_device: dict[str, list[tuple[str, float]]] = {}
    for text in latency:
        number, at, device = text.partition("@")
        by_device.setdefault(device, []).append((f"latency_ms{at}{device}", _number("--latency-ms", number, text)))
    kinds += by_device.values()
    for option, cost, factor, texts in (("--gmacs", "macs", 1e9, gmacs), ("--params", "params", 1e6, params)):
        kinds += [[(cost, factor * _number(option, text, text)) for text in texts]] if texts else []
    return [dict(one) for one in itertools.product(*kinds)] if kinds else []


def _number(option: str, number: str, text: str) -> float:
    try:
        value: Any = float(number)
    except ValueError:
        value = None
    if value is None or not 0 < value < float("inf"):
        raise UserError(f"{option}: expected a number above 0{', or NUMBER@DEVICE' if option == '--latency-ms' else ''}, got {text!r}")
    return float(value)
