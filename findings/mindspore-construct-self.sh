#!/usr/bin/env bash
# mindspore 2.8.0: in graph mode a cell whose `construct` names its first parameter other than `self` is refused for a wrong number of
# arguments.
#
# Expected (Python's data model, "Instance methods"; MindSpore's pages on graph mode, whose rules of syntax do not mention it): the name of
# the first parameter is free. So it is in PyNative mode, where the same cell computes.
# Seen with mindspore 2.8.0 (graph mode, CPU): "TypeError: The parameters number of the function is 2, but the number of provided arguments
# is 1", when the cell is compiled; nothing says that the name matters, or names the parameter. With `self` the cell compiles.
#
# Consequence for this project: all cells of spnas_core/models/ say `self`. Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check mindspore==2.8.0 "numpy<2"
cat > probe.py <<'PY'
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

ms.set_device("CPU")


class Usual(nn.Cell):
    def construct(self, x):
        return x + 1.0


class Other(nn.Cell):
    def construct(this, x):
        return x + 1.0


def call(cell, mode):
    ms.set_context(mode=mode)
    try:
        return float(cell(Tensor(np.ones(1, np.float32))).asnumpy()[0])
    except TypeError as error:
        return str(error).splitlines()[0]


usual, other, eager = call(Usual(), ms.GRAPH_MODE), call(Other(), ms.GRAPH_MODE), call(Other(), ms.PYNATIVE_MODE)
print("mindspore", ms.__version__)
print(f"graph mode, self: {usual}\ngraph mode, another name: {other}\nPyNative mode, another name: {eager}")
expected = "The parameters number of the function is 2, but the number of provided arguments is 1."
raise SystemExit(0 if (usual, other, eager) == (2.0, expected, 2.0) else 1)
PY
venv/bin/python probe.py 2> errors || { status=$?; cat errors; exit $status; }
