"""Operators of a compiled graph, read from the text that MindSpore saves of it (`MS_DEV_SAVE_GRAPHS`): names, dtypes and shapes.

A node is three lines or more: ``%3(name) = Conv2D(%1, %2) {...}``, then the types and shapes of its inputs and outputs,
``: (<Tensor[Float32], (2, 3, 64, 64)>, <Ref[...]>) -> (<...>)``, then its scope and comments. -1 is a dimension, -2 a rank that is unknown
before the graph runs. Format as of MindSpore 2.8; a node of another form is an error, so that none is overlooked.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

CALL = "call"  # of a subgraph: named, or one of several
_NODE = re.compile(r"  %\d+\([^)]*\) = (?:(?:PrimFunc_)?(\w+)\(|(?:call @|%\d+)[^(]*)")
_SIGNATURE = re.compile(r"(?m)^      : (\(.*\) -> \(.*\))$")
_TENSOR = re.compile(r"Tensor\[(\w+)\]")
_SHAPE = re.compile(r"\(((?:-?\d+(?:, )?)*)\)")
_SCOPE = re.compile(r"(?m)^      # Fullname with scope: \((.*)\)$")


@dataclass(frozen=True)
class Operator:
    """One node: the primitive's name, its place in the net, dtypes of its tensors (sorted), shapes of them, those of the inputs first."""

    name: str
    scope: str
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def dynamic(self) -> bool:
        """Whether a shape is unknown before the graph runs."""
        return any(side < 0 for shape in self.shapes for side in shape)


def read_operators(text: str) -> list[Operator]:
    """Operators of all subgraphs, in order; ValueError for a node or a signature of another form."""
    return [_operator(*lines) for lines in _nodes(text)]


def _nodes(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, signature and scope of each node; a constant among its inputs may take several lines."""
    starts = [found.start() for found in re.finditer(r"(?m)^  %\d+\(", text)]
    for begin, end in pairwise([*starts, len(text)]):
        part = text[begin:end]
        node, signature, scope = _NODE.match(part), _SIGNATURE.search(part), _SCOPE.search(part)
        if not (node and signature):
            raise ValueError(f"graph, line {text.count(chr(10), 0, begin) + 1}: expected a node, got {part.strip()[:80]!r}")
        yield node[1] or CALL, signature[1], scope[1] if scope else ""


def _operator(name: str, signature: str, scope: str) -> Operator:
    shapes = tuple(tuple(int(side) for side in found.split(", ") if side) for found in _SHAPE.findall(signature))
    return Operator(name, scope, tuple(sorted(set(_TENSOR.findall(signature)))), shapes)
