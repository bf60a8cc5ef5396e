"""Settings of the search: its space and budget, what trials are ranked by, its operators and rounds."""

from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from spnas_core import arch as architecture
from spnas_core.settings.base import Limit, Settings, Taps, TypeText
from spnas_core.settings.supernet import Supernet
from spnas_core.settings.task import DETECTION, Score
from spnas_core.settings.training import Recipe

Objective = Literal[Score, "params", "macs", "latency_ms", "memory_mb"]
Objectives = tuple[Objective, ...]
SCORES: Objectives = DETECTION.scores  # the higher the better; of the others, the lower
OBJECTIVES: Objectives = ("AP", "macs")
COUNTED: Objectives = (DETECTION.score, "macs")  # what ranks nets that nobody has measured
MEASURED: Objectives = ("latency_ms", "memory_mb")  # on the run's device; the others are counted, or scores


class Mutation(Settings):
    """Operators of the serial search (SP-NAS, section 3.2)."""

    num_mutate: PositiveInt = Field(3, description="operations from parent to child")
    add_stage: float = Field(0.05, ge=0, le=1, description="probability that one operation appends a stage")
    change_type: float = Field(0.05, ge=0, le=1, description="probability that it changes the block type, where the space has several")
    move_double: float = Field(
        0.0, ge=0, le=1, description="probability that it moves a `2` past a neighbouring `1`; the authors' operators never do"
    )
    swap: float = Field(0.5, ge=0, le=1, description="probability of swap among the other operations; expand has the rest, 1 - swap")
    max_step: PositiveInt = Field(3, description="swap: most blocks by which the end of a stage moves")

    @model_validator(mode="after")
    def _at_most_one(self) -> "Mutation":
        if (total := self.add_stage + self.change_type + self.move_double) > 1:
            raise ValueError(f"expected add_stage, change_type and move_double to add up to at most 1, got {total:g}")
        return self


class Space(Settings):
    """Limits of the search space."""

    block_types: tuple[TypeText, ...] = Field((), description="block types to choose from, such as [r, x(32x4d)]; none: the start net's")

    min_blocks: PositiveInt = Field(architecture.MIN_BLOCKS, description="fewest residual blocks")
    max_blocks: PositiveInt = Field(architecture.MAX_BLOCKS, description="most residual blocks")
    max_stages: PositiveInt = Field(architecture.MAX_STAGES, description="most stages")


class Budget(Settings):
    """Two-sided limits of a candidate's cost (detector, at the network input's size); `null` = no limit."""

    params_m: Limit = Field((None, None), description="least and most parameters, millions")
    gmacs: Limit = Field((None, None), description="least and most multiply-adds of one image, 10^9")
    latency_ms: Limit = Field((None, None), description="inference of one image, measured on the run's device")
    memory_mb: Limit = Field((None, None), description="peak of memory in it: of the device, on the CPU of the process")


class Halving(Settings):
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): the worse candidates of a round stop early."""

    rungs: tuple[PositiveInt, ...] = Field((1,), min_length=1, description="epochs after which candidates are compared, and some stop")
    keep: float = Field(0.5, gt=0, lt=1, description="share of them that goes on, rounded up")


class Race(Settings):
    """Further seeds for the best candidates of a round: these are ranked by their mean score over all seeds."""

    best: PositiveInt = Field(2, description="how many candidates of a round are trained with further seeds")
    seeds: PositiveInt = Field(1, description="further seeds of each")


class Candidates(Settings):
    """How many candidates there are, and their short training."""

    later: ClassVar[frozenset[str]] = frozenset({"control", "race"})
    candidates: PositiveInt = Field(4, description="candidates of one round")
    recipe: Recipe = Field(Recipe(), description="training of a candidate")
    halving: Halving | None = Field(None, description="stop the worse candidates of a round early; null: train all to the end")
    control: bool = Field(
        False,
        description="train each parent on by the recipe too, once per round, and rank a child by its gain over that: its estimate is the "
        "parent's plus the gain",
    )
    race: Race | None = Field(None, description="train the best candidates of a round with further seeds; null: one seed for all")

    @model_validator(mode="after")
    def _rungs_rise(self) -> "Candidates":
        steps = (0, *(self.halving.rungs if self.halving else ()), self.recipe.epochs)
        if any(a >= b for a, b in pairwise(steps)):
            raise ValueError(f"expected halving.rungs to rise and end before recipe.epochs, {self.recipe.epochs}, got {list(steps[1:-1])}")
        return self


class Serial(Candidates):
    """The serial search."""

    later: ClassVar[frozenset[str]] = Candidates.later | {"evaluator", "supernet"}
    rounds: PositiveInt = Field(4, description="rounds of the search")
    max_optimal: PositiveInt = Field(5, description="parents are the best of the ledger by Pareto rank")
    n_stuck: PositiveInt = Field(2, description="rounds without gain before a reignition")
    max_reignite: int = Field(2, ge=0, description="most reignitions during the search")
    mutation: Mutation = Field(Mutation(), description="what makes a child of its parent")
    evaluator: Literal["train", "supernet"] = Field(
        "train", description="train every candidate, in rounds; or train one supernet, search among its paths, and train the best of them"
    )
    supernet: Supernet = Field(Supernet(), description="the supernet and the search among its paths, with evaluator: supernet")


class Parallel(Candidates):
    """The parallel search."""

    parents: PositiveInt = Field(1, description="how many of the best serial nets get parallel candidates")
    max_parallel: PositiveInt = Field(3, description="most copies of one stage")
    taps: tuple[Taps, ...] = Field((), description="taps of the pyramid to draw from for each candidate; none: those of its parent")
