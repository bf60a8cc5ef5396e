"""Clocks of other devices in a store: what `spnas latency import` has put there, `clocks/NAME.json`, one file for each device."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, ValidationError

from spnas_core.errors import UserError
from spnas_core.names import check_name
from spnas_core.search.clock import ClockedNet, DeviceClock, fit_of
from spnas_core.settings.base import Settings
from spnas_core.settings.run import Run
from spnas_core.store.artifacts import Store

FORM = "spnas-latency-1"  # of the files that the shipped benchmark.py writes


class LatencyFile(Settings):
    """What the shipped benchmark.py writes, as far as it counts."""

    model_config = Settings.model_config | {"extra": "ignore"}
    form: str
    device: str
    threads: int = Field(ge=0)
    provider: str
    runtime: str
    timer: Literal["clock", "processor"] = "clock"
    nets: tuple[dict[str, object], ...] = Field(min_length=1)


def parse_latencies(content: bytes, where: str) -> DeviceClock:
    """Read a file of benchmark.py as a clock; UserError, one line, for any other file, and for networks in INT8."""
    try:
        found = LatencyFile.model_validate_json(content)
        if found.form != FORM:
            raise UserError(f"{where}: expected a file of benchmark.py in the form {FORM}, got the form {found.form!r}")
        for number, one in enumerate(found.nets, start=1):
            if one.get("int8"):
                raise UserError(f"{where}: expected networks in float32, as a search has them, got net {number} in INT8")
        known = ClockedNet.model_fields
        nets = tuple(ClockedNet.model_validate({key: one[key] for key in known if key in one}) for one in found.nets)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise UserError(f"{where}: expected a file that benchmark.py has written, got: {place}: {first['msg']}") from error
    return DeviceClock(
        device=found.device, threads=found.threads, provider=found.provider, runtime=found.runtime, timer=found.timer, nets=_newest(nets)
    )


def import_latencies(store: Store, name: str, measured: DeviceClock, replace: bool = False) -> DeviceClock:
    """Add measured nets to the clock `name` of a store, newer measurements in the place of older ones, or begin it.

    UserError where that clock is of another device, or of other threads or another provider; with `replace` it is begun anew.
    """
    if name in names_of_clocks(store) and not replace:
        before = read_clock(store, name)
        ours, theirs = measured.words, before.words
        if ours != theirs:
            raise UserError(f"--name {name}: expected measurements of {theirs}, got some of {ours}; take another name, or --replace")
        measured = measured.model_copy(update={"nets": _newest((*before.nets, *measured.nets))})
    store.write(f"clocks/{check_name(name)}.json", measured.model_dump_json(indent=1).encode())
    return measured


def names_of_clocks(store: Store) -> list[str]:
    """Names of the devices whose clocks a store has."""
    return sorted(path.removesuffix(".json") for path in store.files("clocks") if "/" not in path and path.endswith(".json"))


def read_clock(store: Store, name: str) -> DeviceClock:
    """Read the clock of a device; UserError where the store has none of this name, or a malformed one."""
    if name not in (names := names_of_clocks(store)):
        there = ", ".join(names) or "there is none"
        raise UserError(f"store {store.url}: expected a device that was imported ({there}), got {name!r}; spnas latency import adds one")
    try:
        return DeviceClock.model_validate_json(store.read(f"clocks/{check_name(name)}.json"))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{store.url}/clocks/{name}.json: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def clocks_of_run(store: Store, settings: Run, classes: int) -> dict[str, DeviceClock]:
    """Clocks of the devices that count in a run; UserError where one is missing, or cannot predict nets that were not measured."""
    found = {name: read_clock(store, name) for name in settings.clocks}
    for name, clock in found.items():
        try:
            fit_of(clock, settings.detector, classes)
        except UserError as error:
            raise UserError(f"latency_ms@{name}: {error}; spnas latency sample makes nets to measure") from error
    return found


def _newest(nets: Iterable[ClockedNet]) -> tuple[ClockedNet, ...]:
    return tuple({one.identity: one for one in nets}.values())
