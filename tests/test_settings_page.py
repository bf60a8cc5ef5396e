"""The page of all settings, on models of every shape that settings may have."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from spnas_core.settings.page import settings_page


class TwoStage(BaseModel):
    """Two boxes."""

    kind: Literal["two_stage"] = Field("two_stage", description="which head")
    width: int = Field(8, gt=0, description="channels | per layer")


class OneStage(BaseModel):
    kind: Literal["one_stage"] = Field("one_stage", description="which head")
    width: int = Field(4, description="channels")
    focal: float | None = Field(None, ge=0, lt=1, description="alpha")


class Short(BaseModel):
    epochs: int = Field(12, description="passes")
    scales: tuple[float, ...] = Field((1.0,), min_length=1, description="factors")
    limits: dict[Literal["a", "b"], float | None] = Field(description="by kind")


class Search(BaseModel):
    recipe: Short | None = Field(None, description="training")


class Whole(BaseModel):
    """All of it."""

    size: tuple[int, int] = Field((1, 2), description="h, w")
    pairs: tuple[tuple[Literal["x", "y"], ...], ...] = Field((), description="letters")
    name: str = Field("n", description="a name")
    flip: bool = Field(True, description="mirror")
    own: TwoStage = Field(TwoStage(), description="a head")
    head: Annotated[TwoStage | OneStage, Field(discriminator="kind")] = Field(OneStage(focal=0.5), description="one of two heads")
    serial: Search = Field(Search(), description="first")
    final: Short = Field(Short(epochs=20, limits={}), description="last")


@pytest.mark.parametrize(
    ("section", "row"),
    [
        ("Whole", "| `size` | [integer, integer] | `[1, 2]` | h, w |"),
        ("Whole", "| `pairs` | list of (list of (`x` or `y`)) | `[]` | letters |"),
        ("Whole", "| `name` | text | `n` | a name |"),
        ("Whole", "| `flip` | `true` or `false` | `true` | mirror |"),
        ("Whole", "| `own` | [TwoStage](#twostage) | as listed there | a head |"),
        ("Whole", "| `head` | [TwoStage](#twostage) or [OneStage](#onestage) | `{kind: one_stage, focal: 0.5}` | one of two heads |"),
        ("Whole", "| `serial` | [Search](#search) | as listed there | first |"),
        ("Whole", "| `final` | [Short](#short) | `{epochs: 20, limits: {}}` | last |"),
        ("TwoStage", "| `kind` | `two_stage` | `two_stage` | which head |"),
        ("TwoStage", "| `width` | integer > 0 | `8` | channels \\| per layer |"),
        ("OneStage", "| `focal` | number ≥ 0 and < 1 or `null` | `null` | alpha |"),
        ("Search", "| `recipe` | [Short](#short) or `null` | `null` | training |"),
        ("Short", "| `scales` | list of number, at least 1 | `[1.0]` | factors |"),
        ("Short", "| `limits` | mapping of (`a` or `b`) to (number or `null`) | required | by kind |"),
    ],
)
def test_a_row_says_values_default_and_meaning(section: str, row: str) -> None:
    assert row in sections()[section].splitlines()


def test_a_section_says_what_a_model_is_and_where_it_stands() -> None:
    assert list(sections()) == ["Whole", "TwoStage", "OneStage", "Search", "Short"]
    assert sections()["Whole"].startswith("All of it.\n\nKey: at the top\n\n| setting |")
    assert sections()["TwoStage"].startswith("Two boxes.\n\nKey: `own`, `head`\n\n")
    assert sections()["OneStage"].startswith("Key: `head`\n\n")
    assert sections()["Short"].startswith("Key: `serial.recipe`, `final`\n\n")


def test_a_field_without_a_word_is_an_error() -> None:
    class Vague(BaseModel):
        thing: Any = Field(None, description="anything")

    with pytest.raises(ValueError, match="expected the JSON schema of a setting, got"):
        settings_page(Vague)


def sections() -> dict[str, str]:
    """Sections of the page of `Whole`, by heading."""
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in settings_page(Whole).split("\n## ")[1:]}
