"""Operators of the compiled graphs, as MindSpore's primitives.

The graph compiler parses each Python function that a graph calls, and simplifies it later: `x.max(1)` is 190 nodes on the way, `ops.topk`
44, the primitive one. A training graph that calls primitives compiles in half of the time (`make bench` measures it).
"""

from typing import Any

from mindspore import ops

cast = ops.Cast()
both = ops.LogicalAnd()
exp = ops.Exp()
expand_dims = ops.ExpandDims()
floor = ops.Floor()
gather = ops.Gather()
gather_elements = ops.GatherD()
log = ops.Log()
log_softmax = ops.LogSoftmax(-1)
maximum = ops.Maximum()
minimum = ops.Minimum()
ones_like = ops.OnesLike()
relu = ops.ReLU()
reshape = ops.Reshape()
rsqrt = ops.Rsqrt()
select = ops.Select()
sigmoid = ops.Sigmoid()
slice_strided = ops.StridedSlice()
softmax = ops.Softmax(-1)
sqrt = ops.Sqrt()
stack_last = ops.Stack(-1)
topk = ops.TopK()
total = ops.ReduceSum()
transpose = ops.Transpose()
unstack_last = ops.Unstack(-1)
zeros_like = ops.ZerosLike()
binary_cross_entropy = ops.BCEWithLogitsLoss("none")  # of scores, labels, weights and weights of the positive, all of one shape
smooth_l1 = ops.SmoothL1Loss(1 / 9, "none")
softplus = ops.Softplus()
absolute = ops.Abs()
largest = ops.ReduceMax()
floor_divide = ops.FloorDiv()

each = ops.HyperMap()  # a function for each element of nested tuples


@ops.constexpr  # type: ignore[untyped-decorator]
def row_slices(shape: tuple[int, int], size: int) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """Begin and end, for `slice_strided`, of the slices of (rows, columns) that have at most `size` rows."""
    rows, columns = shape
    return tuple(((first, 0), (min(first + size, rows), columns)) for first in range(0, rows, size))


def constant(*inputs: Any) -> Any:
    """Zeros for all inputs of a cell whose outputs count as constants: with this as its `bprop`, it is not differentiated."""
    return each(zeros_like, inputs)
