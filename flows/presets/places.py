"""Places in the settings of a run, such as a checkpoint's: relative paths are resolved once, where the settings are read.

A path in a settings file is relative to the file's folder or else to the current one; one of `--set`, to the current folder. Jobs and
workers run in other folders, so nothing behind this door has a relative path.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spnas_core.errors import UserError
from spnas_core.settings.run import Run

PLACES = ("checkpoint", "reignite.data", "data.split_file")


def relative_places(document: Mapping[str, Any]) -> dict[str, str]:
    """Relative paths in a document of settings, by their dotted keys."""
    found = {}
    for key in PLACES:
        value: Any = document
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str) and value and "://" not in value and not Path(value).is_absolute():
            found[key] = value
    return found


def found_places(document: dict[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """Document with absolute paths where the first of `folders` has the relative one; other paths stay as they are."""
    for key, value in relative_places(document).items():
        places = _tried(value, folders)
        if there := next((place for place in places if place.exists()), None):
            document = _with(document, key, str(there))
    return document


def settle_places(
    document: dict[str, Any], of_file: Mapping[str, str], folder: Path | None, where: str
) -> tuple[dict[str, Any], list[str]]:
    """Document with absolute paths, and a line for each of a settings file, in `folder`, that is nowhere.

    `of_file` has the relative paths of that file, as long as they were not found. All others are relative to the current folder.
    """
    mistakes = []
    for key, value in relative_places(document).items():
        if folder and of_file.get(key) == value and len(places := _tried(value, (folder, Path.cwd()))) > 1:
            mistakes.append(f"{where}: {key}: expected a file or folder beside the settings, {places[0]}, or {places[1]}; there is none")
        document = _with(document, key, str(_tried(value, (Path.cwd(),))[0]))
    return document, mistakes


def settle_run(run: Run) -> Run:
    """Give the settings of an earlier run absolute paths, from the current folder where they are relative."""
    document = run.model_dump(mode="json")
    return Run.model_validate(settle_places(document, {}, None, "")[0]) if relative_places(document) else run


def check_places(run: Run) -> Run:
    """Return settings that came without a file to a worker; UserError, one line, where they have relative paths."""
    for key, value in relative_places(run.model_dump(mode="json")).items():
        raise UserError(f"settings: {key}: expected an absolute path or a URL, since a worker has another folder, got {value!r}")
    return run


def _tried(value: str, folders: Sequence[Path]) -> list[Path]:
    """Places that a relative path may mean, without repetition."""
    path = Path(value).expanduser()
    return list(dict.fromkeys(folder.absolute() / path for folder in folders))


def _with(document: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """Document with another value of a dotted key."""
    first, _, rest = key.partition(".")
    return {**document, first: _with(document[first], rest, value) if rest else value}
