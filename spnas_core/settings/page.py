"""All settings as a page of Markdown, made from the models, so that it says what they say."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

Schema = Mapping[str, Any]  # a JSON schema, or a part of one
LIMITS = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}


def settings_page(model: type[BaseModel]) -> str:
    """Return one table for `model` and one for each model of settings inside it: keys, values, defaults, descriptions.

    Inside means: as a field, in `X | None`, in a tuple, or as one of a union. ValueError where a field has no JSON type.
    """
    root = model.model_json_schema()
    models = {model.__name__: root, **root.get("$defs", {})}
    places: dict[str, list[str]] = {}
    for name, place in _places(models, model.__name__, ""):
        places.setdefault(name, []).append(f"`{place}`" if place else "at the top")
    parts = [
        "# All settings",
        "`spnas settings --table > docs/settings-table.md` makes this page from the models in `spnas_core/settings/` and "
        "`spnas_core/necks/`; [settings.md](settings.md) explains the settings that matter.",
    ]
    for name, found in places.items():
        lines = [("setting", "value", "default", "what it is"), ("---", "---", "---", "---")]
        for key, field in models[name].get("properties", {}).items():
            lines.append((f"`{key}`", _values(field), _default(models, field), field.get("description", "")))
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        parts += [f"## {name}", f"{models[name].get('description', '')}\n\nKey: {', '.join(found)}".strip(), table]
    return "\n\n".join(parts) + "\n"


def _places(models: Mapping[str, Schema], name: str, place: str) -> Iterator[tuple[str, str]]:
    """Walk over the models inside the model `name`: each one's name and the dotted key under which it stands."""
    yield name, place
    for key, field in models[name].get("properties", {}).items():
        for inner in _models(field):
            yield from _places(models, inner, f"{place}.{key}".lstrip("."))


def _models(part: Any) -> Iterator[str]:
    """Names of the models that a part of a schema refers to."""
    if isinstance(part, Mapping) and "$ref" in part:
        yield part["$ref"].rpartition("/")[2]
    elif isinstance(part, Mapping | list):
        for inner in part.values() if isinstance(part, Mapping) else part:
            yield from _models(inner)


def _values(field: Schema) -> str:
    """Say in words what values a field takes."""
    match field:
        case {"$ref": _}:
            (name,) = _models(field)
            return f"[{name}](#{name.lower()})"
        case {"anyOf": kinds} | {"oneOf": kinds}:
            return " or ".join(map(_values, kinds))
        case {"enum": values}:
            return " or ".join(f"`{_plain(value)}`" for value in values)
        case {"const": value}:
            return f"`{_plain(value)}`"
        case {"prefixItems": kinds}:
            return f"[{', '.join(map(_values, kinds))}]"
        case {"type": "array", "items": kind}:
            return f"list of {_one(kind)}" + (f", at least {field['minItems']}" if field.get("minItems") else "")
        case {"type": "object", "additionalProperties": kind}:
            keys = _values(field["propertyNames"]) if "propertyNames" in field else "text"
            return f"mapping of ({keys}) to {_one(kind)}"
        case {"type": "object", "patternProperties": kinds}:
            return f"mapping of text to {' or '.join(map(_one, kinds.values()))}"
        case {"type": "integer" | "number" as kind}:
            return " ".join([kind, " and ".join(text.format(field[name]) for name, text in LIMITS.items() if name in field)]).strip()
        case {"type": "boolean"}:
            return "`true` or `false`"
        case {"type": "string"}:
            return "text"
        case {"type": "null"}:
            return "`null`"
    raise ValueError(f"expected the JSON schema of a setting, got {dict(field)}")


def _one(field: Schema) -> str:
    """Say what values an item takes, in brackets where that is more than one kind."""
    words = _values(field)
    return f"({words})" if " or " in words or words.startswith("list") else words


def _default(models: Mapping[str, Schema], field: Schema) -> str:
    """Default of a field; of a model only what differs from its own defaults, and which model it is where there are several."""
    if "default" not in field:
        return "required"
    value, names = field["default"], list(_models(field))
    if isinstance(value, Mapping) and names:
        fields = next(found for name in names if _is_of(value, found := models[name]["properties"]))
        value = {
            key: item for key, item in value.items() if item != fields[key].get("default") or (len(names) > 1 and "const" in fields[key])
        }
        if not value:
            return "as listed there"
    return f"`{_plain(value)}`"


def _is_of(value: Mapping[str, Any], fields: Mapping[str, Schema]) -> bool:
    """Whether the dumped `value` is one of the model with these fields."""
    return value.keys() <= fields.keys() and all(value[key] == fields[key]["const"] for key in value if "const" in fields[key])


def _plain(value: Any) -> str:
    """Write a value as one writes it after `--set`."""
    return json.dumps(value, ensure_ascii=False).replace('"', "")
