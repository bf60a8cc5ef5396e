"""No public name of the program has two meanings: each is defined in one module."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALLOWED = {  # one meaning in every module that defines it
    "app": "the commands of one subject, for typer",
    "main": "a module as a program",
    "run": "one kind of job, done in this process",
}


def defined(path: Path) -> list[str]:
    """Public names that a module binds at its top level."""
    names: list[str] = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        if isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [name for name in names if not name.startswith("_")]


def test_no_public_name_has_two_meanings() -> None:
    modules: dict[str, list[str]] = defaultdict(list)
    for top in ("flows", "tasks", "spnas_core"):
        for path in sorted((ROOT / top).rglob("*.py")):
            if "shipped" not in path.parts:  # it runs without this program
                for name in defined(path):
                    modules[name].append(str(path.relative_to(ROOT)))
    assert len(modules) > 500
    assert {name: places for name, places in modules.items() if len(places) > 1 and name not in ALLOWED} == {}
    assert all(len(modules[name]) > 1 for name in ALLOWED)


def test_the_core_has_seven_loose_modules() -> None:
    loose = sorted(path.stem for path in (ROOT / "spnas_core").glob("*.py") if path.stem != "__init__")
    assert loose == ["arch", "cost", "errors", "job", "mask_metrics", "metrics", "names"]
