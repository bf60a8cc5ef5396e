"""Settings of a run: from a preset of this folder or a YAML file, with overrides of single values."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flows.presets import places
from spnas_core.errors import UserError
from spnas_core.necks import NECK_KINDS
from spnas_core.settings.detector import HEAD_KINDS, current_form
from spnas_core.settings.run import Run

FOLDER = Path(__file__).parent
_SHORT = reprlib.Repr()  # shortens values: a few characters of YAML aliases can expand to very large ones
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that reads 1111-11-11 as text (an architecture), not as a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith("timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def names() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yml"))


def load_preset(preset: str, overrides: Sequence[str] = ()) -> Run:
    """Read settings by a preset's name or a YAML file's path; each override is ``dotted.key=value`` with a value in YAML.

    Relative paths become absolute (see `places`). UserError with one line per mistake.
    """
    settings, mistakes = read_preset(preset, overrides)
    if mistakes:
        raise UserError("\n".join(mistakes))
    return settings


def read_preset(preset: str, overrides: Sequence[str] = ()) -> tuple[Run, list[str]]:
    """Read settings as `load_preset` does, but return them with all mistakes; a wrong setting gets its default."""
    folder = None if preset in names() else Path(preset).parent
    try:
        document, mistakes = _in_current_form(_read(preset)), []
    except UserError as error:
        document, mistakes = {}, [str(error)]
    document = places.found_places(document, (folder, Path.cwd()) if folder else ())
    of_file = places.relative_places(document)
    for override in overrides:
        try:
            document = _override(document, override)
        except UserError as error:
            mistakes.append(str(error))
    document, lost = places.settle_places(document, of_file, folder, preset)
    mistakes += lost
    try:
        return _validated(document), mistakes
    except ValidationError as error:
        return _without(document, error), mistakes + describe_settings(error, preset)


def check_settings(document: dict[str, Any], where: str) -> Run:
    """Validate the settings of a document; UserError with one line per wrong setting."""
    try:
        return _validated(_in_current_form(document))
    except ValidationError as error:
        raise UserError("\n".join(describe_settings(error, where))) from error


def _in_current_form(document: dict[str, Any]) -> dict[str, Any]:
    """Move former keys of the detector to their present place, so that later settings override them under either name."""
    return {**document, "detector": current_form(document["detector"], document.get("task"))} if "detector" in document else document


def _validated(document: dict[str, Any]) -> Run:
    if isinstance(document.get("arch"), int):  # an architecture of one stage
        document["arch"] = str(document["arch"])
    return Run.model_validate(document)


def _without(document: dict[str, Any], error: ValidationError) -> Run:
    """Validate a document without the keys that `error` names; the defaults if it names none."""
    for one in error.errors():
        inner, path = document, list(map(str, _keys(one)))
        while len(path) > 1 and isinstance(inner.get(path[0]), dict):
            inner = inner[path.pop(0)]
        if path:
            inner.pop(path[0], None)
    try:
        return Run.model_validate(document)
    except ValidationError:
        return Run()


def describe_settings(error: ValidationError, where: str) -> list[str]:
    """One line per error: `demo: serial.rounds: expected ..., got ...`."""
    lines = []
    for one in error.errors():
        key = _plain(".".join(map(str, _keys(one)))) or "settings"
        message = one["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        got = "" if one["type"] in ("missing", "value_error") else f", got {_SHORT.repr(one['input'])}"
        if one["type"] == "union_tag_invalid":
            lines.append(f"{where}: {key}.kind: expected one of {one['ctx']['expected_tags']}, got {_SHORT.repr(one['input']['kind'])}")
        elif one["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: expected no such key, got {_SHORT.repr(one['input'])}")
        elif one["type"] == "value_error":
            lines += [f"{where}: {key}: {_plain(line)}" for line in message.splitlines()]
        else:
            lines.append(f"{where}: {key}: expected {message[0].lower()}{message[1:]}{got}")
    return lines


def _keys(error: ErrorDetails) -> list[int | str]:
    """Path of keys to the wrong setting, without the union tags that pydantic inserts behind `head` and `neck`."""
    keys = error["loc"]
    tags: dict[int | str, tuple[str, ...]] = {"head": HEAD_KINDS, "neck": NECK_KINDS}
    listed = [number > 1 and keys[number - 2] == "other_heads" and key in HEAD_KINDS for number, key in enumerate(keys)]
    return [key for number, key in enumerate(keys) if not listed[number] and not (number and key in tags.get(keys[number - 1], ()))]


def _plain(text: str) -> str:
    """Text as one line of printable characters."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _read(preset: str) -> dict[str, Any]:
    path = FOLDER / f"{preset}.yml" if preset in names() else Path(preset)
    try:
        document = _parse(path.read_text(encoding="utf-8"), preset)
    except OSError as error:
        raise UserError(f"preset: expected one of {', '.join(names())} or a YAML file, got {preset!r}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{preset}: expected a YAML file in UTF-8, got other bytes") from error
    if not isinstance(document, dict):
        raise UserError(f"{preset}: expected a YAML mapping of settings, got {type(document).__name__}")
    return document


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # the last three: from huge numbers and deep nesting
        raise UserError(f"{_plain(where)}: expected YAML, got: {_plain(' '.join(str(error).split()))}") from error


def _override(document: dict[str, Any], override: str) -> dict[str, Any]:
    """Set one value of a document, and return the document in its current form."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set: expected key=value, got {override!r}")
    _put(document, key.strip().split("."), _parse(text, f"--set {key}"), key)
    return _in_current_form(document)


def _put(document: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    for part in path[:-1]:
        inner = document.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {_plain(key)}: expected {part!r} to hold keys, got {_SHORT.repr(inner)}")
        document[part] = document = dict(inner)  # aliases of YAML share one mapping
    document[path[-1]] = value
