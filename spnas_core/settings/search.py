"""Settings of the search: its space and budget, what trials are ranked by, its operators and rounds."""

import re
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, PositiveInt, StringConstraints, WithJsonSchema, model_validator

from spnas_core import arch as architecture
from spnas_core.necks import NeckText
from spnas_core.settings.base import Limit, Settings, Taps, TypeText
from spnas_core.settings.supernet import Supernet
from spnas_core.settings.task import TASKS, Score, Task
from spnas_core.settings.training import Recipe

Eighths = Annotated[int, Field(ge=1, le=architecture.MOST_EIGHTHS)]
NetPart = Literal["backbone", "neck"]  # of a net
CommonObjective = Literal[Score, "params", "macs", "latency_ms", "memory_mb"]
DEVICE_LATENCY = "latency_ms@"  # and the name of another device, whose clock is in the store (search/clock.py)
_DEVICE = r"[a-z0-9][a-z0-9_-]*"


def _objective(name: str) -> str:
    if name not in get_args(CommonObjective) and not re.fullmatch(DEVICE_LATENCY + _DEVICE, name):
        expected = ", ".join(get_args(CommonObjective))
        raise ValueError(f"expected {expected} or {DEVICE_LATENCY}NAME of a device, got {name!r}")
    return name


_FORMS = [{"enum": list(get_args(CommonObjective)), "type": "string"}, {"pattern": f"^{DEVICE_LATENCY}{_DEVICE}$", "type": "string"}]
Objective = Annotated[str, AfterValidator(_objective), WithJsonSchema({"anyOf": _FORMS})]
DeviceName = Annotated[str, StringConstraints(pattern=f"^{_DEVICE}$")]
Objectives = tuple[Objective, ...]
SCORES: Objectives = tuple(score for task in TASKS.values() for score in task.scores)  # the higher the better; of the others, the lower
OBJECTIVES: Objectives = ("AP", "macs")
MEASURED: Objectives = ("latency_ms", "memory_mb")  # on the run's device; the others are counted, or scores, or another device's


def counted(task: Task) -> Objectives:
    """Objectives that rank nets that nobody has measured."""
    return task.score, "macs"


LEAST_PILOT = 8
GENES = {"inner_width": "inner_widths", "base_width": "base_widths", "image_size": "image_sizes", "neck_channels": "neck_channels"}
GENES |= {"neck": "necks", "proposals": "proposals"}  # of the structure; another, `head`, has its choices in the detector


class Mutation(Settings):
    """Operators of the serial search (SP-NAS, section 3.2); those that make it smaller, or another size, are ours, and off by default.

    So are those that choose another head, neck or number of proposals: operators of the structural search (SM-NAS, section 3.1).
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"shrink", "inner_width", "base_width", "image_size", "neck_channels", "head", "neck", "proposals"}
    )
    num_mutate: PositiveInt = Field(3, description="operations from parent to child")
    add_stage: float = Field(0.05, ge=0, le=1, description="probability that one operation appends a stage")
    change_type: float = Field(0.05, ge=0, le=1, description="probability that it changes the block type, where the space has several")
    move_double: float = Field(
        0.0, ge=0, le=1, description="probability that it moves a `2` past a neighbouring `1`; the authors' operators never do"
    )
    shrink: float = Field(0.0, ge=0, le=1, description="probability that it takes a `1` out")
    inner_width: float = Field(
        0.0, ge=0, le=1, description="probability that it widens or narrows the blocks of a stage inside, a step of space.inner_widths"
    )
    base_width: float = Field(
        0.0, ge=0, le=1, description="probability that it widens or narrows the whole net, a step of space.base_widths"
    )
    image_size: float = Field(0.0, ge=0, le=1, description="probability that it changes the network input, a step of space.image_sizes")
    neck_channels: float = Field(
        0.0, ge=0, le=1, description="probability that it changes the pyramid's channels, a step of space.neck_channels"
    )
    head: float = Field(0.0, ge=0, le=1, description="probability that it takes another head of detector.other_heads")
    neck: float = Field(0.0, ge=0, le=1, description="probability that it takes another neck of space.necks")
    proposals: float = Field(
        0.0, ge=0, le=1, description="probability that it changes the proposals of a two-stage head, a step of space.proposals"
    )
    swap: float = Field(0.5, ge=0, le=1, description="probability of swap among the other operations; expand has the rest, 1 - swap")
    max_step: PositiveInt = Field(3, description="swap: most blocks by which the end of a stage moves")

    @model_validator(mode="after")
    def _at_most_one(self) -> "Mutation":
        genes = ("base_width", "image_size", "neck_channels", "head", "neck", "proposals")
        rare = ("add_stage", "change_type", "move_double", "shrink", "inner_width", *genes)
        if (total := sum(getattr(self, name) for name in rare)) > 1:
            raise ValueError(f"expected {', '.join(rare[:-1])} and {rare[-1]} to add up to at most 1, got {total:g}")
        return self


class Space(Settings):
    """Limits of the search space."""

    later: ClassVar[frozenset[str]] = frozenset({"inner_widths", "base_widths", "image_sizes", "neck_channels", "necks", "proposals"})
    block_types: tuple[TypeText, ...] = Field((), description="block types to choose from, such as [r, x(32x4d)]; none: the start net's")

    inner_widths: tuple[Eighths, ...] = Field(
        (), description="inner widths of a stage to choose from, eighths, such as [4, 6, 8]; 8 is always one"
    )
    base_widths: tuple[PositiveInt, ...] = Field(
        (), description="base widths to choose from, such as [48, 56, 64]; the detector's is always one"
    )
    image_sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        (), description="network inputs to choose from, [height, width], px; the detector's is always one"
    )
    neck_channels: tuple[PositiveInt, ...] = Field((), description="channels of the pyramid to choose from; the detector's are always one")
    necks: tuple[NeckText, ...] = Field((), description="necks to choose from, such as [fpn64, nasfpn64x2]; the detector's is always one")
    proposals: tuple[PositiveInt, ...] = Field(
        (), description="proposals in inference to choose from, as detector.head.proposals_test; the detector's are always one"
    )
    min_blocks: int = Field(architecture.MIN_BLOCKS, ge=architecture.FEWEST_BLOCKS, description="fewest residual blocks")
    max_blocks: PositiveInt = Field(architecture.MAX_BLOCKS, description="most residual blocks")
    max_stages: PositiveInt = Field(architecture.MAX_STAGES, description="most stages")


class Budget(Settings):
    """Two-sided limits of a candidate's cost (detector, at the network input's size); `null` = no limit."""

    later: ClassVar[frozenset[str]] = frozenset({"device_ms"})
    params_m: Limit = Field((None, None), description="least and most parameters, millions")
    gmacs: Limit = Field((None, None), description="least and most multiply-adds of one image, 10^9")
    latency_ms: Limit = Field((None, None), description="inference of one image, measured on the run's device")
    memory_mb: Limit = Field((None, None), description="peak of memory in it: of the device, on the CPU of the process")
    device_ms: dict[DeviceName, Limit] = Field(
        {}, description="inference of one image on other devices, by the measurements imported as NAME (`spnas latency import`)"
    )

    @property
    def measured(self) -> dict[str, Limit]:
        """Limits by the names of the measured costs, those of other devices included."""
        return {name: getattr(self, name) for name in MEASURED} | {DEVICE_LATENCY + name: one for name, one in self.device_ms.items()}


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


class Ageing(Settings):
    """Parents of ageing evolution (Real et al., AAAI 2019, arXiv 1802.01548)."""

    population: PositiveInt = Field(20, description="the last so many trained nets are the population; older ones have aged out")
    tournament: PositiveInt = Field(5, description="nets drawn for each child; the best by Pareto rank, then score, is its parent")


class Serial(Candidates):
    """The serial search."""

    later: ClassVar[frozenset[str]] = Candidates.later | {"pilot", "evaluator", "supernet", "search", "in_turn", "proposer", "ageing"}
    search: tuple[NetPart, ...] = Field(
        ("backbone",),
        min_length=1,
        description="parts that children change: [backbone], [neck] (its cells, with a nas_fpn or nas_fcos), or both",
    )
    in_turn: bool = Field(
        False, description="with both parts: one a round, in turn, in the order of `search`; else each operation changes either, at random"
    )
    proposer: Literal["pareto", "ageing", "random"] = Field(
        "pareto",
        description="parents: pareto: the `max_optimal` best, as in SP-NAS; ageing: winners of tournaments, see `ageing`; random: any, and "
        "the cells of a neck are drawn anew",
    )
    ageing: Ageing = Field(Ageing(), description="parents with proposer: ageing")
    rounds: PositiveInt = Field(4, description="rounds of the search")
    max_optimal: PositiveInt = Field(5, description="parents are the best of the ledger by Pareto rank")
    n_stuck: PositiveInt = Field(2, description="rounds without gain before a reignition")
    max_reignite: int = Field(2, ge=0, description="most reignitions during the search")
    mutation: Mutation = Field(Mutation(), description="what makes a child of its parent")
    evaluator: Literal["train", "supernet"] = Field(
        "train", description="train every candidate, in rounds; or train one supernet, search among its paths, and train the best of them"
    )
    supernet: Supernet = Field(Supernet(), description="the supernet and the search among its paths, with evaluator: supernet")
    pilot: int = Field(
        0,
        ge=0,
        description="nets that are trained to the end first, to say how well the short score tells the long one; 8 or more; 0: none",
    )

    @model_validator(mode="after")
    def _enough_for_a_pilot(self) -> "Serial":
        if 0 < self.pilot < LEAST_PILOT:
            raise ValueError(f"expected pilot 0, or at least {LEAST_PILOT} nets, since fewer say nothing, got {self.pilot}")
        return self

    @model_validator(mode="after")
    def _parts_once(self) -> "Serial":
        if len(set(self.search)) < len(self.search):
            raise ValueError(f"expected each part once in search, got {list(self.search)}")
        return self

    def parts(self, number: int) -> tuple[NetPart, ...]:
        """Parts that the children of round `number`, from 1, change."""
        return (self.search[(number - 1) % len(self.search)],) if self.in_turn else self.search


class Final(Settings):
    """The net that is trained to the end, and what it is compared with."""

    choose: Literal["parallel", "best", "cheapest"] = Field(
        "parallel",
        description="parallel: the best net with copies, as in the paper; best: that of all trials; cheapest: that with the lowest second "
        "objective of those whose score is at most `margin` below the start net's",
    )
    margin: float = Field(0.01, ge=0, le=1, description="loss of the first objective, a fraction, that counts as none")
    equal_epochs: bool = Field(
        False, description="train the start net for as many epochs in all as the final net and its ancestors, not by the same recipe as it"
    )
    stock: bool = Field(False, description="compare with a fixed family of nets too, from scratch for as many epochs in all")


class Parallel(Candidates):
    """The parallel search."""

    candidates: int = Field(4, ge=0, description="candidates; 0: no parallel search, and no reignition before it")
    parents: PositiveInt = Field(1, description="how many of the best serial nets get parallel candidates")
    max_parallel: PositiveInt = Field(3, description="most copies of one stage")
    taps: tuple[Taps, ...] = Field((), description="taps of the pyramid to draw from for each candidate; none: those of its parent")
