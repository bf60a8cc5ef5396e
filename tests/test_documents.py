"""The documents: what they link to is there, and what they list is all that there is."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from flows.cli.app import app
from spnas_core.settings.page import settings_page
from spnas_core.settings.run import Run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORTENED = ("", "spnas_core", "spnas_core/export/shipped")  # folders that documents leave out before the path of a module


def commands(group: TyperGroup, prefix: str = "spnas") -> Iterator[str]:
    """Every command as one types it: `spnas store ls`."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


COMMANDS = sorted(commands(typer.main.get_command(app)))


def prose(page: Path) -> str:
    """The text of a page without its examples."""
    return re.sub(r"(?m)^ {4,}.*$", "", page.read_text())


def anchors(page: Path) -> set[str]:
    """Anchors that the headings of a page have on its web page: letters, digits and hyphens."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(page: Path, heading: str) -> list[str]:
    """Rows of the tables below a heading of a page."""
    section = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}: no such file"
        assert target.resolve().is_relative_to(ROOT), f"{page.name}: {link}: outside of the repository"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_their_names_are_there(page: Path) -> None:
    """`search/mutation.py` `swap`, `expand`: the module is there, and has these names."""
    for path, names in re.findall(r"`([\w/]+\.(?:py|yml|yaml))`((?: `[\w.]+`,?)*)", prose(page).replace("\n", " ")):
        files = [file for folder in SHORTENED if (file := ROOT / folder / path).exists()]
        assert files or path in ("my.yml", "config.yml", "mine.yml"), f"{page.name}: {path}: no such file"
        for name in re.findall(r"`([\w.]+)`", names):
            assert re.search(rf"\b{name.rpartition('.')[2]}\b", files[0].read_text()), f"{page.name}: {path} has no {name}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_explained(command: str) -> None:
    """One row of the table of commands, and examples in docs/commands.md."""
    assert len([row for row in rows(ROOT / "README.md", "Commands") if row.startswith(f"| `{command}")]) == 1
    assert re.search(rf"(?m)^    (\$ )?\.venv/bin/{command}\b", (ROOT / "docs" / "commands.md").read_text())


def test_no_other_command_is_explained() -> None:
    for row in rows(ROOT / "README.md", "Commands"):
        assert any(row.startswith((f"| `{command} ", f"| `{command}`")) for command in COMMANDS) or row.startswith("| `make "), row


def test_every_package_has_its_place_in_the_layout() -> None:
    layout = (ROOT / "docs" / "developing.md").read_text().split("\n## Layout\n")[1].split("\n## ")[0]
    for folder in ("spnas_core", "flows", "tasks"):
        for package in (ROOT / folder).glob("**/__init__.py"):
            assert re.search(rf"\b{package.parent.name}/", layout), package.parent


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "developing.md"], ids=lambda page: page.name)
def test_make_targets_are_explained(page: Path) -> None:
    (targets,) = re.findall(r"(?m)^\.PHONY: (.+)$", (ROOT / "Makefile").read_text())
    named = {name for row in page.read_text().splitlines() if row.startswith("| `make ") for name in re.findall(r"make ([\w-]+)", row)}
    assert named == set(targets.split())


def test_settings_are_described() -> None:
    schema = Run.model_json_schema()
    for name, model in {"Run": schema, **schema["$defs"]}.items():
        assert model.get("description"), f"{name}: expected a docstring"
        for key, field in model["properties"].items():
            assert field.get("description"), f"{name}.{key}: expected Field(..., description=...)"


def test_the_page_of_all_settings_is_true() -> None:
    written = (ROOT / "docs" / "settings-table.md").read_text()
    assert written == settings_page(Run), "renew it: .venv/bin/spnas settings --table > docs/settings-table.md"
