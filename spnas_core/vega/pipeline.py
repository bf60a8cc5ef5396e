"""A pipeline file of Huawei Vega's SP-NAS (`spnas.yml`) as settings of a run, with an account of every line.

The published variants are read: Vega's own (`examples/nas/sp_nas` of its repository, for PyTorch; also its first one, with
`serial_settings` and a configuration of mmdetection) and that of the MindSpore models (`research/cv/Spnas/src`). Which stage a section
is follows from what it does, whatever its name. `rules.py` has the keys.
"""

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from spnas_core.errors import UserError
from spnas_core.settings.run import Run
from spnas_core.settings.training import Reignite
from spnas_core.vega.references import References
from spnas_core.vega.rules import SectionRole, find_rule
from spnas_core.vega.tree import Leaf, Tree, parse_tree

Action = Literal["took", "changed", "dropped", "added"]
RECIPES: Mapping[SectionRole, str] = {
    "fine_tune": "fine_tune",
    "serial": "serial.recipe",
    "reignite": "reignite",
    "parallel": "parallel.recipe",
    "full_train": "full_train",
}


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
    try:
        return _imported(*parse_tree(text, name), name)
    except RecursionError as error:
        raise UserError(f"{name}: expected mappings and references of a few levels, got too many") from error


def _imported(leaves: list[Leaf], tree: Tree, name: str) -> Imported:
    roles = _roles(tree, name)
    if not {"serial", "parallel"} & set(roles.values()):
        raise UserError(f"{name}: expected a Vega pipeline with a stage whose search_algorithm.type is SpNasS, SpNasP or SpNas, got none")
    made, references = Imported(), References(tree, name)
    used = {section: _take_referred(made, references, tree[section], role, name, section) for section, role in roles.items()}
    all_used = set().union(*used.values())
    for leaf in leaves:
        section, _, key = leaf.key.partition(".")
        if section == "pipeline":
            made.accounts.append(Account(leaf.line, section, "changed", "the five stages run always, in the order of the paper"))
        elif (leaf.line, leaf.key) in references.followed:
            further = [one.value for one in leaves if one.key.startswith(f"{leaf.value}.") and (one.line, one.key) in references.followed]
            made.accounts.append(_account_of_reference(references, leaf, further, used.get(section, all_used)))
        elif section == "general" or section in roles:
            made.accounts.append(_take(made, leaf, key, roles.get(section, "general"), name))
        elif (leaf.line, leaf.key) in all_used:
            made.accounts.append(Account(leaf.line, leaf.key, "took", "by a stage that refers to it"))
        else:
            made.accounts.append(Account(leaf.line, leaf.key, "dropped", "the section is no stage of SP-NAS"))
    made.accounts.sort()
    _complete(made, set(roles.values()))
    made.settings = {key: made.settings[key] for key in Run.model_fields if key in made.settings}
    return made


def _take_referred(made: Imported, references: References, part: Tree, role: SectionRole, name: str, section: str) -> set[tuple[int, str]]:
    """Take what a section has by its references alone, and say of which values, by line and key, settings were made."""
    used = set()
    for key, leaf in references.leaves(references.merged(part)):
        if leaf.key != f"{section}.{key}" and _take(made, leaf, key, role, name).action != "dropped":
            used.add((leaf.line, leaf.key))
    return used


def _account_of_reference(references: References, ref: Leaf, further: list[str], used: set[tuple[int, str]]) -> Account:
    """Give the account of a reference to a part that has the references `further` in turn; settings were made of the values `used`."""
    there = [leaf for _, leaf in references.leaves(references.referred(ref))]
    text = f"as {ref.value}" + (f", which refers to {', '.join(further)}" if further else "")
    if any((leaf.line, leaf.key) in used for leaf in there):
        return Account(ref.line, ref.key, "took", text)
    return Account(ref.line, ref.key, "dropped", f"{text}; no setting of this stage comes from there")


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


def _roles(tree: Tree, name: str) -> dict[str, SectionRole]:
    """Which stage each section of the file is, by what it has itself or else by its references; of two sections of one stage the first."""
    found: dict[str, SectionRole] = {}
    for section, part in tree.items():
        if not isinstance(part, dict) or section == "general":
            continue
        role = _role(section, part)
        if role is None:
            with contextlib.suppress(UserError):  # of a section that is no stage
                role = _role(section, References(tree, name).merged(part))
        if role and role not in found.values():
            found[section] = role
    return found


def _role(section: str, body: Tree) -> SectionRole | None:
    def at(*path: str) -> Any:
        place: Any = body
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, dict):  # of which only its own values count
            return {key: one.value for key, one in place.items() if isinstance(one, Leaf)}
        return place.value if isinstance(place, Leaf) else None

    algorithm = str(at("search_algorithm", "type") or "")
    if algorithm.startswith("SpNas"):
        parallel = algorithm == "SpNasP" or at("search_algorithm", "sample_level") == "parallel"
        return "parallel" if parallel else "serial"
    if "Reignition" in str(at("trainer", "callbacks")) or section in ("reignition", "regnition", "reignite"):
        return "reignite"
    if section == "fine_tune" or at("model", "model_desc", "convert_pretrained") or at("trainer", "with_train") is False:
        return "fine_tune"
    return "full_train" if str(at("pipe_step", "type")) in ("TrainPipeStep", "FullyTrainPipeStep") else None
