"""Register of the runs of a store: the settings and data of each, below `runs/NAME/`, so that a name is enough to continue a run.

run.json       its settings and its data
stages.json    the keys of its stages, from which housekeeping derives its artifacts
front.json     digests of the trainings to the end that were asked for of nets of its front (report/front.py)
the rest       reports, trials and the final model (report/)
"""

import json
import threading
from itertools import count
from typing import Any

from pydantic import Field, ValidationError

from spnas_core.errors import UserError
from spnas_core.job import Data
from spnas_core.jobs.progress import log_line
from spnas_core.names import check_name
from spnas_core.run.plan import Counts, Plan
from spnas_core.run.record import KEYS
from spnas_core.search.clock import DeviceClock
from spnas_core.settings.base import Settings
from spnas_core.settings.detector import current_form
from spnas_core.settings.run import Run
from spnas_core.store.artifacts import Store

RUN_FILE, FRONT_FILE = "run.json", "front.json"
_SHOWN = 3  # differences in the line on another run of the same name


class Record(Settings):
    """Settings and data of a run: the fields of its plan."""

    settings: Run
    data: Data
    classes: int = 0
    test: Data | None = None
    checkpoint_sha256: str | None = None
    images: str | None = None
    counts: Counts = Counts()
    clocks: dict[str, DeviceClock] = Field(default={})


def plan_of(record: Record, store: Store) -> Plan:
    """Rebuild the plan of a run without opening its data; UserError for the record of an earlier version that lacks fields."""
    name = record.settings.name
    if not record.classes:
        raise UserError(f"{store.url}/runs/{name}/{RUN_FILE}: expected a record of this version; spnas resume {name} leaves one")
    facts = (record.data, record.classes, record.test, record.checkpoint_sha256, record.images, record.counts, record.clocks)
    return Plan(record.settings, store, *facts)


def announce_run(plan: Plan) -> None:
    """Write the record of `plan` before its first job and again at its end; see `announce`."""
    facts = {name: getattr(plan, name) for name in Record.model_fields}
    announce(plan.store, plan.settings.name, plan.keys, Record(**facts))


def announce(store: Store, name: str, keys: dict[str, str], record: Record | None = None) -> None:
    """Write the keys of the stages, and the record of a run, below `runs/NAME/`.

    Where the name belongs to another run (other settings, data or program, hence other keys), the files of that run move to `runs/NAME-1/`,
    or the next free number, and it stays a run of the store; one line says so.
    """
    with store.claim("runs", name) as claim:
        claim.acquire(lambda: None, threading.Event(), lambda: None)
        before = _read(store, name, KEYS)
        if before not in (None, keys):
            number = next(n for n in count(1) if _read(store, f"{name}-{n}", KEYS) in (None, before))
            difference = _difference(_read(store, name, RUN_FILE), record.model_dump(mode="json")) if record else "with other settings"
            _move(store, name, f"{name}-{number}")
            log_line(f"run {name!r} of {store.url} was another ({difference}): what it left is now run '{name}-{number}', nothing is lost")
        if record:
            store.write(f"runs/{name}/{RUN_FILE}", record.model_dump_json(indent=1).encode())
        store.write(f"runs/{name}/{KEYS}", json.dumps(keys, indent=1).encode())


def names_of_runs(store: Store) -> list[str]:
    """Names of the runs of a store, studies left out."""
    return sorted(path.split("/")[0] for path in store.files("runs") if path.endswith(f"/{RUN_FILE}") and path.count("/") == 1)


def read_run(store: Store, name: str) -> Record:
    """Read the record of the run `name`, its settings under that name; UserError for a run that the store does not have."""
    if name not in (names := names_of_runs(store)):
        raise UserError(f"store {store.url}: expected one of its runs ({', '.join(names) or 'there is none'}), got {name!r}")
    try:
        record = Record.model_validate_json(store.read(f"runs/{check_name(name)}/{RUN_FILE}"))
        return record.model_copy(update={"settings": Run.model_validate({**record.settings.model_dump(), "name": name})})
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{store.url}/runs/{name}/{RUN_FILE}: {'.'.join(map(str, first['loc']))}"
        raise UserError(f"{where}: expected settings as this version has them, got: {first['msg']}") from error


def _read(store: Store, name: str, file: str) -> Any:
    """Content of a JSON file of a run; None where it is missing or no JSON."""
    try:
        return json.loads(store.read(f"runs/{name}/{file}"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def _move(store: Store, name: str, target: str) -> None:
    """Move the files of a run, the keys of its stages last: an interrupted move starts anew."""
    for path in sorted(store.files(f"runs/{name}"), key=lambda path: path == KEYS):
        store.write(f"runs/{target}/{path}", store.read(f"runs/{name}/{path}"))
    store.remove(f"runs/{name}")


def _difference(before: Any, now: dict[str, Any]) -> str:
    """Say in what two records differ: `serial.rounds 3, now 4`."""
    if not isinstance(before, dict) or not isinstance(before.get("settings"), dict):
        return "with other settings"
    former = before["settings"]
    old, new = flat({**former, "detector": current_form(former.get("detector"))}), flat(now["settings"])
    found = [f"{key} {old.get(key)}, now {new.get(key)}" for key in new | old if old.get(key) != new.get(key)]
    if not isinstance(before.get("data"), dict) or before["data"].get("fingerprint") != now["data"]["fingerprint"]:
        found.append("other data")
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more or "by another version of the program"


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings, or any nested mapping, by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
