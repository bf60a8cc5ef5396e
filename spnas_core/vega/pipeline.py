"""A pipeline file of Huawei Vega's SP-NAS (`spnas.yml`) as settings of a run, with an account of every line.

The published variants are read: Vega's own (`examples/nas/sp_nas` of its repository, for PyTorch; also its first one, with
`serial_settings` and a configuration of mmdetection) and that of the MindSpore models (`research/cv/Spnas/src`). Which stage a section
is follows from what it does, whatever its name. `vega_rules.py` has the keys.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import yaml

from spnas_core.errors import UserError
from spnas_core.settings.run import Run
from spnas_core.settings.training import Reignite
from spnas_core.vega.rules import SectionRole, find_rule

_MOST = 10_000  # values of a file
Action = Literal["took", "changed", "dropped", "added"]
RECIPES: Mapping[SectionRole, str] = {
    "fine_tune": "fine_tune",
    "serial": "serial.recipe",
    "reignite": "reignite",
    "parallel": "parallel.recipe",
    "full_train": "full_train",
}


class Leaf(NamedTuple):
    """One value of the file: its line, its dotted key and itself."""

    line: int
    key: str
    value: Any


class Account(NamedTuple):
    """What became of one line (0: of none, it was added here)."""

    line: int
    key: str
    action: Action
    text: str


@dataclass
class Imported:
    """Settings of a run, as one would write them in a file, and what became of each line of Vega's."""

    settings: dict[str, Any] = field(default_factory=dict)
    accounts: list[Account] = field(default_factory=list)

    def put(self, key: str, value: Any) -> None:
        """Set one setting, by its dotted key."""
        *path, last = key.split(".")
        place = self.settings
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value


def import_vega(text: str, name: str) -> Imported:
    """Read a pipeline file, `name` for messages; UserError where it is none of SP-NAS, or has a value of the wrong kind."""
    leaves, document = _leaves(text, name)
    roles = _roles(document)
    if not {"serial", "parallel"} & set(roles.values()):
        raise UserError(f"{name}: expected a Vega pipeline with a stage whose search_algorithm.type is SpNasS, SpNasP or SpNas, got none")
    made = Imported()
    for leaf in sorted(leaves, key=lambda leaf: not leaf.key.endswith(".ref")):  # what stands beside a reference overrides it
        section, _, key = leaf.key.partition(".")
        if section == "pipeline":
            made.accounts.append(Account(leaf.line, section, "changed", "the five stages run always, in the order of the paper"))
        elif key.endswith(".ref"):
            made.accounts.append(Account(leaf.line, leaf.key, "took", _refer(made, leaf, roles, leaves, name)))
        elif section == "general" or section in roles:
            made.accounts.append(_take(made, leaf, key, roles.get(section, "general"), name))
        else:
            made.accounts.append(Account(leaf.line, leaf.key, "dropped", "the section is no stage of SP-NAS"))
    made.accounts.sort()
    _complete(made, set(roles.values()))
    made.settings = {key: made.settings[key] for key in Run.model_fields if key in made.settings}
    return made


def _take(made: Imported, leaf: Leaf, key: str, role: SectionRole | Literal["general"], name: str) -> Account:
    """Apply the rule for one value, and give the account of it."""
    rule = find_rule(role, key)
    try:
        settings = {} if leaf.value is None else dict(rule.settings(leaf.value))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{name}, line {leaf.line}: {leaf.key}: expected a value as Vega has it, got {leaf.value!r}") from error
    settings = {path.format(recipe=RECIPES.get(role, "")): value for path, value in settings.items()}  # type: ignore[arg-type]
    if role == "reignite":
        settings = {path: value for path, value in settings.items() if path.split(".")[-1] in Reignite.model_fields}
    for path, value in settings.items():
        made.put(path, value)
    given = ", ".join(f"{path}: {value}" for path, value in settings.items())
    action: Action = ("changed" if rule.text else "took") if settings else "dropped"
    return Account(
        leaf.line, leaf.key, action, "; ".join(filter(None, (given, rule.text or ("" if settings else "a reignition has none"))))
    )


def _refer(made: Imported, leaf: Leaf, roles: Mapping[str, SectionRole], leaves: list[Leaf], name: str) -> str:
    """Take all values of another section's part for this one."""
    section, part = leaf.key.split(".")[:2]
    below = f"{leaf.value}."
    there = [other for other in leaves if other.key.startswith(below)]
    if not there or section not in roles:
        raise UserError(f"{name}, line {leaf.line}: {leaf.key}: expected a part of this file, got {leaf.value!r}")
    for other in there:
        _take(made, other, f"{part}.{other.key.removeprefix(below)}", roles[section], name)
    return f"as {leaf.value}"


def _complete(made: Imported, roles: set[SectionRole]) -> None:
    """Turn epochs into parts of a training and pairs into lists, and add what the file does not say."""

    def add(key: str, text: str) -> None:
        made.accounts.append(Account(0, key, "added", text))

    size = made.settings.get("detector", {}).get("image_size")
    if size is not None:
        made.settings["detector"]["image_size"] = [size.get("0", size.get("1")), size.get("1", size.get("0"))]
    for path in RECIPES.values():
        recipe: Any = made.settings
        for step in path.split("."):
            recipe = recipe.get(step, {})
        if "milestones" in recipe:
            epochs, milestones = recipe.get("epochs", 12), recipe["milestones"]
            recipe["milestones"] = [round(one / epochs, 4) for one in milestones if one < epochs]
            said = "are" if len(recipe["milestones"]) == len(milestones) else "are not all"
            add(f"{path}.milestones", f"{milestones} {said} within {epochs} epochs: lr falls at {recipe['milestones'] or 'none'}")
    if "fine_tune" not in roles and "full_train" in made.settings:
        made.settings["fine_tune"] = copy.deepcopy(made.settings["full_train"])
        add("fine_tune", "the file has no such stage: the start net is trained as in full_train, to be trial 0")
    for role in ("serial", "reignite", "parallel", "full_train"):
        if role not in roles:
            add(role, "the file has no such stage: the defaults of spnas_core/settings/")


def _roles(document: Mapping[str, Any]) -> dict[str, SectionRole]:
    """Which stage each section of the file is; of two sections of one stage the first."""
    found: dict[str, SectionRole] = {}
    for section, body in document.items():
        role = _role(str(section), body) if isinstance(body, dict) else None
        if role and role not in found.values():
            found[str(section)] = role
    return found


def _role(section: str, body: Mapping[str, Any]) -> SectionRole | None:
    def at(*path: str) -> Any:
        place: Any = body
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        return place

    algorithm = str(at("search_algorithm", "type") or "")
    if algorithm.startswith("SpNas"):
        parallel = algorithm == "SpNasP" or at("search_algorithm", "sample_level") == "parallel"
        return "parallel" if parallel else "serial"
    if "Reignition" in str(at("trainer", "callbacks")) or section in ("reignition", "regnition", "reignite"):
        return "reignite"
    if section == "fine_tune" or at("model", "model_desc", "convert_pretrained") or at("trainer", "with_train") is False:
        return "fine_tune"
    return "full_train" if str(at("pipe_step", "type")) in ("TrainPipeStep", "FullyTrainPipeStep") else None


def _leaves(text: str, name: str) -> tuple[list[Leaf], dict[str, Any]]:
    """Values of the file with their lines, and the whole document."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{name}: expected a YAML mapping of a pipeline and its stages, got something else")
        leaves = []
        for leaf in _walk(loader, node, ""):
            leaves.append(leaf)
            if len(leaves) > _MOST:
                raise UserError(f"{name}: expected at most {_MOST:,} values, got more")
        return leaves, loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: expected YAML, got: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def _walk(loader: yaml.SafeLoader, node: yaml.MappingNode, above: str) -> Iterator[Leaf]:
    for key_node, value_node in node.value:
        key = f"{above}{key_node.value}"
        if isinstance(value_node, yaml.MappingNode) and value_node.value:
            yield from _walk(loader, value_node, f"{key}.")
        else:
            yield Leaf(key_node.start_mark.line + 1, key, loader.construct_object(value_node, deep=True))
