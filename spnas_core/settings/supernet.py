"""Settings of a supernet: the family of nets in it, its training, how its paths are scored, and the evolution among them."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from spnas_core.settings.base import Settings
from spnas_core.settings.training import Recipe

_Eighths = Annotated[int, Field(ge=1, le=16)]


class FamilySpace(Settings):
    """Nets around the start net that a supernet holds."""

    fewer: NonNegativeInt = Field(1, description="most blocks that a stage may have less than in the start net")
    more: NonNegativeInt = Field(1, description="most blocks that it may have more")
    shift: int = Field(1, ge=0, le=2, description="most blocks by which each `-` moves")
    inner: tuple[_Eighths, ...] = Field(
        (8,), min_length=1, description="inner widths that a stage may have, in eighths, such as [4, 6, 8]; those of the start net too"
    )


class PathTraining(Settings):
    """Which member of its family a supernet trains in each step."""

    bands: PositiveInt = Field(7, description="bands of equal width in MACs, over which the drawn members are spread evenly")
    sandwich: float = Field(0.0, ge=0, le=1, description="share of the steps that train the smallest or the largest member instead")


class Evolution(Settings):
    """Evolution among the paths of a supernet, on their scores."""

    generations: PositiveInt = Field(10, description="generations, of which the first is drawn evenly over bands of MACs")
    draws: PositiveInt = Field(20, description="paths that each generation scores")
    entropy: PositiveFloat | None = Field(
        None, description="score this many paths per nat of the population's genes' entropy instead, `draws` at most; null: always `draws`"
    )
    population: PositiveInt = Field(50, description="the last so many paths are parents; older ones have aged out")
    tournament: PositiveInt = Field(
        5, description="paths drawn for each parent; the best of them by Pareto rank, then score, is the parent"
    )
    crossover: float = Field(0.5, ge=0, le=1, description="share of children of two parents; the others are mutants of one")
    mutation: float = Field(0.1, gt=0, le=1, description="probability that a mutant draws a gene anew")


class Supernet(Settings):
    """Many nets for one training: a supernet is trained once, and its paths are scored instead of trained."""

    family: FamilySpace = Field(FamilySpace(), description="nets in it")
    recipe: Recipe = Field(Recipe(), description="its training, which starts from the start net's weights")
    paths: PathTraining = Field(PathTraining(), description="which path each step trains")
    calibration: PositiveInt = Field(20, description="training batches from which a path's norms get their statistics before it is scored")
    evolution: Evolution = Field(Evolution(), description="search among its paths")
    finalists: PositiveInt = Field(4, description="best paths that are trained by serial.recipe and enter the ledger")

    @model_validator(mode="after")
    def _plain_recipe(self) -> "Supernet":
        plain = Recipe()
        for name in ("mixed_precision", "freeze_inherited", "eval_epochs", "ema", "scored_epochs", "inherited_batches"):
            if (value := getattr(self.recipe, name)) != (known := getattr(plain, name)):
                raise ValueError(f"expected recipe.{name} to be {known} for a supernet, got {value}")
        return self
