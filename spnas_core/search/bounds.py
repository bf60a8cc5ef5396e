"""Bounds on candidate cost: the cheapest and the most expensive net, by MACs, that the operators can reach.

The operators (mutation.py) insert `1`, append stages, move `-`, and where the settings say so change the type, move `2`, take `1` out, or
change a width, the network input or the pyramid's channels: of these the least, the run's own and the most count. A block costs
the more MACs, the finer its resolution, so of all places of the `-` the first possible ones make the smallest net and the last possible
ones the largest; and blocks that may still come make the greatest difference where all of them stand at one place of the sequence.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any, NamedTuple

from spnas_core import arch
from spnas_core.arch import Arch, BlockType, parse
from spnas_core.cost import Cost
from spnas_core.errors import UserError
from spnas_core.necks import CellNeck, Neck, taps_of, with_taps
from spnas_core.necks.nas_fpn import INPUTS, NasFpn
from spnas_core.search.costs import CostOf, candidate_cost, within
from spnas_core.search.mutation import by_size, with_head
from spnas_core.search.neck_mutation import neck_ends
from spnas_core.search.net import Net, net_of
from spnas_core.settings.detector import Detector, TwoStageHead
from spnas_core.settings.run import Run
from spnas_core.settings.search import GENES, Budget


class Bound(NamedTuple):
    """Net at one end of the range of costs, and its cost."""

    net: Net
    cost: Cost


class _Family(NamedTuple):
    """Serial nets of the same first blocks, to which up to `room` may still come, and of as many stages, which end early or late.

    `eighths`: the inner width of all stages.
    """

    kind: BlockType
    eighths: int
    digits: str
    room: int
    stages: int
    late: bool

    def member(self, place: int, count: int, copies: int) -> Arch:
        """Net with `count` blocks more after the first `place`, and so many copies of each stage."""
        digits = self.digits[:place] + "1" * count + self.digits[place:]
        first = len(digits) - self.stages + 1 if self.late else 1
        ends = [0, *range(first, first + self.stages - 1), len(digits)]
        return Arch(self.kind, tuple(digits[a:b] for a, b in pairwise(ends)), (copies,) * self.stages, (self.eighths,) * self.stages)

    @property
    def places(self) -> list[int]:
        """Where more blocks make a difference: after the first block, after each `2`, at the end."""
        return sorted({1, len(self.digits), *(place for place, digit in enumerate(self.digits, start=1) if digit == "2")})


def cost_bounds(settings: Run, cost_of: CostOf) -> tuple[Bound, Bound]:
    """Cheapest and most expensive net of the search; where the budget has limits, nets close to them.

    UserError where the budget leaves no net, so that a search would find no candidate.
    """
    settings = _both_searches(settings)
    copies = sorted({0, settings.parallel.max_parallel if settings.parallel.candidates else 0})
    found = _of_the_start(settings, copies, cost_of)
    if "backbone" in settings.serial.search:
        found = [
            one
            for family in _families(settings)
            for detector in _detectors(settings, family.stages)
            for place in family.places
            for count in copies
            for one in _members(family, place, count, detector, settings, cost_of)
        ]
    inside = [one for one in found if within(one.cost, settings.budget)]
    if not inside and (between := [one for one in found if within(one.cost, settings.budget, lower=False)]) and _has_steps(settings):
        return max(between, key=_size), min(found, key=_size)  # nets between the extremes may lie in it
    if not inside:
        small, large = (pick(found, key=_size).cost for pick in (min, max))
        have = f"{small.params / 1e6:.3g} to {large.params / 1e6:.3g} M parameters, {small.macs / 1e9:.3g} to {large.macs / 1e9:.3g} GMACs"
        limits = {name: list(getattr(settings.budget, name)) for name in ("params_m", "gmacs")}
        raise UserError(f"budget: expected limits that some net of the space meets, got {limits}; its nets have {have}")
    return min(inside, key=_size), max(inside, key=_size)


def _both_searches(settings: Run) -> Run:
    """Give a run whose serial search alone reaches what this one's and its structural search reach together."""
    if not (first := settings.structures):
        return settings
    own, other = settings.serial.mutation, first.mutation
    chances = {name: max(getattr(own, name), getattr(other, name)) for name in type(own).model_fields if name not in ("num_mutate", "swap")}
    mutation = own.model_copy(update={**chances, "num_mutate": 1})
    operations = first.rounds * other.num_mutate + settings.serial.rounds * own.num_mutate
    serial = settings.serial.model_copy(update={"mutation": mutation, "rounds": operations})
    return settings.model_copy(update={"serial": serial, "structures": None})


def _size(one: Bound) -> tuple[int, int]:
    return one.cost.macs, one.cost.params


def _families(settings: Run) -> Iterator[_Family]:
    start, mutation, space = parse(settings.arch).serial(), settings.serial.mutation, settings.space
    operations = settings.serial.rounds * mutation.num_mutate
    most_blocks = min(space.max_blocks, len(start.digits) + 2 * operations)
    neck = settings.detector.neck
    limit = INPUTS + 1 if isinstance(neck, NasFpn) else space.max_stages  # stages that the neck can read
    most_stages = min(space.max_stages, limit, len(start.stages) + (operations if mutation.add_stage else 0))
    doubles = start.digits.count("2")
    ones = len(start.digits) - doubles
    orders = {start.digits} | ({"2" * doubles + "1" * ones, "1" * ones + "2" * doubles} if mutation.move_double else set())
    if mutation.shrink:
        orders |= {_shortest(order, max(space.min_blocks, len(start.stages), len(order) - operations)) for order in orders}
    own = {*start.inner, *(() if start.inner and most_stages == len(start.stages) else (arch.WHOLE,))}  # a new stage is whole
    inner = own | ({arch.WHOLE, min(space.inner_widths), max(space.inner_widths)} if mutation.inner_width else set())
    for kind, eighths in product(space.block_types or (start.block_type.text,), sorted(inner)):
        for order in sorted(orders):
            for stages in range(len(start.stages), most_stages + 1):
                digits = order + "1" * (stages - len(start.stages))
                if (room := most_blocks - len(digits)) >= 0:
                    yield from (_Family(BlockType(kind), eighths, digits, room, stages, late) for late in (False, True))


def _shortest(digits: str, length: int) -> str:
    """Take out as many `1` as leave `length` blocks, the finest first, but not the first block."""
    for _ in range(len(digits) - length):
        if (place := digits.find("1", 1)) > 0:
            digits = digits[:place] + digits[place + 1 :]
    return digits


def _of_the_start(settings: Run, copies: Sequence[int], cost_of: CostOf) -> list[Bound]:
    """Nets with the start net's backbone, and so many copies of each of its stages."""
    start = parse(settings.arch)
    archs = [start.with_parallel((count,) * len(start.stages)) for count in copies]
    nets = [net_of(one, detector, settings.detector) for one in archs for detector in _detectors(settings, len(start.stages))]
    return [Bound(net, cost_of(net)) for net in nets]


def _has_steps(settings: Run) -> bool:
    """Whether the search has widths, sizes or pyramids between the extremes."""
    mutation = settings.serial.mutation
    return "neck" in settings.serial.search or bool(mutation.head) or any(getattr(mutation, gene) for gene in GENES)


def _detectors(settings: Run, stages: int) -> list[Detector]:
    """Detectors that a candidate with `stages` stages can have, as settings.

    Costs grow with each gene, so without a budget the least of all and the most of all are enough.
    """
    stems = dict.fromkeys((settings.detector.stem, settings.reignite.stem or settings.detector.stem))
    own, space, mutation = settings.detector, settings.space, settings.serial.mutation
    taps = [None, *(taps for taps in settings.parallel.taps if len(taps) <= stages)]
    channels = _ends(own.neck.channels, space.neck_channels if mutation.neck_channels else ())
    widths = _ends(own.base_width, space.base_widths if mutation.base_width else ())
    sizes = _ends(own.image_size, space.image_sizes if mutation.image_size else ())
    every = product(channels, widths, sizes) if _is_limited(settings.budget) else zip(*map(_outer, (channels, widths, sizes)), strict=True)
    genes = dict.fromkeys(every)
    found: dict[Detector, None] = {}
    necks = (own.neck, *(neck_ends(own.neck) if isinstance(own.neck, CellNeck) and "neck" in settings.serial.search else ()))
    parts = [(own.head.kind, one, None) for one in necks] + _parts(settings, stages)
    for (count, width, size), choice, stem, (kind, cells, proposals) in product(genes, taps, stems, parts):
        net = net_of(settings.arch, own.model_copy(update={"base_width": width, "image_size": size}), own)
        same = cells.channels == own.neck.channels and not mutation.neck  # its own channels are no choice beside those of the gene
        for wide in {count} if same else {count, cells.channels}:
            neck = with_taps(cells, choice or taps_of(cells)).model_copy(update={"channels": wide})
            found[replace(net, neck=neck, stem=stem, head=kind, proposals=proposals).detector(own)] = None
    return list(found)


def _parts(settings: Run, stages: int) -> list[tuple[str, Neck, int | None]]:
    """Cheapest and most expensive head, neck and proposals, on the start net, that a net with so many stages can have."""
    own, space, mutation = settings.detector, settings.space, settings.serial.mutation
    if not (mutation.head or mutation.neck or mutation.proposals):
        return []
    heads = (own.head, *(own.other_heads if mutation.head else ()))
    necks = [one for one in (settings.necks if mutation.neck else (own.neck,)) if not isinstance(one, NasFpn) or stages <= INPUTS + 1]
    start, found = net_of(settings.arch, own), list[tuple[tuple[int, int], tuple[str, Neck, int | None]]]()
    for head, neck, count in product(heads, necks, (None, *(_outer(sorted(space.proposals)) if mutation.proposals else ()))):
        if count is None or isinstance(head, TwoStageHead):
            net = replace(with_head(replace(start, neck=neck), head.kind, own), proposals=count)
            cost = candidate_cost(net.arch, net.detector(own), 1)
            found.append(((cost.macs, cost.params), (head.kind, net.neck, count)))
    return [pick(found, key=lambda one: one[0])[1] for pick in (min, max)]


def _ends(own: Any, choices: Sequence[Any]) -> list[Any]:
    """Least and most of the run's `own` value and the choices, and between them the own one."""
    every = sorted([own, *choices], key=by_size)
    return list(dict.fromkeys((every[0], own, every[-1])))


def _outer(values: Sequence[Any]) -> tuple[Any, Any]:
    return values[0], values[-1]


def _is_limited(budget: Budget) -> bool:
    """Whether what is counted has limits."""
    return (budget.params_m, budget.gmacs) != ((None, None), (None, None))


def _members(family: _Family, place: int, copies: int, detector: Detector, settings: Run, cost_of: CostOf) -> Iterator[Bound]:
    """Nets with no block more, with all that may come, and with the fewest and the most that the budget allows."""

    def net(count: int) -> Net:
        return net_of(family.member(place, count, copies), detector, settings.detector)

    def cost(count: int) -> Cost:
        return cost_of(net(count))

    counts, room, budget = {0, family.room}, range(family.room + 1), settings.budget
    if _is_limited(budget) and within(cost(0), budget, lower=False):  # else none of them is in it
        least = Budget(params_m=(budget.params_m[0], None), gmacs=(budget.gmacs[0], None))
        counts.add(bisect_left(room, True, key=lambda count: within(cost(count), least)))
        counts.add(bisect_left(room, True, key=lambda count: not within(cost(count), budget, lower=False)) - 1)
    yield from (Bound(net(count), cost(count)) for count in sorted(counts.intersection(room)))
