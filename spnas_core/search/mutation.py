"""Operators of the serial search: swap, expand, add stage (SP-NAS, CVPR 2020, section 3.2; limits as in the authors' release).

Pure functions of an architecture and a `numpy.random.Generator`. By these the digits of the parent never move; only `-` moves and `1`
appears. The others are ours: one changes the block type, where the space has several; one moves a `2`; some make a net cheaper or larger in
other ways: they take a `1` out, change the width inside a stage, or a gene of the whole net (base width, network input, the pyramid's
channels, head, neck, proposals: as SM-NAS does, AAAI 2020, section 3.1). These are off by default.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TypeVar

import numpy as np

from spnas_core.arch import WHOLE, Arch, ArchError, BlockType, check_space
from spnas_core.necks import CellNeck, Neck, neck_under, parse_neck
from spnas_core.search.neck_mutation import change_neck
from spnas_core.search.net import Net
from spnas_core.settings.detector import Detector, TwoStageHead
from spnas_core.settings.one_stage import OneStageHead
from spnas_core.settings.search import Mutation, NetPart, Space

_Value = TypeVar("_Value", int, tuple[int, int])
_RARE = ("add_stage", "change_type", "move_double", "shrink", "inner_width")  # with a probability of their own
_WHOLE_NET = ("base_width", "image_size", "neck_channels", "head", "neck", "proposals")  # genes
ATTEMPTS = 1000  # of one child; only a space without any neighbour of the parent exhausts them


def swap(arch: Arch, rng: np.random.Generator, max_step: int = 3) -> Arch:
    """Move every ``-`` by a step drawn from [-m, m), m = min(max_step, longer of its two stages).

    All are drawn at once, from the parent's lengths, and drawn again until no stage is empty; so a step of 0 for all is possible.
    The parallel part is dropped.
    """
    lengths = [len(stage) for stage in arch.stages]
    if len(lengths) == 1:
        return arch.serial()
    ends = np.cumsum(lengths)
    reach = np.minimum(max_step, np.maximum(lengths[:-1], lengths[1:]))
    while True:
        moved = [0, *(ends[:-1] + rng.integers(-reach, reach)), ends[-1]]
        if all(a < b for a, b in pairwise(moved)):
            stages = tuple(arch.digits[a:b] for a, b in pairwise(moved))
            return replace(arch, stages=stages).serial()


def expand(arch: Arch, rng: np.random.Generator) -> Arch:
    """Insert a ``1`` at two random places of the text, on either side of a ``-`` too, but never before the first block.

    (A block before the first would change the input channels of the first, whose weights could not be inherited then.) The
    parallel part is dropped.
    """
    text = arch.serial_text
    for _ in range(2):
        place = int(rng.integers(1, len(text) + 1))
        text = text[:place] + "1" + text[place:]
    return replace(arch, stages=tuple(text.split("-"))).serial()


def add_stage(arch: Arch) -> Arch:
    """Append ``-1``; the parallel part is dropped."""
    return replace(arch, stages=(*arch.stages, "1")).serial()


def change_type(arch: Arch, rng: np.random.Generator, types: Sequence[str]) -> Arch:
    """Take another one of `types`, all equally likely; the parallel part is dropped."""
    others = [text for text in types if text != arch.block_type.text]
    return replace(arch, block_type=BlockType(others[int(rng.integers(len(others)))])).serial()


def move_double(arch: Arch, rng: np.random.Generator) -> Arch:
    """Let a ``2`` and a ``1`` beside it in the flat sequence change places, all such pairs equally likely; each ``-`` stays at its place.

    The net is returned as it is where it has no such pair. The parallel part is dropped.
    """
    pairs = [place for place, (a, b) in enumerate(pairwise(arch.digits)) if a != b]
    if not pairs:
        return arch.serial()
    place = pairs[int(rng.integers(len(pairs)))]
    digits = arch.digits[:place] + arch.digits[place + 1] + arch.digits[place] + arch.digits[place + 2 :]
    ends = [0, *accumulate(map(len, arch.stages))]
    return replace(arch, stages=tuple(digits[a:b] for a, b in pairwise(ends))).serial()


def remove_block(arch: Arch, rng: np.random.Generator) -> Arch:
    """Take out a ``1``, all equally likely, but never the first block or the only one of a stage; the parallel part is dropped.

    The net is returned as it is where it has no such block.
    """
    places = [
        (n, k) for n, stage in enumerate(arch.stages) for k, digit in enumerate(stage) if digit == "1" and len(stage) > 1 and (n or k)
    ]
    if not places:
        return arch.serial()
    number, place = places[int(rng.integers(len(places)))]
    shorter = arch.stages[number][:place] + arch.stages[number][place + 1 :]
    return replace(arch, stages=(*arch.stages[:number], shorter, *arch.stages[number + 1 :])).serial()


def change_inner(arch: Arch, rng: np.random.Generator, widths: Sequence[int]) -> Arch:
    """Move the inner width of a stage, all equally likely, to the next of `widths` (eighths) up or down; the parallel part is dropped."""
    stage = int(rng.integers(len(arch.stages)))
    inner = [arch.eighths(number) for number in range(len(arch.stages))]
    inner[stage] = _neighbour(inner[stage], (*widths, WHOLE), rng)
    return replace(arch, inner=tuple(inner)).serial()


def change_gene(net: Net, gene: str, rng: np.random.Generator, space: Space, detector: Detector) -> Net:
    """Move a gene of the whole net, such as `base_width`, to the next value of the space up or down; of heads and necks, to any other.

    `detector` has the run's own values. A net that has no such gene, as proposals under a one-stage head, stays as it is. The parallel part
    is dropped.
    """
    own, net = net.detector(detector), replace(net, arch=net.arch.serial())
    if gene == "base_width":
        width = _neighbour(own.base_width, (*space.base_widths, detector.base_width), rng)
        return replace(net, width=None if width == detector.base_width else width)
    if gene == "image_size":
        size = _neighbour(own.image_size, (*space.image_sizes, detector.image_size), rng)
        return replace(net, size=None if size == detector.image_size else size)
    if gene == "head":
        kinds = [head.kind for head in (detector.head, *detector.other_heads) if head.kind != net.head]
        return with_head(net, kinds[int(rng.integers(len(kinds)))], detector)
    if gene == "neck":
        necks = dict.fromkeys(_neck(net, neck, detector) for neck in (detector.neck, *map(parse_neck, space.necks)))
        others = [neck for neck in necks if neck != net.neck]
        return replace(net, neck=others[int(rng.integers(len(others)))]) if others else net
    if gene == "proposals":
        usual = detector.head_of(net.head)
        if not isinstance(usual, TwoStageHead):
            return net
        proposals = _neighbour(net.proposals or usual.proposals_test, (*space.proposals, usual.proposals_test), rng)
        return replace(net, proposals=None if proposals == usual.proposals_test else proposals)
    channels = _neighbour(net.neck.channels, (*space.neck_channels, detector.neck.channels), rng)
    return replace(net, neck=net.neck.model_copy(update={"channels": channels}))


def with_head(net: Net, kind: str, detector: Detector) -> Net:
    """Give a net another kind of head, and its pyramid the levels that this head reads; one-stage heads have no proposals."""
    changed = replace(net, head=kind, proposals=None if _is_one_stage(kind, detector) else net.proposals)
    return replace(changed, neck=_neck(changed, net.neck, detector))


def _neck(net: Net, neck: Neck, detector: Detector) -> Neck:
    """Give a neck as it is under the head of a net."""
    one_stage = _is_one_stage(net.head, detector)
    return neck_under(neck, detector.neck, one_stage == isinstance(detector.head, OneStageHead), one_stage)


def _is_one_stage(kind: str, detector: Detector) -> bool:
    return isinstance(detector.head_of(kind), OneStageHead)


def _neighbour(value: _Value, values: Sequence[_Value], rng: np.random.Generator) -> _Value:
    """Next smaller or next larger of `values`, both equally likely where there are both; `value` itself where there is none."""
    ranks = sorted(set(values) | {value}, key=by_size)
    place = ranks.index(value)
    beside = ranks[max(0, place - 1) : place] + ranks[place + 1 : place + 2]
    return beside[int(rng.integers(len(beside)))] if beside else value


def by_size(value: int | tuple[int, int]) -> tuple[int, ...]:
    """Key that sorts widths, and inputs by their area."""
    return (value,) if isinstance(value, int) else (value[0] * value[1], *value)


def operation(arch: Arch, rng: np.random.Generator, settings: Mutation, space: Space) -> Arch:
    """One operation on `arch`, drawn with the probabilities of `settings` among those that stay in the space.

    Swap and expand share what the others leave, which have theirs outright, where they are possible.
    """
    blocks, stages = len(arch.digits), len(arch.stages)
    rare: list[tuple[float, Callable[[], Arch]]] = []
    if stages < space.max_stages and blocks < space.max_blocks:
        rare.append((settings.add_stage, lambda: add_stage(arch)))
    if set(space.block_types) - {arch.block_type.text}:
        rare.append((settings.change_type, lambda: change_type(arch, rng, space.block_types)))
    if settings.move_double:
        rare.append((settings.move_double, lambda: move_double(arch, rng)))
    if settings.shrink and blocks > space.min_blocks:
        rare.append((settings.shrink, lambda: remove_block(arch, rng)))
    if settings.inner_width:
        rare.append((settings.inner_width, lambda: change_inner(arch, rng, space.inner_widths)))
    draw = rng.random() if rare else 1.0
    for chance, operator in rare:
        if draw < chance:
            return operator()
        draw -= chance
    can_swap, can_expand = stages > 1, blocks + 2 <= space.max_blocks
    if can_swap and (not can_expand or rng.random() < settings.swap):
        return swap(arch, rng, settings.max_step)
    return expand(arch, rng) if can_expand else arch


def mutate(
    parent: Net,
    rng: np.random.Generator,
    settings: Mutation,
    space: Space,
    detector: Detector,
    parts: Sequence[NetPart] = ("backbone",),
    anew: bool = False,
) -> Net:
    """Child of `num_mutate` operations on the `parts` of `parent`, without its parallel part: another net than the parent, in the space.

    `detector`: the settings of the run; `anew`: the cells of a neck are drawn at random, not changed one at a time. ArchError where the
    space holds no such child, or not the parent.
    """
    start = replace(parent, arch=parent.arch.serial())
    check_space(start.arch, space.min_blocks, space.max_blocks, space.max_stages)
    genes = {gene: chance for gene in _WHOLE_NET if (chance := getattr(settings, gene))}
    if genes:  # the operators on the architecture have what these leave
        left = max(1 - sum(genes.values()), 1e-9)
        settings = settings.model_copy(update={name: getattr(settings, name) / left for name in _RARE})
    for _ in range(ATTEMPTS):
        child = start
        for _ in range(settings.num_mutate):
            child = _operation_on_net(child, genes, rng, settings, space, detector, parts, anew)
        if child != start:
            check_space(child.arch, space.min_blocks, space.max_blocks, space.max_stages)
            return child
    raise ArchError(f"architecture {str(parent.arch)!r}: expected a child in the space, found none in {ATTEMPTS} draws")


def _operation_on_net(
    net: Net,
    genes: Mapping[str, float],
    rng: np.random.Generator,
    settings: Mutation,
    space: Space,
    detector: Detector,
    parts: Sequence[NetPart],
    anew: bool,
) -> Net:
    draw = rng.random() if genes else 1.0
    for gene, chance in genes.items():
        if draw < chance:
            return change_gene(net, gene, rng, space, detector)
        draw -= chance
    part = parts[int(rng.integers(len(parts)))] if len(parts) > 1 else parts[0]
    if part == "neck" and isinstance(net.neck, CellNeck):
        return replace(net, neck=change_neck(net.neck, rng, anew))
    return replace(net, arch=operation(net.arch, rng, settings, space))
