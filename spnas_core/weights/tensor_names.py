"""Names of all tensors of the nets, except those of necks, which are in the files of `necks/`.

    backbone.stem.conv.weight             of the stem (conv, bn; with two convolutions conv1, bn1, conv2, bn2)
    backbone.blocks.7.conv1.weight        of the main stages, blocks counted along all of them
    backbone.copies.1.0.2.conv1.weight    of copy 0 of stage 1, its third block, if copies have separate weights
    backbone.connect.1.0.conv.weight      of the connection of this copy, or of all copies of the stage that share weights
    neck.*  rpn.conv.weight  head.fc1.weight  head.stages.2.fc1.weight (of a cascade)
    head.levels.2.0.conv.weight           of semantic FPN: first convolution (conv, bn) of the third map; last: head.classes.weight
    retinanet.class_tower.0.conv.weight  fcos.score.weight (of one-stage heads)
    retinanet.box_tower.3.norms.4.gamma   of the norm of the fifth level, if levels have norms of their own
    score.weight                          of the last layer of a classifier

A convolution is followed by its norm: conv1 by bn1, and so on.
"""

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]  # weights of a net by name

BACKBONE, NECK, RPN, HEAD, SCORE = "backbone.", "neck.", "rpn.", "head.", "score."  # parts of nets; the last is a classifier's
STEM, BLOCKS, COPIES, CONNECT = (f"{BACKBONE}{part}." for part in ("stem", "blocks", "copies", "connect"))
CASCADE = f"{HEAD}stages."  # box heads of a cascade
SEMANTIC, SEMANTIC_LAST = f"{HEAD}levels.", f"{HEAD}classes"  # of semantic FPN: convolutions of each map, and the last layer
RETINANET, FCOS = "retinanet.", "fcos."  # one-stage heads
HEADS = (RPN, HEAD, RETINANET, FCOS)
TOWERS = ("class_tower.", "box_tower.")  # of a one-stage head
AFFINE = (".gamma", ".beta")  # trained tensors of a norm
STATISTICS = (".moving_mean", ".moving_variance")  # of norms: weights, but no parameters
BIAS = ".bias"


def part_of(name: str) -> str:
    """Part of a net that a tensor belongs to, as the prefix of its name; "" for none of them."""
    parts = (STEM, BLOCKS, COPIES, CONNECT, NECK, *HEADS, SCORE)
    return next((part for part in parts if name.startswith(part)), "")


def block_name(index: int | None, rest: str = "") -> str:
    """Name of a block of the main stages, or of its tensor `rest`."""
    return f"{BLOCKS}{index}.{rest}"


def copied_block_name(stage: int, copy: int | None, position: int) -> str:
    """Name prefix of a block of a copy that has separate weights."""
    return f"{COPIES}{stage}.{copy}.{position}."


def connection_name(stage: int, copy: int) -> str:
    """Name prefix of the connection of a copy."""
    return f"{CONNECT}{stage}.{copy}."


def convolution_of(layer: str) -> str:
    """Name of the convolution, within a block or a stem, of the layer that this part (the convolution or its norm) belongs to."""
    return layer.replace("bn", "conv")


def is_detector(names: Iterable[str]) -> bool:
    """Whether these are tensor names of a detector, not of a classifier."""
    return any(name.startswith((NECK, *HEADS)) for name in names)


def one_stage_head(names: Iterable[str]) -> str:
    """Name prefix of the one-stage head of a detector with these tensors; "" where it has none."""
    return next((head for name in names for head in (RETINANET, FCOS) if name.startswith(head)), "")
