"""The commands `spnas latency sample|export|import|show`: the clock of another device."""

import json
import statistics
from typing import Annotated, Any

import typer

from flows.cli.options import AsJson, NameOption, Overrides, PresetArgument, StoreOption
from spnas_core.errors import UserError
from spnas_core.jobs.cpu_variables import prepare_process

app = typer.Typer(no_args_is_help=True, help="Latency on another device: nets to measure there, and what was measured.")
_Out = Annotated[str, typer.Option("--out", help="Folder for the networks: a path or any fsspec URL.")]
SCATTER = 0.25  # of the rounds of a net, above which a fit predicts little
_RUN = "python benchmark.py in this folder, on the device, writes latency.json; it needs onnxruntime and numpy alone"


@app.command(
    help="Write ONNX networks of the space of a search, with new weights, and the script that measures them on any device with Python, "
    "onnxruntime and numpy. They are as unlike each other as the space allows, and all within the budget.\n\n"
    "Example: spnas latency sample bccd --classes 3 --nets 12 --out to-measure"
)
def sample(
    preset: PresetArgument,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Classes of the data set.")],
    out: _Out,
    nets: Annotated[int, typer.Option("--nets", min=1, max=99, help="How many.")] = 12,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write nets of a space to measure."""
    prepare_process()
    from flows import presets
    from spnas_core.search.costs import candidate_cost
    from spnas_core.search.sample import sample_nets

    settings = presets.load_preset(preset, overrides or ())
    own = settings.detector
    found = sample_nets(settings, nets, lambda net: candidate_cost(net.arch, net.detector(own), classes), classes)
    _write([(net.arch, net.detector(own)) for net in found], classes, out, as_json)


@app.command(
    "export",
    help="Write the nets of the front of a run (spnas front) as ONNX networks, with new weights, and the script that measures them.\n\n"
    "Example: spnas latency export demo --store demo/store --out to-measure",
)
def export_front(name: NameOption, out: _Out, store: StoreOption = "spnas-store", as_json: AsJson = False) -> None:
    """Write nets of a front to measure."""
    prepare_process()
    from spnas_core.report.inputs import reopen_stage
    from spnas_core.report.offered import all_fronts
    from spnas_core.store.artifacts import Store

    plan, stage = reopen_stage(Store(store), name)
    found = [one.net for one in all_fronts(plan, stage).values()]
    _write([(net.arch, net.detector(plan.settings.detector)) for net in found], plan.classes, out, as_json)


@app.command(
    "import",
    help="Put what benchmark.py has measured into a store, under the name of the device. From then on latency_ms@NAME is an objective, "
    "budget.device_ms a limit, and spnas front has a column for it. Nets that were not measured are predicted from those that were, six "
    "or more of the same classes and head; the error told is that of each measured net predicted from the others.\n\n"
    "Example: spnas latency import latency.json --name phone --store path/to/store",
)
def import_file(
    file: Annotated[str, typer.Argument(metavar="FILE", help="latency.json of benchmark.py: a path or any fsspec URL.")],
    name: Annotated[str, typer.Option("--name", help="Name of the device: a-z, 0-9, '_' and '-'.")],
    store: StoreOption = "spnas-store",
    replace: Annotated[bool, typer.Option("--replace", help="Forget what was imported under this name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Import measurements."""
    from pydantic import TypeAdapter, ValidationError

    from spnas_core.data import files
    from spnas_core.run.clocks import import_latencies, parse_latencies
    from spnas_core.settings.search import DeviceName
    from spnas_core.store.artifacts import Store

    try:
        TypeAdapter(DeviceName).validate_python(name)
    except ValidationError as error:
        raise UserError(f"--name: expected a-z, 0-9, '_' and '-', and no '_' or '-' first, got {name!r}") from error
    try:
        content = files.local_file(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: expected a file that benchmark.py has written, got: {error.strerror}") from error
    _show(name, import_latencies(Store(store), name, parse_latencies(content, file), replace), as_json)


@app.command("show", help="Say what was measured on a device, and how far its predictions are off.\n\nExample: spnas latency show phone")
def show_clock(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the device.")],
    store: StoreOption = "spnas-store",
    as_json: AsJson = False,
) -> None:
    """Show the clock of a device."""
    from spnas_core.run.clocks import read_clock
    from spnas_core.store.artifacts import Store

    _show(name, read_clock(Store(store), name), as_json)


def _write(nets: list[Any], classes: int, out: str, as_json: bool) -> None:
    from spnas_core.export.to_measure import write_networks

    names: dict[str, int] = {}
    for number, (name, size) in enumerate(write_networks(nets, classes, out)):
        names[name] = size
        if not as_json:
            typer.echo(f"{size:12,} bytes  {name}  {nets[number][0]}")
    if as_json:
        typer.echo(json.dumps({"folder": out, "networks": names}))
    else:
        typer.echo(f"written to {out}: {_RUN}")


def _show(name: str, clock: Any, as_json: bool) -> None:
    from spnas_core.search.clock import clock_fits

    fits = clock_fits(clock)
    if as_json:
        found = [{"nets": count, "refused": fit} if isinstance(fit, str) else {"nets": count, **fit._asdict()} for count, fit in fits]
        typer.echo(json.dumps({"name": name, **clock.model_dump(mode="json"), "fits": found}))
        return
    for one in clock.nets:
        (low, high), (height, width) = one.spread_ms, one.detector.image_size
        typer.echo(f"{one.latency_ms:9.2f} ms ({low:.2f} to {high:.2f})  {one.arch} at {height}x{width}")
    scatter = statistics.median(one.spread_ms[1] / one.spread_ms[0] - 1 for one in clock.nets)
    typer.echo(f"{name}: {clock.words}, {clock.runtime}")
    busy = "; the device did other work meanwhile, measure again, with --busy if it cannot rest" if scatter > SCATTER else ""
    typer.echo(f"slowest round of a net over its fastest: {100 * scatter:+.0f} % (median){busy}")
    for count, fit in fits:
        if isinstance(fit, str):
            typer.echo(f"these nets alone, no prediction of others: {fit}")
        else:
            share = f"{100 * fit.mean_error:.0f} % off on average, {100 * fit.worst_error:.0f} % at most"
            typer.echo(f"other nets are predicted from {count}: left out one by one, these are {share}")
